"""Times a kernel beside the peak loop, by turns, on one pinned thread."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

_SAMPLE_SECONDS = 0.004


@dataclass(frozen=True)
class Result:
    """Multiply-adds per second of the kernel and of the peak loop (medians), and the median of their ratio over the
    rounds."""

    kernel: float
    peak: float
    share: float


def pin() -> int:
    """Keep this thread on one of the processors that it may use."""
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def _seconds(call: Callable[[], object], repeats: int) -> float:
    """Processor time of this thread: what other processes take of the core does not count."""
    start = time.clock_gettime_ns(time.CLOCK_THREAD_CPUTIME_ID)
    for _ in range(repeats):
        call()
    return (time.clock_gettime_ns(time.CLOCK_THREAD_CPUTIME_ID) - start) / 1e9


def _repeats(call: Callable[[], object]) -> int:
    call()
    return max(1, round(_SAMPLE_SECONDS / max(_seconds(call, 3) / 3, 1e-7)))


def compare(
    kernel: Callable[[], object], work: float, peak: Callable[[], object], peak_work: float, rounds: int = 21
) -> Result:
    """`work` and `peak_work`: multiply-adds per call."""
    k_times, p_times = _repeats(kernel), _repeats(peak)
    kernels, peaks = [], []
    for _ in range(rounds):
        peaks.append(peak_work * p_times / _seconds(peak, p_times))
        kernels.append(work * k_times / _seconds(kernel, k_times))
    share = statistics.median(k / p for k, p in zip(kernels, peaks, strict=True))
    return Result(statistics.median(kernels), statistics.median(peaks), share)
