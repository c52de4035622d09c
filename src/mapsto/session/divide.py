"""`mapsto.divide`: a model on several devices of this machine, each part of it on one of them."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mapsto.arguments import Shapes, pairs_of, shapes_of
from mapsto.boundary import public
from mapsto.budget import metering
from mapsto.devices.backend import Backend
from mapsto.errors import ArgumentError
from mapsto.ir.graph import Graph
from mapsto.passes.checks import unchecked
from mapsto.placement.problem import HOST
from mapsto.plan.division import DividedPlan
from mapsto.plan.division_text import division_text
from mapsto.plan.guesses import guesses
from mapsto.runtime.cpus import thread_count
from mapsto.runtime.divided import DividedExecutable
from mapsto.runtime.divisions import Division, Replanning, Whole
from mapsto.runtime.executable import Overriding
from mapsto.session.alternatives import Forced
from mapsto.session.calibrate import calibrated
from mapsto.session.collecting import collecting_rarely
from mapsto.session.compile import opened_model, prepared
from mapsto.session.divider import Divider, Trial, opened
from mapsto.session.division import copies, copies_of, whole_of
from mapsto.session.fitting import Limits, between, beyond, tightened
from mapsto.session.handing import handed_over
from mapsto.session.placed import AskedOf, PlacedGraph, limits_text, placed, rate_of_copies
from mapsto.session.planned import planned
from mapsto.session.redo import check_origin_of, read_plan, redone
from mapsto.session.trial import Trials
from mapsto.session.wanted import checked, limited, limits_of, of_plan, pinned, powers_of

if TYPE_CHECKING:
    from mapsto.machine.machine_file import MachineFile

_COPIES_BETTER = 1.05  # times as many runs a second, before each device has all of a model
_COPIES_TRIED = 0.8  # times as many by predictions, before that is tried: both devices are busier than predicted
_SHARES_BETTER = 1.03  # times as fast other shares of contractions must be predicted to be, before they are tried
_ROUNDS = 10  # of placing within limits that parts, once compiled, turned out to be beyond
_HALVES = 8  # of the way from limits that nothing keeps to ones that are not tight enough


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
        collecting_rarely(), metering(), np.errstate(all="ignore"), opened(asked.names, asked.cache) as backends
    ):  # fmt: skip
        model, listed, _ = opened_model(asked.model, asked.overridable, asked.data_root, asked.shapes)
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
    names, count = asked.names, asked.threads
    calibrations = {name: calibrated(name, backend, count, name == names[HOST]) for name, backend in backends.items()}
    how = replace(
        asked.how, corrections=tuple(c.correction for c in calibrations.values()),
        handing=handed_over(backends, count), makers=tuple(backend.name for backend in backends.values()),
        threads=count,
    )  # fmt: skip
    found = placed(graph, backends, how)
    if asked.replicate:
        return DividedExecutable(whole, _replicated(found, asked, backends, how, whole)[0], names)
    divider, trial = _tried(graph, asked, backends, how, found, whole)
    if asked.replicate is None and how.objective == "throughput" and not how.pins:
        if rate_of_copies(trial.found.problem) * trial.seconds > _COPIES_TRIED:
            with suppress(ArgumentError):  # not within the limits
                division, seconds = _replicated(trial.found, asked, backends, how, whole)
                if seconds * _COPIES_BETTER < trial.seconds:
                    return DividedExecutable(whole, division, names)
    turns = divider.turns
    probes = {name: turns.measured(c.times) for name, c in calibrations.items()}
    replanning = Replanning(divider.learn, divider.ready, divider.best, divider.prepare, probes, turns.measuring)
    made = DividedExecutable(whole, trial.division, names, replanning if asked.adapt else None)
    made.costs = Forced(trial.found).costs
    return made


def _replicated(
    found: PlacedGraph, asked: _Asked, backends: Mapping[str, Backend], how: AskedOf, whole: Whole
) -> tuple[Division, float]:
    """All of the model on each device, and seconds of a run of a stream: by trial runs, where there can be any; else by
    predictions. Raises ArgumentError where that is beyond limits.
    """
    division = copies_of(copies(found.graph, asked.names), backends, asked.threads, asked.cache)
    over = beyond(division, how.limits)
    if over:
        raise _beyond(how, over)
    trials = Trials(whole, guesses(found.graph), asked.names)
    rate, method = rate_of_copies(found.problem), "copies"
    seconds = 1 / rate if rate else math.inf
    if trials.part_seconds(division) is not None:
        seconds, method = trials.runs(division, True).seconds, "copies; tried"
    text = division_text(planned(found, how, division.parts, (seconds, method)))
    return replace(division, plan_text=text), seconds


def _tried(
    graph: Graph, asked: _Asked, backends: Mapping[str, Backend], how: AskedOf, found: PlacedGraph, whole: Whole
) -> tuple[Divider, Trial]:
    """The best division by what it takes: of the graph as contractions were split, as they are split by what their
    parts took, and as it was. By predictions, where nothing can be tried, or something else than time decides.
    """
    if how.placer == "exact" and how.objective != "energy" and not how.limits:
        tried: list[tuple[Divider, Trial]] = []

        def attempt(each: PlacedGraph, how: AskedOf) -> None:
            divider = Divider(each, how, asked.names, asked.threads, asked.cache)
            trial = divider.tried(whole, backends)
            if trial is not None:
                tried.append((divider, trial))

        attempt(found, how)
        if tried and found.shares:
            known = replace(how, corrections=tried[0][0].corrections())
            again = placed(graph, backends, known)
            if again.shares and again.placement.seconds * _SHARES_BETTER < tried[0][1].seconds:
                attempt(again, known)
        if found.shares:
            attempt(placed(graph, backends, how, may_split=False), how)
        if len(tried) > 1:
            return _best_of(tried, Trials(whole, guesses(graph), asked.names), how)
        if tried:
            return tried[0]
    divider, division, found = _within_limits(graph, asked, backends, how, found)
    return divider, Trial(division, found, found.placement.seconds)


def _best_of(tried: Sequence[tuple[Divider, Trial]], trials: Trials, how: AskedOf) -> tuple[Divider, Trial]:
    """Each divider has compared its own divisions; here the ones that they took are compared."""
    known = [trial for _, trial in tried]
    seconds = trials.once_more([t.division for t in known], [t.seconds for t in known], how.objective == "throughput")
    return tried[min(range(len(tried)), key=lambda k: seconds[k])]


def _within_limits(
    graph: Graph, asked: _Asked, backends: Mapping[str, Backend], how: AskedOf, found: PlacedGraph
) -> tuple[Divider, Division, PlacedGraph]:
    """A division whose parts, once compiled, keep the limits: it is placed by tighter ones where they do not. Raises
    ArgumentError where none was found.
    """
    limits = how.limits
    for _ in range(_ROUNDS):
        divider = Divider(found, how, asked.names, asked.threads, asked.cache)
        division = divider.division(found, backends)
        over = beyond(division, how.limits)
        if not over:
            return divider, division, found
        tighter = _tighter(graph, backends, how, tightened(limits, over), limits)
        if tighter is None:
            break
        found, limits = tighter
    raise _beyond(how, over)


def _tighter(
    graph: Graph, backends: Mapping[str, Backend], how: AskedOf, tight: Limits, wide: Limits
) -> tuple[PlacedGraph, Limits] | None:
    """What is placed by tight limits, or by some that are closer to the wide ones where nothing keeps those."""
    for _ in range(_HALVES):
        with suppress(ArgumentError):
            return placed(graph, backends, replace(how, limits=tight)), tight
        tight = between(tight, wide)
    return None


def _beyond(how: AskedOf, over: Mapping[str, float]) -> ArgumentError:
    said = ", ".join(f"{name} takes {times:.3g} times its limit" for name, times in over.items())
    return ArgumentError(
        f"{limits_text(how.limits)}: with packed weights and scratch memory, what was placed on {said}, and no seats "
        "were found that keep them; raise a limit"
    )
