"""What work takes at the very least on a device: its arithmetic or its bytes, each at the most that the device does.

    arithmetic = the longest of (products / peak, for each kind of element function: elements * rate) / units
    bytes      = the longest of (bytes from a level / what it gives), reading and writing apart
    limit      = the longer of both

Kinds of operations may go through ports of their own, and levels may give at once, so nothing is added up: no kernel
can take less. Operands count once; what a schedule passes over again does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from mapsto.machine.cost import Stream, Tally, bandwidth
from mapsto.machine.spec import DeviceSpec, ProductTypes


@dataclass(frozen=True)
class Needs:
    """What a kernel cannot do without: products by their element types, elements by class, operands."""

    products: Mapping[ProductTypes, float]
    elements: Mapping[str, float]
    streams: tuple[Stream, ...]

    @property
    def operations(self) -> float:
        """A multiply-add counts two."""
        return 2 * sum(self.products.values()) + sum(self.elements.values())

    @property
    def bytes(self) -> float:
        return sum(stream.bytes for stream in self.streams)


@dataclass(frozen=True)
class Limit:
    """Seconds at least, and what bounds them: "arithmetic" or "bytes"."""

    seconds: float
    bound: str


def needs_of(
    tallies: Iterable[Tally], products: Mapping[ProductTypes, float] | None = None, held: float = math.inf
) -> Needs:
    """Of a kernel by its tallies. products: without lanes that do nothing, where they are known. held: bytes of all
    memory that a run touches, which is the farthest that anything in it can be. What is written may lie where something
    else was just read, so it need not go farther than its own bytes.
    """
    of_types: dict[ProductTypes, float] = {}
    elements: dict[str, float] = {}
    streams: list[Stream] = []
    for tally in tallies:
        for types, count in tally.products.items():
            of_types[types] = of_types.get(types, 0.0) + count
        for name, count in tally.elements.items():
            elements[name] = elements.get(name, 0.0) + count
        for stream in tally.streams:
            if not stream.again:
                farthest = stream.bytes if stream.writes else held
                streams.append(replace(stream, distance=min(stream.distance, farthest)))
    return Needs(of_types if products is None else dict(products), elements, tuple(streams))


def limit_of(needs: Needs, spec: DeviceSpec, units: int) -> Limit:
    """What so many units of a device take at least."""
    busy = [count / spec.peak(*types) for types, count in needs.products.items()]
    busy += [count * spec.rate(name) for name, count in needs.elements.items()]
    arithmetic, moved = max(busy, default=0.0) / units, _moving(needs.streams, spec, units)
    return Limit(arithmetic, "arithmetic") if arithmetic >= moved else Limit(moved, "bytes")


def _moving(streams: Iterable[Stream], spec: DeviceSpec, units: int) -> float:
    """Each operand comes from the nearest level that may hold it still."""
    seconds: dict[tuple[str, bool], float] = {}
    for stream in streams:
        for level, share in spec.found_in(stream.distance):
            key = level.name, stream.writes
            taken = stream.bytes * share / bandwidth(level, stream.writes, units)
            seconds[key] = seconds.get(key, 0.0) + taken
    return max(seconds.values(), default=0.0)
