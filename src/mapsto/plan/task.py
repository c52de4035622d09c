"""Tasks: what one kernel computes, as statements. A task is a work of the plan together with what follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mapsto.ir.graph import Node, Value
from mapsto.kernel.ast import Stmt
from mapsto.kernel.compose import reads
from mapsto.plan.contraction import ACCUMULATOR, Contraction
from mapsto.plan.recipe import Recipe
from mapsto.plan.works import Declined

_NOTHING: frozenset[str] = frozenset()
SLICED = "sliced"


@dataclass(frozen=True)
class Task:
    """`kind`: "rows" (statements), "contraction" (sums of products, `phases`, with statements on their results),
    "routine" (a node whose code is written by hand), "chain" (`stages`: tasks done one after the other by blocks of
    rows, `plan.chain`) or "sliced" (stages done one after the other for each slice, `plan.sliced`).

    nodes: of the graph, in order. made: values that only its statements know. constants: that it makes of others.
    because: the rules that formed it, in words. refused: rules that did not apply.
    parts: the source and the reader that a rule of fusion joined last, if it was made so here.
    """

    kind: str
    recipe: Recipe
    nodes: tuple[Node, ...]
    stmts: tuple[Stmt, ...] = ()
    phases: tuple[Contraction, ...] = ()
    because: tuple[str, ...] = ()
    name: str = ""
    made: Mapping[str, Value] = field(default_factory=dict)
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    refused: tuple[Declined, ...] = ()
    parts: tuple[Task, Task] | None = field(default=None, compare=False, repr=False)
    stages: tuple[Task, ...] = ()

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """Values that it defines, in order."""
        if self.kind == "routine":
            return tuple(v.name for node in self.nodes for v in node.outputs)
        if self.kind == SLICED:
            return tuple(dict.fromkeys(t for s in self.stages for t in s.targets if t not in self.passing))
        if self.stages:
            return self.stages[-1].targets
        own = [self.phases[0].target] if self.phases else []
        return tuple(dict.fromkeys(own + [s.target for s in self.stmts]))

    @cached_property
    def reads(self) -> frozenset[str]:
        """Values from outside that it reads."""
        found = frozenset(n for n in self.nodes[0].inputs if n) if self.kind == "routine" else _NOTHING
        multiplied = ((load.tensor for load in phase.operands) for phase in self.phases)
        found = found.union(*map(reads, self.stmts), *multiplied)
        found = found.union(*(stage.reads for stage in self.stages))
        own = {*self.targets, ACCUMULATOR}.union(*(stage.targets for stage in self.stages))
        return found if found.isdisjoint(own) else found - own

    @cached_property
    def passing(self) -> frozenset[str]:
        """Values that its stages pass on, which are in memory a slice at a time."""
        return frozenset(part.name for part in self.recipe.parts[0].parts) if self.kind == SLICED else _NOTHING

    @cached_property
    def values(self) -> dict[str, Value]:
        """Types of what its statements define and make between them."""
        return {**{v.name: v for node in self.nodes for v in node.outputs}, **self.made}

    @property
    def is_concat(self) -> bool:
        """Whether it is a concatenation and nothing else: no copy of the result, which no node stands for, is in it."""
        return self.kind == "rows" and [n.op for n in self.nodes] == ["concat"] and len(self.targets) == 1

    @property
    def sources(self) -> tuple[str, ...]:
        """The source model's nodes that it stands for."""
        return tuple(dict.fromkeys(p for node in self.nodes for p in node.provenance))

    @property
    def first_nodes(self) -> tuple[str, ...]:
        """Its nodes by their first outputs."""
        return tuple(dict.fromkeys(n.outputs[0].name for n in self.nodes if n.outputs))


def joined_nodes(*groups: Iterable[Node]) -> tuple[Node, ...]:
    """Nodes in order, each once."""
    done: tuple[Node, ...] = ()
    for group in groups:
        have = set(map(id, done))
        done = (*done, *(node for node in group if id(node) not in have)) if done else tuple(group)
    return done
