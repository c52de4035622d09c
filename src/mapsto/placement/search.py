"""Assignments built work by work, many at once: of two that hold the same values in the same places, one that is never
later stands for both (dynamic programming with Pareto dominance); one whose bound is not below the best known is
dropped. Exact as long as no more than `width` are alive at a time; where they were more, the least bound of those that
were dropped says how good any assignment could be.

At a value that all that follows hangs on, what is alive differs in where that value lies and in nothing else: stretches
between such values are solved one after the other by themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mapsto.placement.bounds import LARGE, prices, tails
from mapsto.placement.model import Figures, Indices, Runs
from mapsto.placement.problem import CLOSE, PlacementProblem

_NEXT = 16  # partial assignments that each is compared with, of two kinds
_OF_A_KIND = 4  # partial assignments that are kept first, of those with the same values in the same places


@dataclass(frozen=True)
class Reached:
    """seats: None where nothing better than what was known is there. bound: no assignment is below it, nor is what was
    known.
    """

    seats: list[int] | None
    seconds: float
    bound: float


def search(problem: PlacementProblem, known: float, width: int) -> Reached:
    """An assignment of less than `known` seconds, if one is found among `width` partial ones at a time."""
    return _Search(problem, known, width).run()


class _Search:
    """`path`: of each run, what its works and all that waits for them take at least. `trail`: for each work, the row
    that each row came from, and the device.
    """

    def __init__(self, problem: PlacementProblem, known: float, width: int) -> None:
        self.problem, self.known, self.width = problem, known, width
        self.after = tails(problem)
        self.seconds = np.array([w.seconds for w in problem.works]).reshape(-1, len(problem.devices))
        self.hangs = _hanging(problem)
        self.limited = np.isfinite(np.array(problem.memory or (math.inf,) * len(problem.devices)))
        self.trail: list[tuple[Indices, Indices]] = []
        self.path = np.zeros(1)
        self.dropped = math.inf

    def run(self) -> Reached:
        runs = Runs(self.problem, 1)
        for k in range(len(self.problem.works)):
            devices = np.flatnonzero(np.isfinite(self.seconds[k]))
            origin, seat = np.repeat(np.arange(len(runs)), len(devices)), np.tile(devices, len(runs))
            runs = runs.chosen(origin)
            self.path = np.maximum(self.path[origin], runs.advance(seat) + self.after[k, seat])
            self._level(runs, k)
            rows, runs = self._promising(runs, k)
            if not len(rows):
                return Reached(None, self.known, min(self.known, self.dropped))
            self.path = self.path[rows]
            self.trail.append((origin[rows], seat[rows]))
        return self._ended(runs.finish())

    def _ended(self, seconds: Figures) -> Reached:
        row = int(seconds.argmin())
        least = float(seconds[row])
        if not least < self.known * (1 - CLOSE):
            return Reached(None, self.known, min(self.known, self.dropped))
        seats = []
        for origin, seat in reversed(self.trail):
            seats.append(int(seat[row]))
            row = int(origin[row])
        return Reached(seats[::-1], least, min(least, self.dropped))

    def _level(self, runs: Runs, k: int) -> None:
        """Times before anything that is left can happen are all the same: where all that follows hangs on what was
        made, nothing begins before the first of that was.
        """
        made = [i for i, v in enumerate(runs.live) if v in self.problem.writer]
        if not self.hangs[k] or not made or runs.is_stream:
            return
        floor = runs.there[:, made].min(axis=(1, 2))[:, None]
        if len(made) == len(runs.live):
            runs.free, runs.buses = np.maximum(runs.free, floor), np.maximum(runs.buses, floor)
            return
        movers = {link.by for link in self.problem.links.values()}  # by which an input may be moved before
        others = [d for d in range(len(self.problem.devices)) if d not in movers]
        runs.free[:, others] = np.maximum(runs.free[:, others], floor)

    def _promising(self, runs: Runs, k: int) -> tuple[Indices, Runs]:
        """Rows that may still become better than the best known, `width` at most, the most promising first."""
        bound, order = self._bounds(runs, self.seconds[k + 1 :])
        rows = np.flatnonzero(bound < self.known * (1 - CLOSE))
        if not len(rows):
            return rows, runs
        rows = rows[np.lexsort((order[rows], bound[rows]))]
        better = runs.chosen(rows)
        group = _groups(better)
        kept = self._undominated(better, self.path[rows], group)
        if len(kept) > self.width:
            kept = kept[_spread(group[kept])]
            self.dropped = min(self.dropped, float(bound[rows[kept[self.width :]]].min()))
        kept = kept[: self.width]
        return rows[kept], better.chosen(kept)

    def _bounds(self, runs: Runs, left: Figures) -> tuple[Figures, Figures]:
        """What no end of each run is below, with these works left; and what is less in those that promise more."""
        if runs.adds_up:
            spent = runs.spent()
            return np.where(np.isinf(runs.ended), math.inf, spent + left.min(axis=1).sum()), spent
        price, worth = prices(left)
        even = np.full(len(price), 1 / len(price))
        evenly = float((np.minimum(left, LARGE) * even).min(axis=1).sum()) if len(left) else 0.0
        least = np.maximum(self.path, np.where(np.isinf(runs.ended), math.inf, runs.buses.max(axis=1, initial=0.0)))
        bound = np.maximum(least, np.maximum(runs.free @ price + worth, runs.free @ even + evenly))
        return bound, runs.free @ even

    def _undominated(self, runs: Runs, path: Figures, group: Indices) -> Indices:
        """Rows, in their order, that none of those that they are compared with is at least as early as in everything:
        of the ones of their group, the `_NEXT` before them and the `_NEXT` most promising.
        """
        done = [runs.spent()[:, None]] if runs.adds_up else [runs.free, runs.buses]
        times = np.concatenate(
            [
                *done, runs.there.reshape(len(runs), -1), runs.held[:, self.limited],
                runs.ended[:, None], path[:, None],
            ],
            axis=1,
        )  # fmt: skip
        order = np.argsort(group, kind="stable")
        group, columns = group[order], np.ascontiguousarray(times[order].T)
        first = np.searchsorted(group, group)  # where a row's group begins
        rows = np.arange(len(order))
        beaten = np.zeros(len(order), bool)
        for step in range(_NEXT):
            for other in (rows - 1 - step, first + step):
                open_ = np.flatnonzero(~beaten & (other >= first) & (other < rows))
                beaten[open_] = _are_no_later(columns, other[open_], open_)
        return np.sort(order[~beaten])


def _groups(runs: Runs) -> Indices:
    """A number for each row: the same for those with the same values in the same places."""
    base = max(runs.free.shape[1], 2)
    digits = np.concatenate([np.isfinite(runs.there).reshape(len(runs), -1), runs.made], axis=1, dtype=np.float64)
    at_once = int(53 / math.log2(base))  # digits that a float64 holds exactly
    found = np.zeros(len(runs), np.intp)
    for start in range(0, digits.shape[1], at_once):
        part = digits[:, start : start + at_once]
        word = part @ (float(base) ** np.arange(part.shape[1]))
        pair = found * (len(runs) + 1) + np.unique(word, return_inverse=True)[1].reshape(-1)
        found = np.unique(pair, return_inverse=True)[1].reshape(-1)
    return found


def _spread(group: Indices) -> Indices:
    """An order of rows in which the first `_OF_A_KIND` of each group come before all others: what lies in the same
    places differs little, and would crowd out what is better in the end.
    """
    order = np.argsort(group, kind="stable")
    rank = np.empty(len(group), np.intp)
    rank[order] = np.arange(len(group)) - np.searchsorted(group[order], group[order])
    return np.argsort(rank >= _OF_A_KIND, kind="stable")


def _are_no_later(columns: Figures, others: Indices, rows: Indices) -> npt.NDArray[np.bool_]:
    """Whether other rows are at least as early as rows in every column; most are not in one of the first."""
    found = np.zeros(len(rows), bool)
    left = np.arange(len(rows))
    for column in columns:
        left = left[column[others[left]] <= column[rows[left]]]
        if not len(left):
            break
    found[left] = True
    return found


def _hanging(problem: PlacementProblem) -> list[bool]:
    """After each work: whether all that are left need what was made by then, at first hand or not: whether the first of
    all that each of them needs is made by then.
    """
    first: list[float] = []
    for work in problem.works:
        before = [problem.writer[v] for v in work.reads if v in problem.writer]
        first.append(min((min(w, first[w]) for w in before), default=math.inf))
    found, latest = [], -math.inf
    for k in range(len(first) - 1, -1, -1):
        found.append(latest <= k)
        latest = max(latest, first[k])
    return found[::-1]
