"""The network as plain, frozen data: values, nodes, graphs.

A graph is a list of nodes in topological order. Values are named; names are unique over a graph and the
graphs nested in it, and a nested graph (a branch of `if`) may read the values of the graphs around it (`ir.region`).

Dims are ints or symbolic expressions. A symbol is defined by a graph input whose dim is that bare symbol, by a
`bind_dim` node, which reads an integer scalar at run time (a size that depends on data) and gives it the name
`attrs["symbol"]`, or by a loop, whose states may end up larger than they began (`binds`).

Provenance: each node carries the names of the source nodes it stands for. No pass may lose one.
Aliasing: `Graph.updates` pairs a graph input with the output that takes over its memory (in-place update of weights
or state).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Union

import numpy as np

from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import Dim, Expr, symbols

Attr = Union[int, float, str, bool, DType, Expr, "tuple[Attr, ...]"]


@dataclass(frozen=True)
class Value:
    """A tensor in the graph: a name, an element type, a shape of dims."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype.value}[{', '.join(str(d) for d in self.shape)}]"


@dataclass(frozen=True)
class Node:
    """One operation. An absent optional input is the empty string."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[Value, ...]
    attrs: Mapping[str, Attr] = field(default_factory=dict)
    graphs: tuple[Graph, ...] = ()
    provenance: tuple[str, ...] = ()

    @property
    def output(self) -> Value:
        """The only output."""
        (value,) = self.outputs
        return value


@dataclass(frozen=True)
class Graph:
    """Inputs, constants, nodes in order, and the names of the values it yields.

    settled: there is nothing left in it to fold, to share or to follow: built anew as it is, it is the same graph.
    Nodes and constants may be taken out of such a graph; whoever puts others in says so no more.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    updates: tuple[tuple[str, str], ...] = ()
    settled: bool = field(default=False, compare=False, repr=False)

    def values(self) -> Mapping[str, Value]:
        """Every value defined at this level: inputs, constants and node outputs, by name."""
        return self._values

    @cached_property
    def _values(self) -> Mapping[str, Value]:
        found = {value.name: value for value in self.inputs}
        for name, array in self.constants.items():
            found[name] = Value(name, from_numpy(array.dtype), array.shape)
        for node in self.nodes:
            for value in node.outputs:
                found[value.name] = value
        return found

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """The nodes at this level by what they make."""
        return {value.name: node for node in self.nodes for value in node.outputs}

    @cached_property
    def places(self) -> Mapping[str, tuple[int, ...]]:
        """Where in `nodes` those of each op stand, in order."""
        found: dict[str, list[int]] = {}
        for at, node in enumerate(self.nodes):
            found.setdefault(node.op, []).append(at)
        return {name: tuple(at) for name, at in found.items()}

    def walk(self) -> Iterator[Node]:
        """Every node, those of nested graphs included."""
        for node in self.nodes:
            yield node
            for inner in node.graphs:
                yield from inner.walk()


def dims_in(attrs: Iterable[Attr]) -> Iterator[Expr]:
    """The symbolic dims among attributes, those in tuples included."""
    for attr in attrs:
        if isinstance(attr, Expr):
            yield attr
        elif isinstance(attr, tuple):
            yield from dims_in(attr)


def binds(node: Node) -> tuple[str, ...]:
    """Size symbols that a node gives their values: a `bind_dim`, or a loop whose states change their sizes."""
    if node.op == "bind_dim":
        return (str(node.attrs.get("symbol", "")),)
    pairs: Any = node.attrs.get("sizes", ()) if node.graphs else ()
    return tuple([str(outer) for _, outer in pairs])


def defined_symbols(graph: Graph) -> set[str]:
    """Symbols that the graph's inputs and nodes define (nested graphs left out)."""
    found: set[str] = set()
    for value in graph.inputs:
        for dim in value.shape:
            found |= symbols(dim)
    for node in graph.nodes:
        found.update(binds(node))
    return found
