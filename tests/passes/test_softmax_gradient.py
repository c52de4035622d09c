"""Gradients of softmaxes that a graph has node by node."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Value
from mapsto.ops import composite
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import gradient

Net = Callable[[Builder, Value], Value]


def _soft(axis: int) -> Net:
    return lambda b, x: composite.softmax(b, x, axis)


def _log(axis: int) -> Net:
    return lambda b, x: composite.log_softmax(b, x, axis)


def _exponentials_elsewhere(b: Builder, x: Value) -> Value:
    """Everything that a softmax is made of has another reader."""
    m = composite.reduce(b, x, "max", [1])
    z = b.one("sub", [x, m])
    e = b.one("exp", [z])
    total = composite.reduce(b, e, "sum", [1])
    y = b.one("div", [e, total])
    parts = [y, b.one("mul", [e, x]), b.one("mul", [z, z]), b.one("expand", [b.one("mul", [total, m])], shape=x.shape)]
    while len(parts) > 1:
        parts[:2] = [b.one("add", parts[:2])]
    return parts[0]


def _of_a_sum(b: Builder, x: Value) -> Value:
    return b.one("mul", [composite.softmax(b, b.one("mul", [x, x]), 1), composite.softmax(b, x, 0)])


NETS: dict[str, tuple[Net, tuple[int, ...]]] = {
    "last axis": (_soft(-1), (3, 5)),
    "first axis": (_soft(0), (3, 5)),
    "middle axis": (_soft(1), (2, 4, 3)),
    "logarithms": (_log(-1), (3, 5)),
    "logarithms of the first axis": (_log(0), (3, 5)),
    "one element": (_soft(-1), (4, 1)),
    "read elsewhere": (_exponentials_elsewhere, (3, 4)),
    "of a sum": (_of_a_sum, (3, 4)),
}


def _graph(net: Net, shape: tuple[int, ...]) -> tuple[Graph, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    b = Builder("net")
    x = b.input("x", DType.F64, shape)
    weights = rng.standard_normal(shape)
    weighted = b.one("mul", [net(b, x), b.constant(weights)])
    loss = b.one("reduce", [weighted], kind="sum", axes=tuple(range(len(shape))), keepdims=False)
    return b.finish([loss], names=["loss"]), rng.standard_normal(shape), weights


@pytest.mark.parametrize("case", NETS)
def test_it_is_the_derivative(case: str) -> None:
    graph, x, _ = _graph(*NETS[case])
    found = run_graph(gradient(graph, "loss", ["x"]), {"x": x})["x.gradient"]
    expected = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        moved = [x.copy(), x.copy()]
        moved[0][place] += 1e-6
        moved[1][place] -= 1e-6
        up, down = (float(run_graph(graph, {"x": each})["loss"]) for each in moved)
        expected[place] = (up - down) / 2e-6
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("net", [_soft(-1), _log(-1)])
def test_nothing_goes_to_the_maximum(net: Net) -> None:
    graph, x, _ = _graph(net, (4, 6))
    made = gradient(graph, "loss", ["x"])
    assert not [node.op for node in made.nodes if node.op in ("eq", "select", "cast")], "a maximum was differentiated"
    rows = run_graph(made, {"x": x})["x.gradient"].sum(axis=-1)
    np.testing.assert_allclose(rows, 0, atol=1e-15)


def test_what_reads_the_shifted_values_too_reaches_the_maximum() -> None:
    graph, _, _ = _graph(_exponentials_elsewhere, (4, 6))
    assert [node for node in gradient(graph, "loss", ["x"]).nodes if node.op == "eq"]
