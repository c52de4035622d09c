"""Whose sources a graph built anew carries: those of a node that is gone go on to whoever read it.

A rewrite gives the value that takes a node's place. What the old node read may then be read by nobody (both negations
of -(-x), the condition of a choice between equals), and what it made may have no node (an input, a constant). The nodes
before and after are held side by side here, once a graph is built: where nothing alive stands for an old node, its
sources are handed to the old nodes that read it, and so on, until one is reached that something alive stands for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from mapsto.ir.graph import Graph, Node, Value
from mapsto.ir.region import reads
from mapsto.ops.builder import Builder
from mapsto.ops.provenance import Trail
from mapsto.passes.dead_code import DeadCode

# A size symbol among the names of values.
_SIZE = "size "


@dataclass(frozen=True)
class Trace:
    """What became of an old node: names that it read and made, the values in their place, the sources it stands for."""

    reads: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[Value, ...]
    symbol: str  # that the node binds; "" for nodes that bind none
    sources: tuple[str, ...]

    @staticmethod
    def of(node: Node, after: Sequence[Value], sizes: Collection[str], more: Sequence[str]) -> Trace:
        """sizes: symbols that the node mentions and its graph binds. more: sources besides the node's own."""
        symbol = str(node.attrs["symbol"]) if node.op == "bind_dim" else ""
        read = [name for name in node.inputs if name]
        if node.graphs:  # what an inlined branch yields as well
            read += [*sorted(reads(node)), *(name for inner in node.graphs for name in inner.outputs)]
        read += [_SIZE + name for name in sorted(sizes) if name != symbol]
        made = tuple(v.name for v in node.outputs) + ((_SIZE + symbol,) if symbol else ())
        return Trace(tuple(read), made, tuple(after), symbol, (*node.provenance, *more))


def hand_on(builder: Builder, traces: Iterable[Trace], outputs: Sequence[str], made: Sequence[Value]) -> list[Trail]:
    """Gives sources of nodes that are gone to those that stand for their readers; what is left, for each output.

    outputs: the names of the old graph's outputs, made: the values in their place.
    """
    values, symbols = _alive(builder, made)
    waiting: dict[str, Trail] = {}  # old name -> sources that nothing alive stands for
    for trace in traces:
        sources = Trail(trace.sources, tuple(waiting[name] for name in trace.reads if name in waiting))
        # a value of a graph around is read from here, and so alive
        images = [v for v in trace.after if v.name in values or _is_outside(builder, v)]
        for value in images:
            builder.attribute(value, sources)
        if not images and trace.symbol not in symbols:
            waiting.update(dict.fromkeys(trace.before, sources))
    return [waiting.get(name, Trail()) for name in outputs]


def _alive(builder: Builder, made: Sequence[Value]) -> tuple[set[str], set[str]]:
    """Names of the values whose nodes the outputs need, and the symbols that such nodes bind."""
    graph = Graph(builder.name, tuple(builder.inputs), tuple(v.name for v in made), tuple(builder.nodes))
    nodes = DeadCode()(graph).nodes
    values = {v.name for node in nodes for v in node.outputs}
    return values, {str(node.attrs["symbol"]) for node in nodes if node.op == "bind_dim"}


def _is_outside(builder: Builder, value: Value) -> bool:
    return value.name not in builder.values and builder.producer(value) is not None
