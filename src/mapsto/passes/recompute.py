"""Values of the forward part of a step that its backward part computes anew, instead of keeping them in memory.

What is cheap to compute from what is kept anyway (an activation from the sums of a convolution and its statistics)
takes memory from where it is made to where its gradient is: for longer than most. Computed again just before it is
read, it is alive for a few steps (A. Griewank, A. Walther, "Algorithm 799: revolve", 2000; T. Chen, B. Xu, C. Zhang, C.
Guestrin, "Training Deep Nets with Sublinear Memory Cost", 2016). No product is computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from mapsto.ir.expr import Dim
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ops.builder import Builder
from mapsto.ops.registry import op
from mapsto.passes.retrace import retrace
from mapsto.passes.sites import Site

MEMORY = ("fast", "balanced", "min")
"""How much is computed again: nothing; what goes element by element or only moves; sums over axes and windows too."""

_KINDS = {"balanced": ("elementwise", "movement"), "min": ("elementwise", "movement", "reduction", "window")}
_AGAIN = "again"  # the attribute that keeps a node apart from the one that computed the same before
_TYPICAL = 64  # an extent that only a run knows
_LEAST_BYTES = 1 << 12  # that are worth a step


def recomputed(graph: Graph, loss: str, memory: str) -> Graph:
    """A graph of a step, whose nodes up to the one that makes the loss are its forward part, with values computed anew.
    memory: one of `MEMORY`. Graphs with branches or loops stay as they are.
    """
    if memory == "fast" or any(node.graphs for node in graph.nodes):
        return graph
    choice = _Choice(graph, loss, _KINDS[memory])
    chosen = choice.chosen()
    return retrace(graph, _Anew(choice, chosen)) if chosen else graph


@dataclass
class _Choice:
    """Which values are computed anew. `needed`: of the forward part, those that the backward part reads."""

    graph: Graph
    loss: str
    kinds: Sequence[str]
    makers: dict[str, tuple[int, Node]] = field(default_factory=dict)
    edge: int = -1
    needed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for at, node in enumerate(self.graph.nodes):
            self.makers.update((value.name, (at, node)) for value in node.outputs)
        self.edge = self.makers[self.loss][0] if self.loss in self.makers else -1
        later = [name for node in self.graph.nodes[self.edge + 1 :] for name in node.inputs]
        self.needed = [n for n in dict.fromkeys(later) if n in self.makers and self.makers[n][0] <= self.edge]

    @cached_property
    def known(self) -> frozenset[str]:
        return frozenset(self.needed)

    def is_cheap(self, name: str) -> bool:
        return op(self.makers[name][1].op).kind in self.kinds and name not in self.graph.outputs

    def chosen(self) -> set[str]:
        """Latest first: where what has to be kept for it besides takes less than it does."""
        kept, found = set[str](), set[str]()
        values = self.graph.values()
        for name in sorted(self.needed, key=lambda n: -self.makers[n][0]):
            if not self.is_cheap(name):
                continue
            more = {leaf for leaf in self.leaves(name) if leaf not in self.known and leaf not in kept}
            if _bytes(values[name]) - sum(_bytes(values[leaf]) for leaf in more) >= _LEAST_BYTES:
                found.add(name)
                kept |= more
        return found

    def leaves(self, name: str) -> set[str]:
        """What has to be in memory for it: what is needed anyway, and what is not cheap."""
        found, todo, seen = set[str](), [name], set[str]()
        while todo:
            for read in self.makers[todo.pop()][1].inputs:
                if not read or read not in self.makers or read in seen:
                    continue
                seen.add(read)
                if read in self.known or not self.is_cheap(read):
                    found.add(read)
                else:
                    todo.append(read)
        return found


def _bytes(value: Value) -> int:
    return value.dtype.size * math.prod(_number(d) for d in value.shape)


def _number(dim: Dim) -> int:
    return dim if isinstance(dim, int) else _TYPICAL


@dataclass
class _Anew:
    """A rewrite: nodes behind the loss read what was computed anew, in the place where the first of them stands."""

    choice: _Choice
    chosen: set[str]
    values: dict[str, Value] = field(default_factory=dict)
    again: dict[str, Value] = field(default_factory=dict)

    def __call__(self, site: Site) -> Sequence[Value] | None:
        node, b = site.node, site.builder
        if not node.outputs:
            return None
        at, _ = self.choice.makers[node.outputs[0].name]
        inputs = list(site.inputs)
        if at > self.choice.edge:
            inputs = [
                self._anew(b, name) if name in self.chosen else value
                for name, value in zip(node.inputs, inputs, strict=True)
            ]
        made = b.add(node.op, inputs, site.attrs)
        self.values.update(zip((v.name for v in node.outputs), made, strict=True))
        return made

    def _anew(self, b: Builder, name: str) -> Value:
        """The value made again, and before it what it is made of, but for what is kept."""
        todo = [name]
        while todo:
            current = todo[-1]
            node = self.choice.makers[current][1]
            before = [n for n in node.inputs if n and n not in self.again and self._is_again(n)]
            if before:
                todo += before
                continue
            todo.pop()
            if current in self.again:
                continue
            inputs = [None if not n else self.again.get(n) or self._kept(b, n) for n in node.inputs]
            attrs: Mapping[str, object] = {**node.attrs, _AGAIN: 1}
            with b.source(*node.provenance):
                made = b.add(node.op, inputs, dict(attrs))
            self.again.update(zip((v.name for v in node.outputs), made, strict=True))
        return self.again[name]

    def _is_again(self, name: str) -> bool:
        if name in self.chosen:
            return True
        return name in self.choice.makers and name not in self.choice.known and self.choice.is_cheap(name)

    def _kept(self, b: Builder, name: str) -> Value:
        return self.values[name] if name in self.values else b.lookup(name)
