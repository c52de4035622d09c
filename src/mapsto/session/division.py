"""Parts of a graph that was cut, compiled each for its device: divisions, and executables that stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache as remembered

from mapsto.budget import metering, metering_anew
from mapsto.devices.backend import Backend
from mapsto.devices.named import backend_named
from mapsto.errors import ArgumentError
from mapsto.ir.expr import Expr
from mapsto.ir.graph import Graph
from mapsto.ir.region import reads
from mapsto.plan.plan import Plan
from mapsto.runtime.divided import DividedExecutable
from mapsto.runtime.divisions import DividedPart, Division, Whole
from mapsto.runtime.executable import Executable
from mapsto.session.collecting import collecting_rarely
from mapsto.session.compile import build
from mapsto.session.parts import SIZE, GraphPart, cut

PlanOf = Callable[[GraphPart], Plan | None]
"""The plan that a part is to be made by; None: one is made."""


def divided(
    graph: Graph, seats: Mapping[str, int], backends: Mapping[str, Backend], threads: int, cache: bool = True
) -> DividedExecutable:
    """A graph that the passes are done with, cut by the seats of its nodes (`session.parts.cut`), and compiled.
    backends: open ones by the devices' names, the host first.
    """
    return DividedExecutable(whole_of(graph), division_of(cut(graph, seats), backends, threads, cache), list(backends))


def replicated(
    graph: Graph, backends: Mapping[str, Backend], threads: int, cache: bool = True
) -> DividedExecutable:
    """All of a graph on each of some devices, the host first: runs of a stream are shared among them."""
    division = copies_of(copies(graph, list(backends)), backends, threads, cache)
    return DividedExecutable(whole_of(graph), division, list(backends))


def copies(graph: Graph, names: Sequence[str]) -> list[GraphPart]:
    """All of a graph as a part of each device. Raises ArgumentError where that is nothing."""
    parts = [replace(part, device=d) for part in cut(graph, {}) for d in range(len(names))]
    if len(parts) != len(names):
        raise ArgumentError("there is nothing to be done by more than one device")
    return parts


def copies_of(
    parts: Sequence[GraphPart], backends: Mapping[str, Backend], threads: int, cache: bool,
    plan_of: PlanOf | None = None,
) -> Division:  # fmt: skip
    """The division whose parts are copies of the whole."""
    made = division_of(parts, backends, threads, cache, plan_of)
    found = tuple(replace(part, name="all of it", after=()) for part in made.parts)
    return replace(made, parts=found, copies=tuple(range(len(found))))


def division_of(
    parts: Sequence[GraphPart], backends: Mapping[str, Backend], threads: int, cache: bool,
    plan_of: PlanOf | None = None,
) -> Division:  # fmt: skip
    """Parts, compiled, each within a budget of its own. plan_of: None: all are planned here."""
    names = list(backends)
    made = []
    for part in parts:
        with metering_anew():
            given = None if plan_of is None else plan_of(part)
            made.append(build(part.graph, backends[names[part.device]], threads, None, given))
    return Division(tuple(_parts(parts, made, names, threads, cache)))


def whole_of(graph: Graph) -> Whole:
    """What a divided executable is to its callers."""
    kept = {name: graph.constants[name] for name in graph.outputs if name in graph.constants}
    return Whole(graph.name, graph.inputs, graph.outputs, kept, graph.updates)


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
