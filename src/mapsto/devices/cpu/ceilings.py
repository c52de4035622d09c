"""What this processor does at most, measured beside what is timed: clocks and neighbours change from minute to minute.

The probes are those that costs are measured by (`probes`). Each look at them takes a few milliseconds a probe, and the
most that any look saw counts: a kernel that is faster than that was not measured well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from mapsto.devices.cpu import isa as isas
from mapsto.devices.cpu import probes as making
from mapsto.devices.cpu.caches import Cache, caches
from mapsto.devices.cpu.host import host_machine
from mapsto.devices.cpu.measure import Lab, figures_of, timed
from mapsto.machine.spec import DeviceSpec, Level

_WAYS = ((0, False), (0, True), (1024, True), (2048, True))  # bytes that are asked for ahead, and whether apart
_MOST = 128 << 20  # bytes of an array
_ROOM = 8 << 20  # bytes of an array, at least: as the memory of a run, it lies in large pages then
_RANGE = 1 << 20  # units that share memory, at most


def _sizes(known: Sequence[Cache]) -> list[int]:
    """Bytes that a level gives the fastest: few, but more than the level before holds."""
    nearer = [int(cache.bytes) for cache in known[:-1]]
    holds = [int(min(cache.bytes / 2, _MOST)) for cache in known[1:]]
    return [nearer[0] // 2, *(min(4 * before, size) for before, size in zip(nearer, holds, strict=True))]


class Ceilings:
    """The most of each figure that looks have seen. threads: that work at once."""

    def __init__(self, threads: int) -> None:
        self._isa = isas.host()
        self._threads = threads
        self._typical = host_machine(self._isa).machine.host
        self._known = [*caches(), Cache("memory", math.inf, _RANGE)]
        sizes = _sizes(self._known)
        self._reading = [[making.streaming(self._isa, size, False, *way) for way in _WAYS] for size in sizes]
        self._writing = [making.streaming(self._isa, size, True) for size in sizes]
        streams = [probe for probes in self._reading for probe in probes]
        self._probes = [*making.probes(self._isa), *streams, *self._writing]
        self._lab = Lab(self._isa, room=_ROOM)
        self._calls = self._lab.calls(self._probes)
        self._rounds = [self._lab.rounds(call) for call in self._calls]
        self._least = [math.inf] * len(self._probes)
        self._together = [0.0] * len(self._known)
        self.looks = 0

    def look(self) -> None:
        """Measures once more."""
        for number, (call, rounds, probe) in enumerate(zip(self._calls, self._rounds, self._probes, strict=True)):
            self._least[number] = min(self._least[number], timed(call, rounds) / rounds / probe.count)
        for number, (cache, (probe, *_)) in enumerate(zip(self._known, self._reading, strict=True)):
            sharing = min(cache.units, self._threads)
            if sharing > 1 and self.looks % 4 == 0:  # which takes longer: threads are started
                self._together[number] = max(self._together[number], self._lab.together(probe, sharing))
        self.looks += 1

    def spec(self) -> DeviceSpec:
        """A device of these figures, as costs know them."""
        least = dict(zip((probe.name for probe in self._probes), self._least, strict=True))
        figures = figures_of(least, self._isa)
        levels = tuple(
            self._level(number, 1.0 / min(least[probe.name] for probe in reads), 1.0 / least[write.name])
            for number, (reads, write) in enumerate(zip(self._reading, self._writing, strict=True))
        )
        return replace(self._typical, **figures, levels=levels, units=self._threads, source="measured")

    def _level(self, number: int, read: float, write: float) -> Level:
        cache = self._known[number]
        sharing = min(cache.units, self._threads)
        return Level(cache.name, cache.bytes, read, write, sharing, max(self._together[number], read, write))
