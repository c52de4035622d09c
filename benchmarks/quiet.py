"""Ways of doing the same work by turns, and what each reaches while nobody else takes the cores' time.

On cores whose other hardware threads belong to somebody else, the same run takes 1 to 1.7 times as long from one second
to the next. A sample counts as quiet where a loop that such neighbours slow down (`benchmarks.contraction.canary`) kept
its best pace on all cores just before and just after.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.contraction.canary import canary
from benchmarks.contraction.measure import best
from mapsto.devices.cpu.isa import host

_CALLS = 25  # of the loop, some 1 ms on each core
_QUIET = 0.93  # of its best pace
_WANTED = 7  # quiet samples of each way


@dataclass(frozen=True)
class Samples:
    """Of one way: the median of quiet ones, or of all where there were too few (`judged` is False then), and how many
    of all were quiet.
    """

    median: float
    judged: bool
    quiet: int
    count: int


def by_turns(
    ways: Mapping[str, Callable[[], float]], cores: Sequence[int], seconds: float, wanted: int = _WANTED
) -> dict[str, Samples]:
    """ways: each gives one sample. The first of each does not count: it touches the memory. Goes on until each was
    measured often enough in quiet, or so many seconds.
    """
    for way in ways.values():
        way()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    end = time.monotonic() + seconds
    while not _enough(found, wanted) and (time.monotonic() < end or _rounds(found) < wanted):
        for name, way in ways.items():
            before = _pace(cores)
            sample = way()
            found[name].append((sample, min(before, _pace(cores))))
    least = _quiet_at(found)
    return {name: _judged(samples, least, wanted) for name, samples in found.items()}


def _rounds(found: Mapping[str, Sequence[tuple[float, float]]]) -> int:
    return min(len(samples) for samples in found.values())


def _enough(found: Mapping[str, Sequence[tuple[float, float]]], wanted: int) -> bool:
    if _rounds(found) < wanted:
        return False
    least = _quiet_at(found)
    return all(sum(pace >= least for _, pace in samples) >= wanted for samples in found.values())


def _judged(samples: Sequence[tuple[float, float]], least: float, wanted: int) -> Samples:
    quiet = [sample for sample, pace in samples if pace >= least]
    judged = len(quiet) >= wanted
    counted = quiet if judged else [sample for sample, _ in samples]
    return Samples(statistics.median(counted), judged, len(quiet), len(samples))


def _quiet_at(found: Mapping[str, Sequence[tuple[float, float]]]) -> float:
    return _QUIET * best(pace for _, pace in itertools.chain(*found.values()))


def _pace(cores: Sequence[int]) -> float:
    """Calls of the loop a second, on the slowest of the cores."""
    loop, before = canary(host()), os.sched_getaffinity(0)
    paces = []
    for core in cores:
        os.sched_setaffinity(0, {core})
        loop()
        begun = time.perf_counter()
        for _ in range(_CALLS):
            loop()
        paces.append(_CALLS / (time.perf_counter() - begun))
    os.sched_setaffinity(0, before)
    return min(paces)
