"""Joules of a run whose works are placed, and the seats that take the fewest: modelled, by figures of power."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from mapsto.placement.model import latency
from mapsto.placement.place import Placement
from mapsto.placement.problem import Assignment, PlacementProblem
from mapsto.plan.placing import Considered


def run_joules(works: Sequence[Considered], seats: Assignment, seconds: float, idle: float) -> float:
    """Of works where they are, and of all devices doing nothing (`idle`: their watts) for as long as a run takes."""
    return idle * seconds + math.fsum(w.priced[d].joules for w, d in zip(works, seats, strict=True))


def least_energy(
    problem: PlacementProblem, works: Sequence[Considered], idle: float, frugal: Placement, quick: Placement
) -> Placement:
    """Of seats chosen as if nothing ran at once, and those of the least time, the ones that take fewer joules, which
    its figures are then. No seats take less than each work's least, and all devices doing nothing for the least time.

    problem: of latency, in the memory that there is.
    """

    def joules(placement: Placement) -> float:
        seconds = latency(problem, placement.seats)
        return run_joules(works, placement.seats, seconds, idle) if seconds < math.inf else math.inf

    best = min(frugal, quick, key=joules)
    taken = joules(best)
    if taken == math.inf:
        return frugal
    allowed = (zip(j.seconds, w.priced, strict=True) for j, w in zip(problem.works, works, strict=True))
    least = math.fsum(min(p.joules for seconds, p in each if seconds < math.inf) for each in allowed)
    return replace(best, seconds=taken, bound=min(idle * quick.bound + least, taken), others=frugal.others)
