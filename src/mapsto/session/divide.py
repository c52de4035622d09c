"""`mapsto.divide`: a model on several devices of this machine, each part of it on one of them."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mapsto.arguments import Shapes, pairs_of, shapes_of
from mapsto.boundary import public
from mapsto.budget import metering
from mapsto.devices.backend import Backend
from mapsto.devices.named import backend_named
from mapsto.errors import ArgumentError
from mapsto.ir.graph import Graph
from mapsto.passes.checks import unchecked
from mapsto.placement.model import latency
from mapsto.placement.place import place
from mapsto.placement.problem import HOST, PlacementProblem
from mapsto.placement.simple import alone
from mapsto.plan.division import DividedPlan
from mapsto.plan.division_text import division_text
from mapsto.runtime.cpus import thread_count
from mapsto.runtime.divided import DividedExecutable
from mapsto.runtime.divisions import DividedPart, Division, Replanning, Whole
from mapsto.runtime.executable import Overriding
from mapsto.session.alternatives import Forced
from mapsto.session.calibrate import calibrated
from mapsto.session.collecting import collecting_rarely
from mapsto.session.compile import opened_model, prepared
from mapsto.session.division import copies, copies_of, division_of, whole_of
from mapsto.session.fitting import beyond, tightened
from mapsto.session.handing import handed_over
from mapsto.session.parts import cut
from mapsto.session.placed import AskedOf, PlacedGraph, limits_text, moving_less, placed, rate_of_copies
from mapsto.session.planned import planned
from mapsto.session.redo import check_origin_of, read_plan, redone
from mapsto.session.turns import Turns
from mapsto.session.wanted import checked, limited, limits_of, of_plan, pinned, powers_of

if TYPE_CHECKING:
    from mapsto.machine.machine_file import MachineFile

_ANEW = 1.1  # times as fast a division must be expected to be to take the place of another one
_KEPT = 4  # divisions
_COPIES_BETTER = 1.05  # times as many runs a second, before each device has all of a model
_ROUNDS = 4  # of placing within limits that parts, once compiled, turned out to be beyond


@public
def divide(
    model: Any,
    devices: Sequence[str] | None = None,
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    threads: int | None = None,
    objective: str = "latency",
    pins: Collection[tuple[str, str]] = (),
    placer: str = "exact",
    cache: bool = True,
    data_root: str | os.PathLike[str] | None = None,
    replicate: bool | None = None,
    adapt: bool = True,
    plan: DividedPlan | str | os.PathLike[str] | None = None,
    check_indices: bool = True,
    limits: Mapping[str, Mapping[str, float]] | None = None,
    power: MachineFile | str | os.PathLike[str] | None = None,
    updates: Mapping[str, str] | None = None,
) -> DividedExecutable:
    """Places the works of a model on devices of this machine, and compiles what each has to do.

    devices: `cpu`, which is the host, and others (`opencl`, `opencl:1`). objective: `latency` of one run, `throughput`
    of a stream of runs, or `energy`: the joules of a run, modelled. pins: (pattern, device); a work that has a name
    like it (`*`, `?`), itself or of one of its nodes, runs there. placer: `exact`; or `greedy`, `heft`, `exhaustive`,
    to compare with. replicate: whether each device has all of the model, and the runs of a stream are shared among
    them; None: where that is predicted to give more runs a second. adapt: whether the model is divided anew, in the
    background, where devices turn out to be faster or slower than predicted, or become so. plan: what `plan_text` of
    another one said, or a file with it: done again as it stands, edited or not, and it stays so; devices, objective,
    pins, placer, replicate, limits and power are the plan's. One without works says these alone. limits: bytes that the
    model may take of devices' memory, {"opencl": {"memory": 2 << 30}}. power: a machine file (docs/machines.md), or the
    name of one, that has figures of power by the devices' names. updates: inputs whose memory an output takes over; a
    run writes there when all of its parts have ended. The others are as for `mapsto.compile`.

    Raises ArgumentError, for a pin or a limit that cannot be kept as well, and what `mapsto.compile` does; ParseError,
    naming line and key, for a plan that cannot be read or done, or is of another graph (shapes included) or machine;
    UnsupportedError for a model whose sizes depend on data in a way that cannot be passed from part to part.
    """
    how = AskedOf(objective, pinned(pins), placer, (), (), limited(limits))
    given = None if plan is None else read_plan(plan)
    if given is not None:
        how, devices, replicate = of_plan(given, devices, how, replicate, power)
    names = checked(devices, how.objective, how.placer)
    if given is None:
        how = replace(how, limits=limits_of(how.limits, names), powers=powers_of(power, names))
    if replicate and how.pins:
        raise ArgumentError("pins: a work is on every device where each has all of the model (replicate)")
    if replicate and how.objective == "energy":
        raise ArgumentError("replicate: copies are for a stream of runs; energy is of one run whose works are divided")
    asked = _Asked(
        model, names, shapes_of(shapes), thread_count(threads), how, cache, data_root, replicate, adapt, given,
        check_indices, pairs_of(updates, "updates"),
    )  # fmt: skip
    return _made(asked)


@dataclass(frozen=True)
class _Asked:
    """The arguments of `divide`. overridable: initializers that are inputs."""

    model: Any
    names: Sequence[str]
    shapes: Shapes
    threads: int
    how: AskedOf
    cache: bool
    data_root: str | os.PathLike[str] | None
    replicate: bool | None
    adapt: bool
    plan: DividedPlan | None
    check_indices: bool
    updates: tuple[tuple[str, str], ...] = ()
    overridable: tuple[str, ...] = ()


def _made(asked: _Asked) -> DividedExecutable:
    with (
        collecting_rarely(), metering(), np.errstate(all="ignore"), _opened(asked.names, asked.cache) as backends
    ):  # fmt: skip
        model, listed, _ = opened_model(asked.model, asked.overridable, asked.data_root)
        graph = prepared(model, asked.shapes, None, asked.data_root, asked.overridable, asked.updates)
        if not asked.check_indices:
            graph = unchecked(graph)
        whole = whole_of(graph)
        graph = replace(graph, updates=())  # which parts compute beside the inputs: a plan is the same without them
        made = _replayed(graph, asked, backends, whole) if asked.plan is not None and asked.plan.works else None
        made = made or _divided(graph, asked, backends, whole)
    if listed:

        def with_inputs(given: frozenset[str]) -> DividedExecutable:
            names = (*asked.overridable, *sorted(given))
            return _made(replace(asked, model=model, plan=None, overridable=names))

        made.overriding = Overriding(listed, with_inputs)
    return made


def _replayed(graph: Graph, asked: _Asked, backends: Mapping[str, Backend], whole: Whole) -> DividedExecutable:
    """A plan with works; it stays as it is."""
    assert asked.plan is not None
    done = redone(graph, asked.plan, backends, asked.threads, asked.cache)
    return DividedExecutable(whole, done.division, asked.names, notes=done.notes)


def _divided(graph: Graph, asked: _Asked, backends: Mapping[str, Backend], whole: Whole) -> DividedExecutable:
    """A division that is found here."""
    if asked.plan is not None:
        check_origin_of(asked.plan, graph, backends)
    names, count, cache = asked.names, asked.threads, asked.cache
    calibrations = {name: calibrated(name, backend, count, name == names[HOST]) for name, backend in backends.items()}
    how = replace(
        asked.how, corrections=tuple(c.correction for c in calibrations.values()),
        handing=handed_over(backends, count), makers=tuple(backend.name for backend in backends.values()),
        threads=count,
    )  # fmt: skip
    found = placed(graph, backends, how)
    if asked.replicate or (asked.replicate is None and how.objective == "throughput" and not how.pins):
        rate = rate_of_copies(found.problem)
        if asked.replicate or rate * found.placement.seconds > _COPIES_BETTER:
            division = copies_of(copies(found.graph, names), backends, count, cache)
            if not (over := beyond(division, how.limits)):
                text = division_text(planned(found, how, division.parts, 1 / rate if rate else math.inf))
                return DividedExecutable(whole, replace(division, plan_text=text), names)
            if asked.replicate:
                raise _beyond(how, over)
    divider, division, found = _within_limits(graph, asked, backends, how, found)
    probes = {name: divider.turns.measured(c.times) for name, c in calibrations.items()}
    replanning = Replanning(divider.learn, divider.ready, divider.best, divider.prepare, probes)
    made = DividedExecutable(whole, division, names, replanning if asked.adapt else None)
    made.costs = Forced(found).costs
    return made


def _within_limits(
    graph: Graph, asked: _Asked, backends: Mapping[str, Backend], how: AskedOf, found: PlacedGraph
) -> tuple[_Divider, Division, PlacedGraph]:
    """A division whose parts, once compiled, keep the limits: it is placed by tighter ones where they do not. Raises
    ArgumentError where none was found.
    """
    tight = how
    for _ in range(_ROUNDS):
        divider = _Divider(found, how, asked.names, asked.threads, asked.cache)
        division = divider.division(found, backends, how)
        over = beyond(division, how.limits)
        if not over:
            return divider, division, found
        tight = replace(tight, limits=tightened(tight.limits, over))
        try:
            found = placed(graph, backends, tight)
        except ArgumentError:  # not by tighter ones
            break
    raise _beyond(how, over)


def _beyond(how: AskedOf, over: Mapping[str, float]) -> ArgumentError:
    said = ", ".join(f"{name} takes {times:.3g} times its limit" for name, times in over.items())
    return ArgumentError(
        f"{limits_text(how.limits)}: with packed weights and scratch memory, what was placed on {said}, and no seats "
        "were found that keep them; raise a limit"
    )


@contextmanager
def _opened(names: Sequence[str], cache: bool) -> Iterator[dict[str, Backend]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(backend_named(name, cache, None)) for name in names}


class _Divider:
    """Divisions of one graph, for devices as fast as they are said to be; the last few are kept.

    known: (work, device): how many times as long it takes as predicted, as its part did, beside the device as a whole.
    """

    def __init__(self, found: PlacedGraph, how: AskedOf, names: Sequence[str], threads: int, cache: bool) -> None:
        self.base, self.how, self.names, self.threads, self.cache = found, how, names, threads, cache
        self.seats = found.placement.seats
        self.kept: dict[tuple[int, ...], Division] = {}
        self.known: dict[tuple[int, int], float] = {}
        self.turns = Turns()
        self.guard = threading.Lock()

    def learn(self, speed: Mapping[str, float], took: Sequence[tuple[DividedPart, float]]) -> None:
        """Parts of the present division take so many times what was predicted for them."""
        of_value = {
            name: (self.names.index(part.device), times / speed[part.device])
            for part, times in took
            for name in part.makes
        }
        with self.guard:
            for w, work in enumerate(self.base.works):
                found = next((of_value[name] for name in work.nodes if name in of_value), None)
                if found is not None:
                    device, times = found
                    self.known[w, device] = self.known.get((w, device), 1.0) * times

    def ready(self, speed: Mapping[str, float]) -> Division | None:
        """The best of the divisions whose code is there, where devices take so many times what they did at first; None:
        it is no better than the present one.
        """
        with self.guard:
            problem = self._problem(speed)
            if problem is None:
                return None
            best = min(self.kept, key=lambda seats: latency(problem, seats))
            if latency(problem, best) * _ANEW >= latency(problem, self.seats):
                return None
            self.seats = best
            return replace(self.kept[best], predicted=self._predicted(self.kept[best], best))

    def best(self, speed: Mapping[str, float]) -> Division | None:
        """Makes the best division; None: it is no better. It is kept, and not taken for the present one yet."""
        problem = self._problem(speed)
        if problem is None:
            return None
        placement = moving_less(problem, place(problem, self.how.placer))
        if placement.seats in self.kept or placement.seconds * _ANEW >= latency(problem, self.seats):
            return None
        found = replace(self.base, problem=problem, placement=placement)
        with self._making() as backends:
            return self.division(found, backends, self.how)

    def _problem(self, speed: Mapping[str, float]) -> PlacementProblem | None:
        """The first one, by what is known of devices and works now; None: something can run nowhere any more."""
        problem = self.base.problem
        jobs = tuple(
            replace(job, seconds=tuple(s * self._times(w, d, speed) if s else s for d, s in enumerate(job.seconds)))
            for w, job in enumerate(problem.works)
        )
        return None if any(min(job.seconds) == math.inf for job in jobs) else replace(problem, works=jobs)

    def prepare(self) -> None:
        """Makes the division that is all on the host, as far as it can be: for when another device is slow."""
        problem = self.base.problem
        seats = tuple(alone(problem, HOST))
        if seats not in self.kept and latency(problem, seats) < math.inf:
            placement = replace(self.base.placement, seats=seats, seconds=latency(problem, seats), method="prepared")
            with self._making() as backends:
                self.division(replace(self.base, placement=placement), backends, self.how)

    @contextmanager
    def _making(self) -> Iterator[dict[str, Backend]]:
        with (
            self.turns.making(), collecting_rarely(), metering(), np.errstate(all="ignore"),
            _opened(self.names, self.cache) as backends,
        ):  # fmt: skip
            yield backends

    def _times(self, work: int, device: int, speed: Mapping[str, float]) -> float:
        return self.known.get((work, device), 1.0) * speed[self.names[device]]

    def division(self, found: PlacedGraph, backends: Mapping[str, Backend], how: AskedOf) -> Division:
        seats = found.placement.seats
        made = self.kept.get(seats)
        if made is None:
            by_node = {n: d for w, d in zip(found.works, seats, strict=True) for n in w.nodes}
            made = division_of(cut(found.graph, by_node), backends, self.threads, self.cache)
        text = division_text(planned(found, how, made.parts))
        joules = found.placement.seconds if how.objective == "energy" else None
        with self.guard:
            made = self.kept[seats] = replace(
                made, predicted=self._predicted(made, seats), plan_text=text, joules=joules
            )
            known = (seats, self.seats, self.base.placement.seats)  # the first one: devices may be as they were again
            old = [each for each in self.kept if each not in known and set(each) != {HOST}]
            for each in old[: max(len(self.kept) - _KEPT, 0)]:
                del self.kept[each]
        return made

    def _predicted(self, made: Division, seats: Sequence[int]) -> tuple[float, ...]:
        """Seconds of each part, by devices as fast as they were at first, and what is known of works."""
        part_of = {v: k for k, part in enumerate(made.parts) for v in part.makes}
        found = [0.0] * len(made.parts)
        for w, (work, seat) in enumerate(zip(self.base.works, seats, strict=True)):
            if (k := next((part_of[n] for n in work.nodes if n in part_of), None)) is not None:
                found[k] += work.priced[seat].seconds * self.known.get((w, seat), 1.0)
        return tuple(found)

