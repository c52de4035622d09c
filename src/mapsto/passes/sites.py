"""Where a rewrite applies: what it sees of a node, and the first node of a finished graph that it would change.

A rewrite is asked at the nodes of a graph as it is, in order. As long as it has changed nothing, the graph that would
be built anew is the graph that there is, so what it is told is what it would be told then. It gives None, or asks the
builder for something new: then it may apply.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn

from mapsto.budget import current
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ir.region import uses
from mapsto.ops.builder import Builder
from mapsto.ops.guards import required_of


@dataclass(frozen=True)
class Site:
    """A node about to be built: what a rewrite sees."""

    builder: Builder
    node: Node
    inputs: tuple[Value | None, ...]
    attrs: Mapping[str, Any]
    readers: Callable[[Value], int]

    def input(self, i: int = 0) -> Value:
        value = self.inputs[i]
        assert value is not None
        return value


# Gives the values that take the place of the node's outputs, or None.
Rewrite = Callable[[Site], "Sequence[Value] | None"]


def first_site(graph: Graph, rewrite: Rewrite, at: Collection[str] | None = None) -> int | None:
    """The place of the first node of a settled graph that a rewrite may change; None where it changes nothing.

    at: the ops that the rewrite is for (None: any).
    """
    ops = set(graph.places) if at is None else graph.places.keys() & at
    if ops <= {"require"}:
        return None
    finished = _Finished(graph)
    meter = current()
    for k in sorted(place for name in {*ops, "require"} for place in graph.places.get(name, ())):
        node = graph.nodes[k]
        meter.tick(node.op)
        if node.op == "require":
            finished.require(required_of(node), "")
            continue
        inputs = tuple(finished.values[n] if n else None for n in node.inputs)
        try:
            if rewrite(Site(finished, node, inputs, node.attrs, finished.readers)) is not None:
                return k
        except _MakesNew:
            return k
    return None


class _MakesNew(Exception):
    """Something is asked of a finished graph that only a graph in the making can give."""


class _Finished(Builder):
    """A graph that is done, to whoever asks a builder about one."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.name, anew=True)
        self.values = graph.values()  # type: ignore[assignment]  # nothing is added to it
        self.constants = graph.constants  # type: ignore[assignment]
        self._producers = graph.producers
        self._uses = uses(graph)

    def producer(self, value: Value) -> Node | None:
        return self._producers.get(value.name)

    def readers(self, value: Value) -> int:
        return self._uses.get(value.name, 0)

    def require(
        self, condition: Dim, message: str, where: str | None = None, always: bool = False, liftable: bool = False
    ) -> None:
        if not self.proves(condition):
            self._conditions.add(condition)

    def source(self, *names: str, **about: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def add(self, *what: Any, **about: Any) -> NoReturn:
        raise _MakesNew

    def constant(self, *what: Any, **about: Any) -> NoReturn:
        raise _MakesNew

    def known(self, *what: Any, **about: Any) -> NoReturn:
        raise _MakesNew

    def content(self, value: Value | None) -> NoReturn:
        raise _MakesNew
