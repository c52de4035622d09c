"""Rewrite rules as data: a pattern over nodes, and what to put in its place.

    RewriteRule("x - x == 0", OpPattern("sub", Wildcard("x"), Wildcard("x")), lambda b, m: ...)

A pattern is matched at a node that is about to be built, against the nodes already built (`GraphView`); its leaves bind
values by name. A variable that occurs twice must be the same value. The rewrite is called with the builder and the
match; it gives the value that takes the node's place, or None where a condition that the pattern cannot say does not
hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Protocol

import numpy as np

from mapsto.ir.graph import Node, Value


class GraphView(Protocol):
    """What matching needs to know of a graph (a builder does)."""

    def lookup(self, name: str) -> Value: ...

    def producer(self, value: Value) -> Node | None: ...

    def array(self, value: Value | None) -> np.ndarray | None: ...


@dataclass(frozen=True)
class Wildcard:
    """Any value. With `once`, only one that nobody else reads."""

    name: str
    once: bool = False


@dataclass(frozen=True)
class Constant:
    """A constant, with a condition on its elements."""

    name: str
    where: Callable[[np.ndarray], bool] = lambda array: True


@dataclass(frozen=True, init=False)
class OpPattern:
    """The output of a node. `either`: its two operands may be swapped. `name` binds the value; `once`: nobody else
    reads it.
    """

    op: str
    inputs: tuple[Pattern, ...]
    either: bool = False
    name: str = ""
    once: bool = False

    def __init__(self, op: str, *inputs: Pattern, either: bool = False, name: str = "", once: bool = False) -> None:
        object.__setattr__(self, "op", op)
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "either", either)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "once", once)


Pattern = Wildcard | Constant | OpPattern


@dataclass
class Match:
    """What a pattern found: values by name, the nodes below the root that it went through, and the root's own
    attributes and types.
    """

    attrs: Mapping[str, Any]
    outputs: tuple[Value, ...]
    values: dict[str, Value] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Value:
        return self.values[name]

    @property
    def output(self) -> Value:
        """The value that the node would make."""
        return self.outputs[0]


@dataclass(frozen=True)
class RewriteRule:
    """One line of algebra, the pattern of its left side, and the function that builds its right side."""

    algebra: str
    pattern: OpPattern
    rewrite: Callable[[Any, Match], Value | None]


class RuleTable:
    """Rules by the op at their root; tried in the order given."""

    def __init__(self, rules: Iterable[RewriteRule]) -> None:
        self.rules = tuple(rules)
        self._by_op: dict[str, list[RewriteRule]] = {}
        for rule in self.rules:
            self._by_op.setdefault(rule.pattern.op, []).append(rule)

    @property
    def ops(self) -> frozenset[str]:
        """The ops at the rules' roots."""
        return frozenset(self._by_op)

    def __add__(self, other: RuleTable) -> RuleTable:
        return RuleTable((*self.rules, *other.rules))

    def matches(
        self,
        view: GraphView,
        op: str,
        inputs: Sequence[Value | None],
        match: Callable[[], Match],
        readers: Callable[[Value], int],
    ) -> Iterator[tuple[RewriteRule, Match]]:
        """Rules whose pattern fits a node with this op and these inputs."""
        for rule in self._by_op.get(op, ()):
            for order in _orders(rule.pattern, inputs):
                if not all(map(_may_fit, repeat(view), rule.pattern.inputs, order)):  # most of them
                    continue
                found = match()
                if _all(view, rule.pattern.inputs, order, found, readers):
                    yield rule, found
                    break


def _may_fit(view: GraphView, pattern: Pattern, value: Value | None) -> bool:
    """Whether a pattern may fit a value, by the kind of thing that it is."""
    if value is None or isinstance(pattern, Wildcard):
        return value is not None
    if isinstance(pattern, Constant):
        return view.array(value) is not None
    node = view.producer(value)
    return node is not None and node.op == pattern.op


def _orders(pattern: OpPattern, inputs: Sequence[Value | None]) -> Iterator[Sequence[Value | None]]:
    if len(pattern.inputs) != len(inputs):
        return
    yield inputs
    if pattern.either:
        yield inputs[::-1]


def _all(
    view: GraphView,
    patterns: Sequence[Pattern],
    values: Sequence[Value | None],
    match: Match,
    readers: Callable[[Value], int],
) -> bool:
    return all(v is not None and _fits(view, p, v, match, readers) for p, v in zip(patterns, values, strict=True))


def _bind(match: Match, name: str, value: Value) -> bool:
    if not name:
        return True
    return match.values.setdefault(name, value).name == value.name


def _fits(view: GraphView, pattern: Pattern, value: Value, match: Match, readers: Callable[[Value], int]) -> bool:
    if isinstance(pattern, Wildcard):
        return (not pattern.once or readers(value) == 1) and _bind(match, pattern.name, value)
    if isinstance(pattern, Constant):
        array = view.array(value)
        if array is None or not pattern.where(array):
            return False
        match.arrays[pattern.name] = array
        return _bind(match, pattern.name, value)
    node = view.producer(value)
    if node is None or node.op != pattern.op or len(node.outputs) != 1 or (pattern.once and readers(value) != 1):
        return False
    operands = [view.lookup(n) if n else None for n in node.inputs]
    for order in _orders(pattern, operands):
        trial = Match(match.attrs, match.outputs, dict(match.values), dict(match.arrays), dict(match.nodes))
        if _all(view, pattern.inputs, order, trial, readers) and _bind(trial, pattern.name, value):
            match.values, match.arrays, match.nodes = trial.values, trial.arrays, trial.nodes
            match.nodes[pattern.name or value.name] = node
            return True
    return False
