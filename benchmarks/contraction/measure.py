"""Times a kernel beside the peak loop, by turns, on one pinned thread, piece by piece."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.contraction.canary import QUIET

_PIECE_SECONDS = 0.0003
_WANTED = 7  # quiet samples of each piece
_LEAST_ROUNDS = 21


@dataclass(frozen=True)
class Loop:
    """What is called for comparison, the multiply-adds of one call, and what must outlive it."""

    call: Callable[[], object]
    work: float
    kept: object = None


@dataclass(frozen=True)
class Watch:
    """The loop that tells whether a core is quiet, and the peak loop of f32, beside which its pace is judged."""

    canary: Loop
    peak: Loop


@dataclass(frozen=True)
class Result:
    """Multiply-adds per second of the kernel (median) and of the peak loop (its best), the kernel's share of the peak
    in the median of all samples, and in that of quiet ones (`canary`); None: there were too few. calm: the share of
    samples that were quiet.
    """

    kernel: float
    peak: float
    share: float
    quiet: float | None
    calm: float


def pin() -> int:
    """Keep this thread on one of the processors that it may use."""
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def _seconds(call: Callable[[], object]) -> float:
    """Of one call. The clock of the wall: that of the thread is a call of the system, too long for what is so short."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e9


def compare(
    part: Callable[[int, int], Callable[[], object]],
    extent: int,
    work: float,
    peak: Loop,
    watch: Watch,
    seconds: float = 6.0,
) -> Result:
    """part: a call of the kernel for a range of its items, of `extent`; work: multiply-adds of all of them. Goes on
    until every piece was measured often enough in quiet, or so many seconds.
    """
    pieces = _pieces(part, extent)
    every: list[list[_Sample]] = [[] for _ in pieces]
    end = time.monotonic() + seconds
    while len(every[0]) < _LEAST_ROUNDS or (_least_quiet(every) < _WANTED and time.monotonic() < end):
        for piece, found in zip(pieces, every, strict=True):
            before, took, after = _seconds(watch.canary.call), _seconds(piece), _seconds(watch.canary.call)
            paces = peak.work / _seconds(peak.call), watch.peak.work / _seconds(watch.peak.call)
            found.append(_Sample(took, *paces, watch.canary.work / max(before, after)))
    pace = best(sample.peak for found in every for sample in found)
    least, calm = _quiet_at(every), [*itertools.chain(*every)]
    total = sum(statistics.median(sample.seconds for sample in found) for found in every)
    quiet = None
    if _least_quiet(every) >= _WANTED:
        quiet = work / pace / sum(statistics.median(s.seconds for s in f if s.canary >= least) for f in every)
    return Result(work / total, pace, work / total / pace, quiet, sum(s.canary >= least for s in calm) / len(calm))


class _Sample(NamedTuple):
    """Seconds of a piece, and the paces just then: of the peak loop, of that of f32, and of the canary (the slower)."""

    seconds: float
    peak: float
    steady: float
    canary: float


def best(paces: Iterable[float]) -> float:
    """What the core can do: a clock that changes, and samples that were broken off, are in the tails."""
    return statistics.quantiles(paces, n=10, method="inclusive")[-1]


def _quiet_at(every: list[list[_Sample]]) -> float:
    return QUIET * best(sample.steady for found in every for sample in found)


def _least_quiet(every: list[list[_Sample]]) -> int:
    """Quiet samples of the piece that has fewest."""
    least = _quiet_at(every)
    return min(sum(sample.canary >= least for sample in found) for found in every)


def _pieces(part: Callable[[int, int], Callable[[], object]], extent: int) -> list[Callable[[], object]]:
    whole = part(0, extent)
    whole()
    count = min(max(1, round(_seconds(whole) / _PIECE_SECONDS)), extent)
    return [part(extent * k // count, extent * (k + 1) // count) for k in range(count)]
