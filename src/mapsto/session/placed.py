"""A graph with a device of this machine for each of its works: what was asked for, the problem, and the seats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mapsto.devices.backend import Backend
from mapsto.errors import ArgumentError
from mapsto.ir.graph import Graph
from mapsto.ir.text import graph_digest
from mapsto.machine.spec import Power
from mapsto.placement.model import latency
from mapsto.placement.place import Placement, place
from mapsto.placement.problem import HOST, PlacementProblem
from mapsto.placement.simple import in_stretches
from mapsto.plan.decide import decide
from mapsto.plan.division import CHANNELS
from mapsto.plan.initial import constants_of
from mapsto.plan.placing import Considered, Correction, HandOver, WorksToPlace
from mapsto.session.energy import least_energy
from mapsto.session.splitting import Shares, split, worth_splitting

_SPLIT_BETTER = 1.1  # times as fast, before contractions are split over devices
_LITTLE = 1.25  # times the least, that a stream may take where it is handed over less often


@dataclass(frozen=True)
class AskedOf:
    """What a placement is asked for; what was measured of each device, and what plans of one device call it. limits:
    bytes that may be taken of a device's memory. powers: figures of power, of devices that have none of their own.
    threads: of the host.
    """

    objective: str
    pins: tuple[tuple[str, str], ...]
    placer: str
    corrections: tuple[Correction, ...]
    makers: tuple[str, ...]
    limits: tuple[tuple[str, int], ...] = ()
    powers: tuple[tuple[str, Power], ...] = ()
    handing: tuple[HandOver, ...] = ()
    threads: int = 1


@dataclass(frozen=True)
class PlacedGraph:
    """A graph with a seat for each of its works. digest: of the graph before contractions were split. shares: how many
    channels of which contractions were split off (or places of another axis, which `axes` has). The problem's devices
    have the names that users call them. powers: of the devices, where joules were counted. joules: of a run, modelled;
    None: they were not counted. ends: works that a part ends with, as another device waits for them.
    """

    graph: Graph
    works: tuple[Considered, ...]
    problem: PlacementProblem
    placement: Placement
    digest: str
    shares: tuple[tuple[str, int], ...] = ()
    powers: tuple[Power | None, ...] = ()
    joules: float | None = None
    axes: tuple[tuple[str, str], ...] = ()
    ends: frozenset[int] = frozenset()


def placed(graph: Graph, backends: Mapping[str, Backend], asked: AskedOf, may_split: bool = True) -> PlacedGraph:
    """The best seats, of a graph some of whose contractions may be split for it. Raises ArgumentError for pins that
    cannot be kept, limits that no seats keep, and devices without the figures that the objective needs.
    """
    found = _placed(graph, backends, asked, graph_digest(graph), Shares({}, {}))
    if asked.objective != "latency" or asked.placer != "exact" or not may_split:
        return found
    best = found
    # Along the axis that promises most, and by channels alone: what is cut out of a value may take time of its own.
    tried = [worth_splitting(graph, found.works, found.problem)]
    if tried[0].axes:
        tried.append(worth_splitting(graph, found.works, found.problem, (CHANNELS,)))
    for shares in tried:
        if shares.counts:
            cut = split(graph, shares.counts, shares.axes)
            in_two = _placed(cut, backends, asked, found.digest, shares)
            best = min(best, in_two, key=lambda each: each.placement.seconds)
    return best if best.placement.seconds * _SPLIT_BETTER < found.placement.seconds else found


def priced(
    graph: Graph, backends: Mapping[str, Backend], asked: AskedOf
) -> WorksToPlace:
    """The works of a graph, with what each device says of them. Raises as `placed` does."""
    constants = constants_of(graph)
    makers = [backend.maker(constants) for backend in backends.values()]
    names = list(backends)
    given = dict(asked.powers)
    powers = [given.get(name, maker.spec.power) for name, maker in zip(names, makers, strict=True)]
    bare = [name for name, power in zip(names, powers, strict=True) if power is None]
    if asked.objective == "energy" and bare:
        raise ArgumentError(
            f"objective energy: there are no figures of power of {', '.join(bare)}; give a machine file that has "
            "devices of these names with `power` (power='FILE.toml', --power FILE.toml)"
        )
    units = [asked.threads, *(maker.spec.units for maker in makers[1:])]
    handing = asked.handing or [HandOver()] * len(names)
    return WorksToPlace(
        decide(graph, makers[0]), makers, (), asked.pins, asked.corrections, names, powers, units, handing
    )


def _placed(
    graph: Graph, backends: Mapping[str, Backend], asked: AskedOf, digest: str, shares: Shares
) -> PlacedGraph:
    try:
        works = priced(graph, backends, asked)
        problem, considered = works.problem(asked.objective, dict(asked.limits)), tuple(works.considered)
        placement = moving_less(problem, place(problem, asked.placer))
        joules = None
        if asked.objective == "energy":
            seconds = works.problem("latency", dict(asked.limits))
            placement = least_energy(seconds, considered, works.idle, placement, place(seconds, asked.placer))
            joules = placement.seconds
    except ValueError as error:  # too many for all to be tried
        raise ArgumentError(f"placer {asked.placer}: {error}") from None
    if placement.seconds == math.inf:
        raise ArgumentError(f"{limits_text(asked.limits)}: {placement.said}{_needs(problem)}")
    powers = works.powers if joules is not None else ()
    counts, axes = tuple(shares.counts.items()), tuple(shares.axes.items())
    return PlacedGraph(graph, considered, problem, placement, digest, counts, powers, joules, axes)


def _needs(problem: PlacementProblem) -> str:
    held = int(sum(work.holds for work in problem.works))
    return f": the works hold constants of {held:,} bytes, and the values that pass between them; raise a limit"


def limits_text(limits: Sequence[tuple[str, int]]) -> str:
    """As options have them."""
    return "limits " + (", ".join(f"{device}.memory={limit}" for device, limit in limits) or "(none)")


def rate_of_copies(problem: PlacementProblem) -> float:
    """Runs a second of all devices that take all works, each by itself, inputs and outputs moved."""
    inputs = [v for v in problem.readers if v not in problem.writer]
    rates = []
    for d in range(len(problem.devices)):
        moves = [problem.move(v, HOST, d) for v in inputs] + [problem.move(v, d, HOST) for v in problem.outputs]
        total = math.fsum(work.seconds[d] for work in problem.works) + math.fsum(moves)
        rates.append(1 / total if 0 < total < math.inf else 0.0)
    return math.fsum(rates)


def moving_less(problem: PlacementProblem, found: Placement) -> Placement:
    """A stream's placement, or one that takes little more and goes from device to device far less often: fewer runs
    have to be under way then, for all devices to be at work, and each finds more in its cache.
    """
    if problem.objective != "throughput" or found.method in ("greedy", "heft", "exhaustive"):
        return found
    seats = in_stretches(problem)
    seconds = latency(problem, seats)
    if seconds > found.seconds * _LITTLE:
        return found
    return replace(found, seats=tuple(seats), seconds=seconds, method="two stretches")
