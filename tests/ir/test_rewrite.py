"""Patterns of rewrite rules: what they fit, in which order of operands, and what they bind."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Node, Value
from mapsto.ir.rewrite import Constant, Match, OpPattern, RewriteRule, RuleTable, Wildcard


def value(name: str) -> Value:
    return Value(name, DType.F32, (2,))


class View:
    """Nodes by the one value that they make, and constants."""

    def __init__(self, nodes: Mapping[str, tuple[str, ...]], constants: Mapping[str, float]) -> None:
        self.nodes = {out: Node(op, tuple(operands), (value(out),)) for out, (op, *operands) in nodes.items()}
        self.constants = {name: np.full(2, number, np.float32) for name, number in constants.items()}

    def lookup(self, name: str) -> Value:
        return value(name)

    def producer(self, v: Value) -> Node | None:
        return self.nodes.get(v.name)

    def array(self, v: Value | None) -> np.ndarray | None:
        return None if v is None else self.constants.get(v.name)


VIEW = View({"m": ("mul", "a", "b"), "n": ("neg", "m"), "k": ("neg", "a")}, {"one": 1, "two": 2})


def found(pattern: OpPattern, *inputs: str, readers: int = 1) -> dict[str, str] | None:
    """What the pattern binds, by names; None where it does not fit."""
    table = RuleTable([RewriteRule("rule", pattern, lambda b, m: None)])
    operands = [value(name) if name else None for name in inputs]
    matches = list(table.matches(VIEW, pattern.op, operands, lambda: Match({}, (value("out"),)), lambda v: readers))
    assert len(matches) <= 1
    return {name: bound.name for name, bound in matches[0][1].values.items()} if matches else None


X, Y = Wildcard("x"), Wildcard("y")
ONE = Constant("c", lambda array: bool((array == 1).all()))


@pytest.mark.parametrize(
    ("pattern", "inputs", "bound"),
    [
        (OpPattern("sub", X, Y), ("a", "b"), {"x": "a", "y": "b"}),
        (OpPattern("sub", X, X), ("a", "a"), {"x": "a"}),
        (OpPattern("sub", X, X), ("a", "b"), None),
        (OpPattern("sub", X, ONE), ("a", "one"), {"x": "a", "c": "one"}),
        (OpPattern("sub", X, ONE), ("a", "two"), None),
        (OpPattern("sub", X, ONE), ("one", "a"), None),
        (OpPattern("add", X, ONE, either=True), ("one", "a"), {"x": "a", "c": "one"}),
        (OpPattern("add", X, ONE, either=True), ("a", "b"), None),
        (OpPattern("sub", X, Y), ("a",), None),
        (OpPattern("sub", X, Y), ("a", "b", "a"), None),
        (OpPattern("concat", X, Y, either=True), ("a", "b", "a"), None),
        (OpPattern("sub", X, Y), ("a", ""), None),
        (OpPattern("exp", OpPattern("mul", X, Y)), ("m",), {"x": "a", "y": "b"}),
        (OpPattern("exp", OpPattern("mul", X, Y)), ("n",), None),
        (OpPattern("exp", OpPattern("mul", X, Y, name="z")), ("m",), {"x": "a", "y": "b", "z": "m"}),
        (OpPattern("exp", OpPattern("neg", OpPattern("mul", X, Y))), ("n",), {"x": "a", "y": "b"}),
        (OpPattern("exp", OpPattern("mul", X)), ("m",), None),
        (OpPattern("add", X, OpPattern("mul", X, Y)), ("a", "m"), {"x": "a", "y": "b"}),
        (OpPattern("add", X, OpPattern("mul", Y, X)), ("a", "m"), None),
        (OpPattern("add", X, OpPattern("mul", Y, X, either=True)), ("a", "m"), {"x": "a", "y": "b"}),
        (OpPattern("add", X, OpPattern("mul", Y, X, either=True), either=True), ("m", "a"), {"x": "a", "y": "b"}),
    ],
)
def test_what_fits(pattern: OpPattern, inputs: tuple[str, ...], bound: dict[str, str] | None) -> None:
    assert found(pattern, *inputs) == bound


@pytest.mark.parametrize(
    "pattern", [OpPattern("exp", OpPattern("mul", X, Y, once=True)), OpPattern("exp", Wildcard("x", once=True))]
)
def test_once_is_what_nobody_else_reads(pattern: OpPattern) -> None:
    assert found(pattern, "m") is not None and found(pattern, "m", readers=2) is None


def test_the_nodes_on_the_way_are_told() -> None:
    table = RuleTable(
        [RewriteRule("rule", OpPattern("exp", OpPattern("neg", OpPattern("mul", X, Y), name="z")), lambda b, m: None)]
    )
    ((_, match),) = table.matches(VIEW, "exp", [value("n")], lambda: Match({}, ()), lambda v: 1)
    assert {name: node.op for name, node in match.nodes.items()} == {"z": "neg", "m": "mul"}
    assert (
        table.ops == {"exp"}
        and list(table.matches(VIEW, "log", [value("n")], lambda: Match({}, ()), lambda v: 1)) == []
    )
