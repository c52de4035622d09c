"""The way in: an assignment, what it takes, and how far from the best it may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mapsto.placement.bounds import lower_bound
from mapsto.placement.model import Indices, latencies, latency
from mapsto.placement.problem import CLOSE, PLACERS, PlacementProblem
from mapsto.placement.search import search
from mapsto.placement.simple import additive, alone, by_support, exhaustive, heft

# Works times partial assignments at a time, of one search after the other: more where fewer left something open.
_SEARCHES = (1 << 13, 1 << 16, 5 << 16)
_WIDEST = 1 << 14  # partial assignments at a time
_MOST_ROUNDS = 30  # of local search
_AT_ONCE = 1 << 11  # changed assignments of more than one work in a row: fewer take about as long
_TOGETHER = 16  # changes that each make it better, made together


@dataclass(frozen=True)
class Placement:
    """seats: the device of each work. seconds: what the objective says of them. bound: no assignment takes less.
    method: what found it. others: what the simple ways would have taken.
    """

    seats: tuple[int, ...]
    seconds: float
    bound: float
    method: str
    others: tuple[tuple[str, float], ...] = ()

    @property
    def gap(self) -> float:
        """How much too long it may take at most, as a share of the bound."""
        if self.seconds == self.bound:
            return 0.0
        return self.seconds / self.bound - 1 if self.bound > 0 else math.inf

    @property
    def said(self) -> str:
        if self.seconds == math.inf:
            return "there is no assignment" if self.bound == math.inf else "no assignment was found"
        return "proved optimal" if self.gap <= CLOSE else f"within {self.gap:.1%} of the bound"


def place(problem: PlacementProblem, placer: str = "exact") -> Placement:
    """Seats for which the objective is least. `placer`: one of `PLACERS`; all but "exact" are there to compare with.

    The same problem gives the same seats: the search is bounded by counts, not by time. Never worse than any of the
    simple ways. Raises ValueError for a placer that is not there, and by "exhaustive" for too many assignments.
    """
    simple: dict[str, Callable[[PlacementProblem], Sequence[int]]] = {"greedy": by_support, "heft": heft}
    if placer in simple:
        seats = list(simple[placer](problem))
        seconds = latency(problem, seats)
        return Placement(tuple(seats), seconds, min(lower_bound(problem), seconds), placer)
    if placer == "exhaustive":
        seats = exhaustive(problem)
        seconds = latency(problem, seats)
        return Placement(tuple(seats), seconds, seconds, placer)
    if placer != "exact":
        raise ValueError(f"placer {placer!r}; there are {', '.join(PLACERS)}")
    return _exact(problem)


def _exact(problem: PlacementProblem) -> Placement:
    ways: list[tuple[str, list[int]]] = [("greedy", by_support(problem)), ("heft", heft(problem))]
    ways.append(("additive", additive(problem)))
    ways += [(f"all on {name}", alone(problem, d)) for d, name in enumerate(problem.devices)]
    others = tuple((name, latency(problem, seats)) for name, seats in ways)
    method, seats = min(zip(others, ways, strict=True), key=lambda each: each[0][1])[1]
    seconds = latency(problem, seats)
    bound = min(lower_bound(problem), seconds)
    descended = None  # seats that no change of this kind makes better
    for steps in _SEARCHES:
        if seats is not descended:
            improved = _improved(problem, seats, seconds)
            if improved is not None:
                seats, seconds, method = *improved, "local search"
            descended = seats
        if seconds <= bound * (1 + CLOSE):
            break
        found = search(problem, seconds, min(max(steps // len(problem.works), 16), _WIDEST))
        if found.seats is not None:
            seats, method = found.seats, "search"
            seconds = latency(problem, seats)
        bound = min(max(bound, found.bound), seconds)
    bound = min(bound, seconds)
    return Placement(tuple(seats), seconds, bound, method, others)


def _improved(problem: PlacementProblem, seats: Sequence[int], seconds: float) -> tuple[list[int], float] | None:
    """What changing single works, and runs of works that follow one another, makes better: the best of all such
    changes, as long as there is one.
    """
    best, least = np.array(seats, np.intp), seconds
    allowed = np.isfinite(np.array([work.seconds for work in problem.works]))
    length, rounds = 1, 0
    while length <= len(best) and rounds < _MOST_ROUNDS:
        rounds += 1
        tried = _changed(best, length, allowed)
        length *= 2
        while 2 < length <= len(best) and len(tried) < _AT_ONCE:
            tried = np.concatenate([tried, _changed(best, length, allowed)])
            length *= 2
        takes = latencies(problem, tried) if len(tried) else np.array([math.inf])
        better = np.flatnonzero(takes < least * (1 - CLOSE))
        if len(better):
            better = better[takes[better].argsort(kind="stable")][:_TOGETHER]
            tried, takes = tried[better], takes[better]
            joined = _joined(best, tried)
            tried, takes = np.concatenate([tried, joined]), np.concatenate([takes, latencies(problem, joined)])
            row = int(takes.argmin())
            best, least, length = tried[row], float(takes[row]), 1
    return ([int(d) for d in best], least) if least < seconds else None


def _joined(seats: Indices, changed: Indices) -> Indices:
    """The first two of these changes of seats together, the first three, and so on."""
    found, joined = [], changed[0].copy()
    for each in changed[1:]:
        joined = np.where(each != seats, each, joined)
        found.append(joined)
    return np.array(found, np.intp).reshape(len(found), len(seats))


def _changed(seats: Indices, length: int, allowed: npt.NDArray[np.bool_]) -> Indices:
    """Assignments that differ in `length` works in a row, which are all on one device then."""
    found = []
    for device in range(allowed.shape[1]):
        for first in range(len(seats) - length + 1):
            part = slice(first, first + length)
            if allowed[part, device].all() and (seats[part] != device).any():
                changed = seats.copy()
                changed[part] = device
                found.append(changed)
    return np.array(found, np.intp).reshape(len(found), len(seats))
