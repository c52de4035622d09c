"""`mapsto.divide`: a model on several devices of this machine, each part of it on one of them."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache as remembered
from typing import Any

import numpy as np

from mapsto.arguments import brief, shapes_of
from mapsto.boundary import public
from mapsto.budget import metering
from mapsto.devices.backend import Backend
from mapsto.devices.named import backend_named
from mapsto.errors import ArgumentError, UnsupportedError
from mapsto.ir.expr import Expr
from mapsto.ir.graph import Graph
from mapsto.ir.region import reads
from mapsto.machine.spec import Link
from mapsto.placement.model import latency
from mapsto.placement.place import PLACERS, Placement, place
from mapsto.placement.problem import HOST, PlacementProblem
from mapsto.placement.simple import alone, in_stretches
from mapsto.plan.decide import decide
from mapsto.plan.initial import constants_of
from mapsto.plan.placing import Considered, Correction, WorksToPlace
from mapsto.runtime.cpus import thread_count
from mapsto.runtime.divided import DividedExecutable, DividedPart, Division, Replanning, Whole
from mapsto.runtime.executable import Executable
from mapsto.session.calibrate import Calibration
from mapsto.session.collecting import collecting_rarely
from mapsto.session.compile import build, prepared
from mapsto.session.parts import SIZE, GraphPart, cut
from mapsto.session.splitting import split, worth_splitting

# Between two devices that share this machine's memory: what a copy of an array reaches, and what it takes until another
# thread goes on with it.
_COPY_BYTES = 4e9
_HAND_OVER = 1e-4
_ANEW = 1.1  # times as fast a division must be expected to be to take the place of another one
_KEPT = 4  # divisions
_SPLIT_BETTER = 1.1  # times as fast, before contractions are split over devices
_COPIES_BETTER = 1.05  # times as many runs a second, before each device has all of a model
_LITTLE = 1.1  # times the least, that a stream may take where it moves less
_OBJECTIVES = ("latency", "throughput")


@public
def divide(
    model: Any,
    devices: Sequence[str],
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    threads: int | None = None,
    objective: str = "latency",
    pins: Collection[tuple[str, str]] = (),
    placer: str = "exact",
    cache: bool = True,
    data_root: str | os.PathLike[str] | None = None,
    replicate: bool | None = None,
    adapt: bool = True,
) -> DividedExecutable:
    """Places the works of a model on devices of this machine, and compiles what each has to do.

    devices: `cpu`, which is the host, and others (`opencl`, `opencl:1`). objective: `latency` of one run, or
    `throughput` of a stream of runs. pins: (pattern, device); a work that has a name like it (`*`, `?`), itself or of
    one of its nodes, runs there. placer: `exact`; or `greedy`, `heft`, `exhaustive`, to compare with. replicate:
    whether each device has all of the model, and the runs of a stream are shared among them; None: where that is
    predicted to give more runs a second. adapt: whether the model is divided anew, in the background, where devices
    turn out to be faster or slower than predicted, or become so. The others are as for `mapsto.compile`.

    Raises ArgumentError, for a pin that cannot be kept as well, and what `mapsto.compile` does; UnsupportedError for a
    model whose sizes depend on data in a way that cannot be passed from part to part.
    """
    names = _checked(devices, objective, placer)
    pairs = _pinned(pins)
    if replicate and pairs:
        raise ArgumentError("pins: a work is on every device where each has all of the model (replicate)")
    count, wanted = thread_count(threads), shapes_of(shapes)
    with collecting_rarely(), metering(), np.errstate(all="ignore"), _opened(names, cache) as backends:
        graph = prepared(model, wanted, None, data_root)
        _require_no_updates(graph)
        calibrations = {name: Calibration(backend, count) for name, backend in backends.items()}
        how = _How(objective, pairs, placer, tuple(c.correction for c in calibrations.values()))
        found = _placed(graph, backends, how)
        if objective == "latency" and placer == "exact":
            shares = worth_splitting(graph, found.works, found.problem)
            if shares:
                in_two = _placed(split(graph, shares), backends, how)
                found = in_two if in_two.placement.seconds * _SPLIT_BETTER < found.placement.seconds else found
        if replicate or (replicate is None and objective == "throughput" and not pairs):
            rate = _rate_of_copies(found.problem)
            if replicate or rate * found.placement.seconds > _COPIES_BETTER:
                each = f"{1 / rate:.3g} s" if rate else "nothing"
                text = f"each device has all of it: {each} a run predicted; divided, it would take\n"
                text += "\n".join(_text(names, found, how))
                return replicated(found.graph, backends, count, cache, text)
        divider = _Divider(found, how, names, count, cache)
        division = divider.division(found, backends, how)
    probes = {name: c.times for name, c in calibrations.items()}
    replanning = Replanning(divider.learn, divider.ready, divider.best, divider.prepare, probes)
    return DividedExecutable(_whole(found.graph), division, names, replanning if adapt else None)


@contextmanager
def _opened(names: Sequence[str], cache: bool) -> Iterator[dict[str, Backend]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(backend_named(name, cache, None)) for name in names}


class _Divider:
    """Divisions of one graph, for devices as fast as they are said to be; the last few are kept.

    known: (work, device): how many times as long it takes as predicted, as its part did, beside the device as a whole.
    """

    def __init__(self, found: _Placed, how: _How, names: Sequence[str], threads: int, cache: bool) -> None:
        self.base, self.how, self.names, self.threads, self.cache = found, how, names, threads, cache
        self.seats = found.placement.seats
        self.kept: dict[tuple[int, ...], Division] = {}
        self.known: dict[tuple[int, int], float] = {}
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
        placement = _moving_less(problem, place(problem, self.how.placer))
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
        if seats not in self.kept:
            placement = replace(self.base.placement, seats=seats, seconds=latency(problem, seats), method="prepared")
            with self._making() as backends:
                self.division(replace(self.base, placement=placement), backends, self.how)

    @contextmanager
    def _making(self) -> Iterator[dict[str, Backend]]:
        with collecting_rarely(), metering(), np.errstate(all="ignore"), _opened(self.names, self.cache) as backends:
            yield backends

    def _times(self, work: int, device: int, speed: Mapping[str, float]) -> float:
        return self.known.get((work, device), 1.0) * speed[self.names[device]]

    def division(self, found: _Placed, backends: Mapping[str, Backend], how: _How) -> Division:
        seats = found.placement.seats
        made = self.kept.get(seats)
        if made is None:
            by_node = {n: d for w, d in zip(found.works, seats, strict=True) for n in w.nodes}
            made = _division(found.graph, by_node, backends, self.threads, self.cache)
        text = "\n".join(_text(self.names, found, how))
        with self.guard:
            made = self.kept[seats] = replace(made, predicted=self._predicted(made, seats), plan_text=text)
            old = [each for each in self.kept if each not in (seats, self.seats) and set(each) != {HOST}]
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


def divided(
    graph: Graph, seats: Mapping[str, int], backends: Mapping[str, Backend], threads: int, cache: bool = True
) -> DividedExecutable:
    """A graph that the passes are done with, cut by the seats of its nodes (`session.parts.cut`), and compiled.
    backends: open ones by the devices' names, the host first.
    """
    return DividedExecutable(_whole(graph), _division(graph, seats, backends, threads, cache), list(backends))


def replicated(
    graph: Graph, backends: Mapping[str, Backend], threads: int, cache: bool = True, plan_text: str = ""
) -> DividedExecutable:
    """All of a graph on each of some devices, the host first: runs of a stream are shared among them."""
    names = list(backends)
    parts = [replace(part, device=d) for part in cut(graph, {}) for d in range(len(names))]
    if len(parts) != len(names):
        raise ArgumentError("there is nothing to be done by more than one device")
    made = [build(part.graph, backends[names[part.device]], threads, None) for part in parts]
    found = [replace(p, name="all of it", after=()) for p in _parts(parts, made, names, threads, cache)]
    division = Division(tuple(found), plan_text, tuple(range(len(found))))
    return DividedExecutable(_whole(graph), division, names)


def _division(
    graph: Graph, seats: Mapping[str, int], backends: Mapping[str, Backend], threads: int, cache: bool
) -> Division:
    names, parts = list(backends), cut(graph, seats)
    made = [build(part.graph, backends[names[part.device]], threads, None) for part in parts]
    return Division(tuple(_parts(parts, made, names, threads, cache)))


def _require_no_updates(graph: Graph) -> None:
    if graph.updates:
        names = ", ".join(source for source, _ in graph.updates)
        raise UnsupportedError(f"{graph.name}: inputs that are updated in place ({names}) need one device")


def _whole(graph: Graph) -> Whole:
    _require_no_updates(graph)
    kept = {name: graph.constants[name] for name in graph.outputs if name in graph.constants}
    return Whole(graph.name, graph.inputs, graph.outputs, kept)


@dataclass(frozen=True)
class _Placed:
    """A graph with a seat for each of its works. called: names of devices by what plans have."""

    graph: Graph
    works: tuple[Considered, ...]
    problem: PlacementProblem
    placement: Placement
    called: Mapping[str, str]


@dataclass(frozen=True)
class _How:
    """What a placement is asked for, and what was measured of each device."""

    objective: str
    pins: tuple[tuple[str, str], ...]
    placer: str
    corrections: tuple[Correction, ...]


def _placed(graph: Graph, backends: Mapping[str, Backend], how: _How) -> _Placed:
    constants = constants_of(graph)
    makers = [backend.maker(constants) for backend in backends.values()]
    mapped = decide(graph, makers[0])
    known = {maker.name: name for maker, name in zip(makers, backends, strict=True)}
    links = [Link(a, b, _COPY_BYTES, _HAND_OVER) for a in known for b in known if a != b]
    called = {name: maker for maker, name in known.items()}
    pins = [(pattern, called.get(name, name)) for pattern, name in how.pins]
    works = WorksToPlace(mapped, makers, links, pins, how.corrections)
    try:
        problem = works.problem(how.objective, {})
        placement = _moving_less(problem, place(problem, how.placer))
    except ValueError as error:  # too many for all to be tried
        raise ArgumentError(f"placer {how.placer}: {error}") from None
    return _Placed(graph, tuple(works.considered), problem, placement, known)


def _rate_of_copies(problem: PlacementProblem) -> float:
    """Runs a second of all devices that take all works, each by itself."""
    totals = (math.fsum(work.seconds[d] for work in problem.works) for d in range(len(problem.devices)))
    return math.fsum(1 / total for total in totals if 0 < total < math.inf)


def _moving_less(problem: PlacementProblem, found: Placement) -> Placement:
    """A stream's placement, or one that takes little more and moves far less: that takes time of threads as well, which
    the model does not count.
    """
    if problem.objective != "throughput" or found.method in ("greedy", "heft", "exhaustive"):
        return found
    seats = in_stretches(problem)
    seconds = latency(problem, seats)
    if seconds > found.seconds * _LITTLE:
        return found
    return replace(found, seats=tuple(seats), seconds=seconds, method="two stretches")


def _checked(devices: Sequence[str], objective: str, placer: str) -> list[str]:
    is_list = isinstance(devices, (list, tuple))
    if not is_list or not all(isinstance(d, str) for d in devices):
        raise ArgumentError("devices: expected a list of names, such as ['cpu', 'opencl']")
    names = list(devices)
    if not names or names[0] != "cpu":
        raise ArgumentError(f"devices: the first one is the host, cpu; found {', '.join(names) or 'none'}")
    if len(set(names)) != len(names) or sum(name.startswith("opencl") for name in names) > 1:
        raise ArgumentError(f"devices: each may be there once, and one of OpenCL; found {', '.join(names)}")
    for what, one, every in (("objective", objective, _OBJECTIVES), ("placer", placer, PLACERS)):
        if one not in every:
            raise ArgumentError(f"{what} {one!r}; there are: {', '.join(every)}")
    return names


def _pinned(pins: Any) -> tuple[tuple[str, str], ...]:
    """Raises ArgumentError for what are no pairs of texts."""
    found = list(pins) if isinstance(pins, (list, tuple, set, frozenset)) else [pins]
    for pin in found:
        if not isinstance(pin, (list, tuple)) or len(pin) != 2 or not all(isinstance(each, str) for each in pin):
            such = "such as ('conv*', 'opencl')"
            raise ArgumentError(f"pins: expected pairs of a pattern and a device, {such}; got {brief(pin)}")
    return tuple((pattern, device) for pattern, device in found)


def _parts(
    parts: Sequence[GraphPart], made: Sequence[Executable], names: Sequence[str], threads: int, cache: bool
) -> Iterator[DividedPart]:
    makers: dict[str, int] = {}
    for k, (part, executable) in enumerate(zip(parts, made, strict=True)):
        needed = {name for node in part.graph.nodes for name in reads(node)} | {v.name for v in part.graph.inputs}
        after = {makers[name] for name in needed if name in makers}
        after |= {makers[size] for size in part.told if size in makers}
        values = part.graph.values()
        yielded = tuple(values[name] for name in part.graph.outputs)
        for value in yielded:
            makers[value.name] = k
            for size in (str(dim) for dim in value.shape if isinstance(dim, Expr)):
                makers.setdefault(size, k)
        makers.update({size: k for _, size in part.holds})
        told = {f"{SIZE}{size}": size for size in part.told}
        on_host = remembered(_HostPart(part.graph, threads, cache).made)
        yield DividedPart(
            f"part {k}", names[part.device], executable, on_host, tuple(sorted(after - {k})), told, yielded, part.holds,
            frozenset(v.name for node in part.graph.nodes for v in node.outputs),
        )


class _HostPart:
    """A part, to be compiled for the host when its device has failed."""

    def __init__(self, graph: Graph, threads: int, cache: bool) -> None:
        self.graph, self.threads, self.cache = graph, threads, cache

    def made(self) -> Executable:
        with metering(), collecting_rarely(), backend_named("cpu", self.cache, None) as backend:
            return build(self.graph, backend, self.threads, None)


def _text(names: Sequence[str], found: _Placed, how: _How) -> Iterator[str]:
    """Where each work is, and what others would take."""
    placement = found.placement
    for name, c in zip(names, how.corrections, strict=True):
        yield f"{name}: measured, products take {c.contraction:.2g} times what was predicted, other works {c.rows:.2g}"
    said = f"{placement.said}, found by {placement.method}"
    yield f"objective {how.objective}: {placement.seconds:.3g} s predicted; {said}"
    for name, seconds in placement.others:
        device = name.removeprefix("all on ")
        yield f"  {name if device == name else f'all on {found.called[device]}'}: {seconds:.3g} s"
    for work, seat in zip(found.works, placement.seats, strict=True):
        said = ", ".join(
            f"{name} {p.seconds:.3g} s" if not p.reason else f"{name}: {p.reason}"
            for name, p in zip(names, work.priced, strict=True)
        )
        yield f"{work.name} {'+'.join(work.ops)} on {names[seat]} ({said})"
