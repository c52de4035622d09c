"""Two programs of one model by turns in one process: what the steps that differ take, and the whole run.

The order is swapped in each round, so a change of the clock or a neighbour's work meets both alike. Each round makes
both frames anew, so that memory lies elsewhere each time.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

import numpy as np

from mapsto.runtime.executable import Executable
from mapsto.runtime.profile import StepTime

_FEWEST_ROUNDS = 11
_ROUND_SECONDS = 0.01  # runs of one program in one round: as many as this takes, and at least
_FEWEST_RUNS = 3


@dataclass(frozen=True)
class Step:
    """What a step took, all of its calls in a run: seconds, the median over rounds."""

    label: str
    function: str
    seconds: float


@dataclass(frozen=True)
class Beside:
    """Seconds: of the steps that differ and of whole runs as planned (medians over rounds), and what is lost as forced
    (the median of the rounds' differences; `low`, `high`: quartiles). steps: those that differ, of each program.
    """

    planned: float
    lost: float
    low: float
    high: float
    whole: float
    whole_lost: float
    rounds: int
    steps: tuple[tuple[Step, ...], tuple[Step, ...]]

    @property
    def slower(self) -> bool:
        return self.lost > 0

    @property
    def share(self) -> float:
        return self.lost / self.planned if self.planned else 0.0


def differing(mine: Iterable[str], others: Iterable[str]) -> Mapping[str, float]:
    """Of functions that one program calls more often than the other, the share of calls that are beyond those."""
    own, known = Counter(mine), Counter(others)
    return {name: (count - known[name]) / count for name, count in own.items() if count > known[name]}


def differing_seconds(times: Sequence[StepTime], shares: Mapping[str, float], runs: int) -> float:
    """Of one run."""
    return math.fsum(t.nanoseconds * t.calls * 1e-9 * shares.get(t.function, 0.0) for t in times) / runs


def beside(planned: Executable, forced: Executable, inputs: Sequence[np.ndarray], seconds: float) -> Beside:
    """Measures both for about so many seconds."""
    both = planned, forced
    functions = [[t.function for t in exe.profile(*inputs)] for exe in both]
    shares = [differing(functions[0], functions[1]), differing(functions[1], functions[0])]
    runs = _runs(planned, inputs)
    profiles: list[list[list[StepTime]]] = [[], []]
    whole: list[list[float]] = [[], []]
    began = time.perf_counter()
    while len(whole[0]) < _FEWEST_ROUNDS or time.perf_counter() - began < seconds:
        for which in (0, 1) if len(whole[0]) % 2 == 0 else (1, 0):
            profiles[which].append(both[which].profile(*inputs, runs=runs))
            whole[which].append(_whole(both[which], inputs, runs))
    own, others = ([differing_seconds(p, shares[w], runs) for p in profiles[w]] for w in (0, 1))
    lost = [b - a for a, b in zip(own, others, strict=True)]
    low, _, high = quantiles(lost, n=4)
    whole_lost = median(b - a for a, b in zip(*whole, strict=True))
    steps = _steps(profiles[0], shares[0], runs), _steps(profiles[1], shares[1], runs)
    return Beside(median(own), median(lost), low, high, median(whole[0]), whole_lost, len(lost), steps)


def _steps(profiles: Sequence[Sequence[StepTime]], shares: Mapping[str, float], runs: int) -> tuple[Step, ...]:
    return tuple(
        Step(t[0].label, t[0].function, median(one.nanoseconds * one.calls for one in t) * 1e-9 / runs)
        for t in zip(*profiles, strict=True)
        if t[0].function in shares
    )


def _runs(exe: Executable, inputs: Sequence[np.ndarray]) -> int:
    return max(_FEWEST_RUNS, min(int(_ROUND_SECONDS / max(_whole(exe, inputs, 3), 1e-6)), 1000))


def _whole(exe: Executable, inputs: Sequence[np.ndarray], runs: int) -> float:
    """Seconds of a run."""
    exe(*inputs)
    began = time.perf_counter()
    for _ in range(runs):
        exe(*inputs)
    return (time.perf_counter() - began) / runs
