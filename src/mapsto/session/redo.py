"""A plan of several devices, read and done: the same seats, parts and code; or, where seats were edited, those seats,
and new plans for the parts whose nodes have changed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mapsto.arguments import brief
from mapsto.devices.backend import Backend
from mapsto.errors import ArgumentError, FileError, ModelError, ParseError
from mapsto.files import name_of, plain_file
from mapsto.ir.graph import Graph
from mapsto.ir.text import graph_digest
from mapsto.placement.model import latency
from mapsto.placement.place import Placement
from mapsto.placement.problem import HOST
from mapsto.plan.division import CHANNELS, NOWHERE, DividedPlan, PlacedWork, Total
from mapsto.plan.division_text import division_text, parse_division
from mapsto.plan.placing import Correction, HandOver
from mapsto.plan.plan import Plan
from mapsto.runtime.divisions import Division
from mapsto.session.division import copies, copies_of, division_of
from mapsto.session.energy import run_joules
from mapsto.session.fitting import beyond
from mapsto.session.parts import GraphPart, cut
from mapsto.session.placed import AskedOf, PlacedGraph, limits_text, priced
from mapsto.session.planned import placed_works, planned_parts
from mapsto.session.splitting import extents_of, split
from mapsto.version import VERSION

_LARGEST = 1 << 28  # bytes of a file


@dataclass(frozen=True)
class Redone:
    """A plan that was done. graph: with the contractions that it splits. notes: what could not be taken from it."""

    graph: Graph
    division: Division
    notes: tuple[str, ...]


def read_plan(given: Any) -> DividedPlan:
    """A plan as it is given: itself, its text, or the path of a file with that. Raises ParseError naming the line,
    FileError, ArgumentError.
    """
    if isinstance(given, DividedPlan):
        return given
    if isinstance(given, str) and ("\n" in given or not given.strip()):
        return parse_division(given)
    if not isinstance(given, (str, os.PathLike)):
        raise ArgumentError(f"plan: expected a plan of several devices, its text or a path, got {brief(given)}")
    try:
        with plain_file(name_of(given, "plan"), "plan") as file:
            data = file.read(_LARGEST + 1)
    except (ModelError, OSError) as error:
        raise FileError(f"plan: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > _LARGEST:
        raise FileError(f"plan: {brief(given)} has more than {_LARGEST} bytes")
    try:
        return parse_division(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ParseError(f"plan: byte {error.start} is no UTF-8") from None


def check_origin_of(plan: DividedPlan, graph: Graph, backends: Mapping[str, Backend]) -> None:
    """Raises ParseError, naming line and key, for a plan of another graph, or of other devices than those that are
    here.
    """
    digest = graph_digest(graph)
    made = "" if plan.version == VERSION else f" (made by mapsto {plan.version}; this is {VERSION})"
    if plan.digest and plan.digest != digest:
        said = f"graph: {plan.digest}, but this one, in these shapes, is {digest}{made}; make a plan of it"
        raise _fault(plan.lines.get("graph"), said)
    for device in plan.devices:
        here = backends[device.name].name
        if plan.works and device.maker != here:
            said = f"device {device.name}: {device.maker or 'nothing'}, but here it is {here}; make a plan for that"
            raise _fault(plan.lines.get(f"device {device.name}"), said)


def redone(
    graph: Graph, plan: DividedPlan, backends: Mapping[str, Backend], threads: int, cache: bool
) -> Redone:
    """Does a plan with works. Raises ParseError, naming line and key, for one that is not of this graph, or that cannot
    be done, saying why.
    """
    check_origin_of(plan, graph, backends)
    _check_works(plan)
    graph = _split(graph, plan)
    if plan.replicated:
        parts: Sequence[GraphPart] = copies(graph, plan.names)
    else:
        parts = cut(graph, _seats(graph, plan), ends={work.nodes[-1] for work in plan.works if work.ends_part})
    taken = _Taken(plan)
    fresh = [k for k, part in enumerate(parts) if taken.plan_of(part) is None]
    if fresh and not plan.replicated:
        plan = _edited(graph, plan, backends, threads)
    make = copies_of if plan.replicated else division_of
    division = make(parts, backends, threads, cache, taken.plan_of)
    text = division_text(replace(plan, parts=planned_parts(division.parts)))
    notes = tuple(_notes(plan, parts, fresh))
    for device, times in beyond(division, plan.limits).items():
        said = f"{limits_text(plan.limits)}: with packed weights and scratch, {device} takes {times:.3g} times that"
        raise _fault(plan.lines.get(f"limit {device}"), said)
    if plan.objective == "energy" and plan.total is not None:
        division = replace(division, joules=plan.total.seconds)
    return Redone(graph, replace(division, plan_text=text), notes)


class _Taken:
    """Plans of parts, by device and what they are of."""

    def __init__(self, plan: DividedPlan) -> None:
        self.names = plan.names
        self.plans = {(part.device, part.plan.digest): part.plan for part in plan.parts}

    def plan_of(self, part: GraphPart) -> Plan | None:
        return self.plans.get((self.names[part.device], graph_digest(part.graph)))


def _notes(plan: DividedPlan, parts: Sequence[GraphPart], fresh: Sequence[int]) -> Iterator[str]:
    for k in fresh:
        yield f"part {k} on {plan.names[parts[k].device]}: planned anew, as the plan has none for just these nodes"


def _check_works(plan: DividedPlan) -> None:
    """Raises ParseError where a work is on a device that refuses it, or elsewhere than a pin says."""
    for work in plan.works:
        why = dict(work.refuses).get(work.device)
        if why is not None:
            raise _fault(work.line, f"work {work.name}: {work.device} does not take it: {why}")
    for pattern, device in plan.pins:
        held = [work for work in plan.works if work.matches(pattern) and work.device != NOWHERE]
        line = plan.lines.get(f"pin {pattern}={device}")
        if not held:
            raise _fault(line, f"pin {pattern}={device}: no work and no node has a name like {pattern!r}")
        for work in held:
            if work.device != device and not plan.replicated:
                said = f"work {work.name}: on {work.device}, but pin {pattern}={device} (line {line}) has it there; "
                raise _fault(work.line, said + "change one of them, or leave all works out to have them placed anew")


def _split(graph: Graph, plan: DividedPlan) -> Graph:
    axes = dict(plan.split_axes)
    for value, count in plan.splits:
        axis, every = axes.get(value, CHANNELS), extents_of(graph, value)
        if not 0 < count < every.get(axis, 0):
            raise _fault(plan.lines.get(f"split {value}"), f"split {value}: {_why_not(axis, every)}")
    return split(graph, dict(plan.splits), axes) if plan.splits else graph


def _why_not(axis: str, every: Mapping[str, int]) -> str:
    if not every:
        return "it cannot be split"
    if axis not in every:
        return f"it cannot be split by {axis}; it can be by {', '.join(every)}"
    return f"of {every[axis]} {axis}, from 1 to {every[axis] - 1} can be split off"


def _seats(graph: Graph, plan: DividedPlan) -> dict[str, int]:
    """The device of each node that a work names."""
    known = {node.outputs[0].name for node in graph.nodes if node.outputs}
    number = {name: d for d, name in enumerate(plan.names)}
    found: dict[str, int] = {}
    for work in plan.works:
        for node in work.nodes:
            if node not in known:
                raise _fault(work.line, f"work {work.name}: nodes: there is no node {node!r} in this graph")
            found[node] = number[work.device]
    return found


def _edited(graph: Graph, plan: DividedPlan, backends: Mapping[str, Backend], threads: int) -> DividedPlan:
    """The plan with its works priced anew, as seats were changed."""
    corrections = tuple(Correction(d.products, d.others) for d in plan.devices)
    makers = tuple(device.maker for device in plan.devices)
    powers = tuple((d.name, d.power) for d in plan.devices if d.power is not None)
    handing = tuple(HandOver(d.begins, d.copies) for d in plan.devices)
    asked = AskedOf(plan.objective, (), plan.placer, corrections, makers, plan.limits, powers, handing, threads)
    to_place = priced(graph, backends, asked)
    works, problem = tuple(to_place.considered), to_place.problem(plan.objective, dict(plan.limits))
    of_nodes = {work.nodes: work for work in plan.works if work.nodes}
    together = {considered.nodes for considered in works}
    for work in of_nodes.values():
        if work.nodes not in together:
            raise _fault(work.line, f"work {work.name}: nodes: these are not computed together")
    seats = [HOST] * len(works)
    for w, considered in enumerate(works):
        if not considered.nodes:
            continue
        found = of_nodes.get(considered.nodes)
        if found is None:
            said = f"no work has the nodes {', '.join(considered.nodes)}"
            raise _fault(None, f"{said}; leave all works out to have them placed anew")
        seats[w] = plan.names.index(found.device)
        if why := considered.priced[seats[w]].reason:
            raise _fault(found.line, f"work {found.name}: {found.device} does not take it: {why}")
    for w, considered in enumerate(works):
        if not considered.nodes:  # it goes with whoever reads it first
            readers = [v for value in problem.works[w].writes for v in problem.readers.get(value, ())]
            seats[w] = seats[min(readers)] if readers else HOST
    seconds = latency(problem, seats)
    if seconds == math.inf:
        line = next((plan.lines.get(f"limit {device}") for device, _ in plan.limits), None)
        raise _fault(line, f"{limits_text(plan.limits)}: these seats do not keep them")
    if plan.objective == "energy":
        takes = latency(to_place.problem("latency", {}), seats)
        seconds = run_joules(works, seats, takes, to_place.idle)
    bound = plan.total.bound if plan.total is not None else 0.0
    placement = Placement(tuple(seats), seconds, min(bound, seconds), "the plan that was given")
    again = PlacedGraph(graph, works, problem, placement, plan.digest, plan.splits, axes=plan.split_axes)
    ends = {work.nodes for work in plan.works if work.ends_part}
    made = tuple(
        replace(w, ends_part=w.nodes in ends) for w in placed_works(again, replace(asked, pins=plan.pins))
    )
    total = Total(float(f"{seconds:.4g}"), placement.bound, placement.method)
    return replace(plan, total=total, works=_lined(made, plan))


def _lined(works: Sequence[PlacedWork], plan: DividedPlan) -> tuple[PlacedWork, ...]:
    lines = {work.nodes: work.line for work in plan.works if work.nodes}
    return tuple(replace(work, line=lines.get(work.nodes, 0)) for work in works)


def _fault(line: int | None, what: str) -> ParseError:
    return ParseError(f"plan, line {line}: {what}" if line else f"plan: {what}")
