"""What work costs on a device, in closed form: a tally of what a kernel does, priced by the device's figures.

    compute = products/peak + elements*rate + moves + loops            (the multiply and vector units, one unit's work)
    reading, writing = sum over operands of bytes / bandwidth of the level that holds them
    seconds = launch + barrier + the longest of (compute of the largest share, reading, writing) + half of the others

A tally knows of no graph and no layout; `plan.row_tally`, `plan.contraction_tally` and `plan.routine_tally` make those
of tasks. Nothing is scheduled here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from mapsto.machine.spec import DeviceSpec, Level, ProductTypes

# Class of each scalar function of `kernel.ast.SCALAR_FNS` on floats; one that is not here costs as `add`.
CLASS_OF: Mapping[str, str] = {
    "max": "max", "min": "max", "div": "divide", "sqrt": "sqrt", "exp": "exp", "expm1": "exp", "log": "log",
    "log1p": "log", "tanh": "tanh", "erf": "erf", "sigmoid": "sigmoid", "pow": "pow",
    **dict.fromkeys(("sin", "cos", "tan", "asin", "acos", "atan"), "sin"),
    **dict.fromkeys(("sinh", "cosh", "asinh", "acosh", "atanh"), "sin"),
    "mod": "integer_divide", "fmod": "integer_divide",
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Seconds of a kernel, bytes that it moves between memory levels and registers' neighbour, scalar operations
    (a multiply-add counts two), and joules where the device's power is known. Costs add up.
    """

    seconds: float = 0.0
    bytes: float = 0.0
    operations: float = 0.0
    joules: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds,
            self.bytes + other.bytes,
            self.operations + other.operations,
            self.joules + other.joules,
        )


@dataclass(frozen=True)
class Stream:
    """An operand as memory sees it: `bytes` that pass, all rounds over it counted.

    distance: bytes that were touched since it was touched last (its own included): it comes from the nearest level that
    holds as many (`DeviceSpec.found_in`). again: it passed in this kernel before.
    """

    bytes: float
    distance: float
    writes: bool = False
    again: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Tally:
    """What a kernel does, lanes that do nothing included.

    products: multiply-adds by their element types, divided by the share of the peak that the maker's code reaches.
    elements: elements of 32 bits in vectors, by class of `spec.RATES` or `spec.MULTIPLY_ADD`. scalar: simple operations
    on one element.
    moves: elements of 32 bits by class of `spec.MOVES`. loops: how often a loop is entered. chain: sums, one after the
    other, that wait for one another. shares: parts that units can take. launches: steps. operations: for `Cost`.
    """

    products: Mapping[ProductTypes, float] = field(default_factory=dict)
    elements: Mapping[str, float] = field(default_factory=dict)
    moves: Mapping[str, float] = field(default_factory=dict)
    scalar: float = 0.0
    loops: float = 0.0
    chain: float = 0.0
    streams: tuple[Stream, ...] = ()
    shares: float = math.inf
    launches: int = 1
    operations: float = 0.0


def price(tally: Tally, spec: DeviceSpec, threads: int = 1) -> Cost:
    """The cost of one kernel on a device. `threads`: units that may take part; they do where that pays."""
    units = max(min(threads, spec.units, int(min(tally.shares, spec.units))), 1)
    alone = _priced(tally, spec, 1)
    return alone if units == 1 else min(alone, _priced(tally, spec, units), key=lambda cost: cost.seconds)


def _priced(tally: Tally, spec: DeviceSpec, units: int) -> Cost:
    compute = max(busy_seconds(tally, spec), tally.chain * spec.latency) * _largest_share(tally.shares, units)
    alike = Counter(tally.streams)  # of a kernel's many operands, most are as large and as far as others
    reading = sum(n * stream_seconds(s, spec, units) for s, n in alike.items() if not s.writes)
    writing = sum(n * stream_seconds(s, spec, units) for s, n in alike.items() if s.writes)
    waiting = spec.barrier if units > 1 else 0.0
    seconds = tally.launches * (spec.launch + waiting) + overlapped(compute, reading, writing)
    joules = 0.0 if spec.power is None else seconds * (spec.power.idle + units * spec.power.unit) + _moved(tally, spec)
    return Cost(seconds, sum(s.bytes for s in tally.streams), tally.operations, joules)


@dataclass(frozen=True)
class Parts:
    """Seconds that a kernel's arithmetic takes by itself, its operands by themselves, and starting it."""

    arithmetic: float = 0.0
    bytes: float = 0.0
    launches: float = 0.0

    def __add__(self, other: Parts) -> Parts:
        return Parts(
            self.arithmetic + other.arithmetic, self.bytes + other.bytes, self.launches + other.launches
        )


def parts(tally: Tally, spec: DeviceSpec) -> Parts:
    """What `price` is made of, on all units of the device."""
    units = max(int(min(spec.units, tally.shares)), 1)
    arithmetic = max(busy_seconds(tally, spec), tally.chain * spec.latency) * _largest_share(tally.shares, units)
    moved = sum(stream_seconds(s, spec, units) for s in tally.streams)
    return Parts(arithmetic, moved, tally.launches * (spec.launch + (spec.barrier if units > 1 else 0.0)))


def working_joules(tally: Tally, spec: DeviceSpec, times: float = 1.0) -> float:
    """What a kernel takes on top of what the device takes doing nothing, if it goes on `times` as long as predicted."""
    if spec.power is None:
        return 0.0
    cost, moved = price(tally, spec, spec.units), _moved(tally, spec)
    return (cost.joules - cost.seconds * spec.power.idle - moved) * times + moved


def _moved(tally: Tally, spec: DeviceSpec) -> float:
    """Joules of the bytes of the farthest level, and of the products, that come on top of what units take."""
    assert spec.power is not None
    far = sum(s.bytes * share for s in tally.streams for v, share in spec.found_in(s.distance) if v is spec.levels[-1])
    products = sum(n * spec.power.products.get(types, 0.0) for types, n in tally.products.items())
    return far * spec.power.byte + products


def overlapped(*parts: float) -> float:
    """Seconds of things that go on at once, some of the time: the longest, and half of the others. They take no less
    than the longest and no more than all, so that two are right to a factor of 4/3, however they overlap.
    """
    longest = max(parts)
    return longest + (sum(parts) - longest) / 2


def busy_seconds(tally: Tally, spec: DeviceSpec) -> float:
    """Seconds of one unit that does all of it, with operands in the nearest level."""
    found = sum(count / spec.peak(*types) for types, count in tally.products.items())
    found += sum(count * spec.rate(kind) for kind, count in tally.elements.items())
    found += sum(count * spec.moves[kind] for kind, count in tally.moves.items())
    return max(found, tally.scalar * spec.scalar) + tally.loops * spec.loop


def stream_seconds(stream: Stream, spec: DeviceSpec, units: int) -> float:
    """What an operand takes longer to come, or to go, than if it were in the nearest level, which moves count."""
    near = bandwidth(spec.levels[0], stream.writes, units)
    found = spec.found_in(stream.distance)
    return sum(
        max(stream.bytes * share / bandwidth(level, stream.writes, units) - stream.bytes * share / near, 0.0)
        for level, share in found
    )


def bandwidth(level: Level, writes: bool, units: int) -> float:
    """Bytes a second that so many units get from a level, or store into it, together."""
    return min(units * (level.write if writes else level.read), level.together * math.ceil(units / level.units))


def _largest_share(shares: float, units: int) -> float:
    """The part of the work that the unit with the most of it has."""
    if shares == math.inf or shares <= 0:
        return 1.0 / units
    return math.ceil(shares / units) / shares
