"""What was decided of a model on several devices, as a plan: each work with what it takes elsewhere, what the whole
would, and why it is where it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mapsto.placement.model import latencies, latency
from mapsto.placement.problem import CLOSE, PlacementProblem
from mapsto.plan.division import EVERYWHERE, NOWHERE, DividedPlan, PlacedWork, PlannedDevice, PlannedPart, Total
from mapsto.plan.placing import Considered, HandOver
from mapsto.runtime.divisions import DividedPart
from mapsto.session.placed import AskedOf, PlacedGraph
from mapsto.version import VERSION

_FIGURES = 1 << 24  # seats at a time whose costs are looked at
_MOST_WORKS = 1500  # beyond, what moving single works costs is not looked at


def planned(
    found: PlacedGraph, asked: AskedOf, parts: Sequence[DividedPart], copies: tuple[float, str] | None = None
) -> DividedPlan:
    """The plan of a placement whose parts are compiled. copies: seconds of a run where each device has all of it, and
    how they are known.
    """
    names, place = found.problem.devices, found.placement
    devices = tuple(
        PlannedDevice(name, maker, _short(c.contraction), _short(c.rows), h.begins, h.copies, power)
        for name, maker, c, h, power in zip(
            names, asked.makers, asked.corrections, asked.handing or (HandOver(),) * len(names),
            found.powers or (None,) * len(names), strict=True,
        )
    )
    total = Total(_short(place.seconds), _short(place.bound), place.method)
    others = [(way, _short(seconds)) for way, seconds in place.others]
    if copies is not None:
        others.insert(0, ("divided", total.seconds))
        total = Total(_short(copies[0]), 0.0, copies[1])
    works = placed_works(found, asked, copies is not None)
    return DividedPlan(
        found.graph.name, devices, found.digest, VERSION, asked.objective, asked.placer, asked.pins,
        copies is not None, found.shares, total, tuple(others), works, planned_parts(parts), asked.limits, found.axes,
    )  # fmt: skip


def planned_parts(parts: Sequence[DividedPart]) -> tuple[PlannedPart, ...]:
    """The plans of parts that are compiled."""
    return tuple(PlannedPart(part.device, part.executable.plan_text) for part in parts)


def placed_works(found: PlacedGraph, asked: AskedOf, everywhere: bool = False) -> tuple[PlacedWork, ...]:
    """Works where they are. everywhere: each device has all of them."""
    names, seats = found.problem.devices, found.placement.seats
    present = latency(found.problem, seats)  # for energy as if nothing ran at once, as what it is held against
    losses = [{}] * len(found.works) if everywhere else lost_by_moving(found.problem, seats, present)
    return tuple(
        replace(
            _work(work, NOWHERE if not work.nodes else EVERYWHERE if everywhere else names[seat], names, loss, asked),
            ends_part=w in found.ends,
        )
        for w, (work, seat, loss) in enumerate(zip(found.works, seats, losses, strict=True))
    )


def _work(
    work: Considered, device: str, names: Sequence[str], losses: dict[int, float], asked: AskedOf
) -> PlacedWork:
    said = list(zip(names, work.priced, strict=True))
    takes = tuple((name, _short(p.seconds)) for name, p in said if not p.reason)
    refuses = tuple((name, p.reason) for name, p in said if p.reason)
    beaten = tuple((names[d], _short(seconds)) for d, seconds in losses.items() if device != NOWHERE)
    made = PlacedWork(work.name, device, work.nodes, work.ops, work.sources, takes, refuses, beaten)
    return replace(made, because=_reason(made, asked))


def _reason(work: PlacedWork, asked: AskedOf) -> str:
    if work.device == NOWHERE:
        return "a copy, which the part that needs it makes"
    if work.device == EVERYWHERE:
        return "each device has all of the model"
    pin = next((pattern for pattern, device in asked.pins if device == work.device and work.matches(pattern)), None)
    if pin is not None:
        return f"pinned there by {pin}"
    takes = dict(work.takes)
    if len(takes) == 1:
        return "no other device takes it"
    if asked.objective == "energy" and all(joules >= 0 for _, joules in work.beaten):
        return "the whole takes no more joules than with it elsewhere"
    if any(seconds < 0 for _, seconds in work.beaten):
        return "not the best place, as far as single works are moved"
    if takes and takes[work.device] <= min(takes.values()):
        return "no device takes it sooner"
    return "it takes less elsewhere, and the whole more: values would be moved, or others wait"


def lost_by_moving(problem: PlacementProblem, seats: Sequence[int], seconds: float) -> list[dict[int, float]]:
    """For each work, by other devices: how much longer the whole takes with this work alone there."""
    found: list[dict[int, float]] = [{} for _ in seats]
    if len(seats) > _MOST_WORKS or not math.isfinite(seconds):
        return found
    moves = [
        (w, d) for w, job in enumerate(problem.works) for d, s in enumerate(job.seconds)
        if d != seats[w] and math.isfinite(s)
    ]  # fmt: skip
    step = max(_FIGURES // max(len(seats), 1), 1)
    for first in range(0, len(moves), step):
        some = moves[first : first + step]
        rows = np.tile(np.array(seats, np.intp), (len(some), 1))
        for row, (w, d) in enumerate(some):
            rows[row, w] = d
        for (w, d), takes in zip(some, latencies(problem, rows), strict=True):
            loss = float(takes) - seconds
            found[w][d] = 0.0 if abs(loss) <= CLOSE * seconds else loss
    return found


def _short(seconds: float) -> float:
    """As plans have it: some digits."""
    return float(f"{seconds:.4g}")
