"""What a work on another device would have cost the whole: the problem is solved with that seat forced."""

from __future__ import annotations

import math
from dataclasses import replace

from mapsto.placement.model import latency
from mapsto.placement.place import place
from mapsto.placement.problem import PlacementProblem
from mapsto.plan.division import NOWHERE, Alternative, DividedPlan, PlacedWork
from mapsto.session.placed import PlacedGraph, moving_less


class Forced:
    """The alternatives of the works of one placement."""

    def __init__(self, found: PlacedGraph) -> None:
        self.found = found

    def costs(self, plan: DividedPlan, work: PlacedWork) -> list[Alternative]:
        """A work of the plan on each device. The plan may be another division of the same works."""
        at = next((w for w, each in enumerate(self.found.works) if each.name == work.name), None)
        if at is None or work.device == NOWHERE:
            return []
        return [self._on(at, d, plan, work) for d in range(len(self.found.problem.devices))]

    def _on(self, at: int, device: int, plan: DividedPlan, work: PlacedWork) -> Alternative:
        problem, priced = self.found.problem, self.found.works[at].priced[device]
        name = problem.devices[device]
        if priced.reason:
            return Alternative(work.name, name, None, None, priced.reason)
        if name == work.device:
            seats = [plan.names.index(each.device) if each.device in plan.names else seat
                     for each, seat in zip(plan.works, self.found.placement.seats, strict=True)]  # fmt: skip
            method = "" if plan.total is None else f", found by {plan.total.method}"
            return Alternative(work.name, name, priced.seconds, latency(problem, seats), f"as it is{method}", True)
        if not math.isfinite(problem.works[at].seconds[device]):
            return Alternative(work.name, name, priced.seconds, None, "a pin has it elsewhere")
        forced = _forced(problem, at, device)
        placement = moving_less(forced, place(forced))
        said = f"{placement.said} with it there, found by {placement.method}"
        return Alternative(work.name, name, priced.seconds, placement.seconds, said)


def _forced(problem: PlacementProblem, at: int, device: int) -> PlacementProblem:
    """The problem with one work that runs on one device alone."""
    job = problem.works[at]
    kept = replace(job, seconds=tuple(s if d == device else math.inf for d, s in enumerate(job.seconds)))
    return replace(problem, works=(*problem.works[:at], kept, *problem.works[at + 1 :]))
