"""Assignments that are found at once: what others do, and what the search begins with; and all there are."""

from __future__ import annotations

import itertools
import math

import numpy as np

from mapsto.placement.model import latencies
from mapsto.placement.problem import HOST, PlacementProblem
from mapsto.solve.best import solve
from mapsto.solve.problem import Problem as Sum
from mapsto.solve.problem import Table

MOST_ASSIGNMENTS = 1 << 22
_AT_ONCE = 1 << 14


def by_support(problem: PlacementProblem) -> list[int]:
    """Each work on the first device that takes it, the fastest first: what tools do that ask devices what they support,
    and not what that costs.
    """
    totals = [
        math.fsum(min(work.seconds[d], 1e3 * min(work.seconds)) for work in problem.works)
        for d in range(len(problem.devices))
    ]
    order = sorted(range(len(problem.devices)), key=lambda d: totals[d])
    return [next(d for d in order if work.seconds[d] < math.inf) for work in problem.works]


def alone(problem: PlacementProblem, device: int) -> list[int]:
    """All on one device, but for what it does not take."""
    return [
        device if work.seconds[device] < math.inf else int(np.argmin(work.seconds)) for work in problem.works
    ]


def heft(problem: PlacementProblem) -> list[int]:
    """Works by their upward rank, each where it ends first, gaps between earlier ones used (Topcuoglu, Hariri and Wu,
    IEEE Trans. Parallel Distrib. Syst. 13, 2002).
    """
    ranks = _upward_ranks(problem)
    busy: list[list[tuple[float, float]]] = [[] for _ in problem.devices]
    seats = [HOST] * len(problem.works)
    ends = [0.0] * len(problem.works)
    for k in sorted(range(len(problem.works)), key=lambda k: (-ranks[k], k)):
        work = problem.works[k]
        best = (math.inf, math.inf, 0)
        for d, seconds in enumerate(work.seconds):
            if seconds == math.inf:
                continue
            ready = 0.0
            for v in work.reads:
                w = problem.writer.get(v)
                made, at = (0.0, HOST) if w is None else (ends[w], seats[w])
                ready = max(ready, made + problem.move(v, at, d))
            begin = _gap(busy[d], ready, seconds)
            best = min(best, (begin + seconds, begin, d))
        ends[k], begin, seats[k] = best
        busy[seats[k]].append((begin, ends[k]))
        busy[seats[k]].sort()
    return seats


def _gap(busy: list[tuple[float, float]], ready: float, seconds: float) -> float:
    """When a device has so much time in one go, from `ready` on."""
    begin = ready
    for start, end in busy:
        if begin + seconds <= start:
            break
        begin = max(begin, end)
    return begin


def _upward_ranks(problem: PlacementProblem) -> list[float]:
    devices = range(len(problem.devices))
    ranks = [0.0] * len(problem.works)
    for k in range(len(problem.works) - 1, -1, -1):
        after = 0.0
        for v in problem.works[k].writes:
            moves = [m for a in devices for b in devices if a != b and (m := problem.move(v, a, b)) < math.inf]
            mean = math.fsum(moves) / len(moves) if moves else 0.0
            after = max([after, *(mean + ranks[r] for r in problem.readers.get(v, ()))])
        own = [s for s in problem.works[k].seconds if s < math.inf]
        ranks[k] = math.fsum(own) / len(own) + after
    return ranks


def additive(problem: PlacementProblem) -> list[int]:
    """Least sum of all works and transfers: the best where nothing runs at once. Exact where elimination is."""
    count = len(problem.devices)
    names = [f"w{k}" for k in range(len(problem.works))]
    tables = [Table((names[k],), np.array(work.seconds)) for k, work in enumerate(problem.works)]
    for v in {v for work in problem.works for v in work.reads} | set(problem.outputs):
        moves = problem.moves(v)
        w = problem.writer.get(v)
        for r in problem.readers.get(v, ()):
            tables.append(
                Table((names[r],), moves[HOST]) if w is None else Table((names[w], names[r]), moves)
            )
        if w is not None and v in problem.outputs:
            tables.append(Table((names[w],), moves[:, HOST]))
    start = dict(zip(names, by_support(problem), strict=True))
    choice = solve(Sum(dict.fromkeys(names, count), tuple(tables)), start).choice
    return [choice[name] for name in names]


def in_stretches(problem: PlacementProblem) -> list[int]:
    """The best of the assignments whose works are on one device up to some work, and on another one from there on (all
    on one device among them): those that move the least.
    """
    count, devices = len(problem.works), range(len(problem.devices))
    pairs = [(a, b) for a in devices for b in devices if a != b] or [(HOST, HOST)]
    tried = np.array([[a] * k + [b] * (count - k) for a, b in pairs for k in range(count + 1)], np.intp)
    for k, work in enumerate(problem.works):  # what a device does not take stays where it can be
        there = np.array([d if s < math.inf else int(np.argmin(work.seconds)) for d, s in enumerate(work.seconds)])
        tried[:, k] = there[tried[:, k]]
    seconds = latencies(problem, tried)
    return [int(d) for d in tried[int(seconds.argmin())]]


def exhaustive(problem: PlacementProblem) -> list[int]:
    """The best of all assignments. Raises ValueError where they are too many to be tried."""
    allowed = [[d for d, s in enumerate(work.seconds) if s < math.inf] for work in problem.works]
    if math.prod(map(len, allowed)) > MOST_ASSIGNMENTS:
        raise ValueError(f"more than {MOST_ASSIGNMENTS:,} assignments")
    best, least = [HOST] * len(allowed), math.inf
    every = itertools.product(*allowed)
    while part := list(itertools.islice(every, _AT_ONCE)):
        seconds = latencies(problem, np.array(part, np.intp).reshape(len(part), -1))
        row = int(seconds.argmin())
        if seconds[row] < least:
            best, least = list(part[row]), float(seconds[row])
    return best
