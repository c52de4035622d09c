"""Products whose wider operand is turned: turned the other way round, where that moves less."""

from __future__ import annotations

import numpy as np
import pytest

from mapsto.ir.dtypes import DType
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import TurnedProducts


@pytest.mark.parametrize(
    ("a", "b", "turned"),
    [
        ((64, 12), (64, 4), True),
        ((64, 4), (64, 12), False),
        ((64, 8), (64, 8), False),
        ((5, 12), (5, 4), False),  # the result is larger than what would be saved
        ((3, 64, 12), (3, 64, 4), True),
        ((3, 64, 12), (64, 4), False),  # matrices of a batch by one
    ],
)
def test_the_narrower_is_turned(a: tuple[int, ...], b: tuple[int, ...], turned: bool) -> None:
    rng = np.random.default_rng(0)
    feed = {"a": rng.standard_normal(a).astype(np.float32), "b": rng.standard_normal(b).astype(np.float32)}
    builder = Builder("g")
    x, y = (builder.input(name, DType.F32, array.shape) for name, array in feed.items())
    perm = (*range(len(a) - 2), len(a) - 1, len(a) - 2)
    graph = builder.finish([builder.one("matmul", [builder.one("transpose", [x], perm=perm), y])])
    made = TurnedProducts()(graph)
    (before,), (after,) = (run_graph(g, feed).values() for g in (graph, made))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    assert (made.nodes[-1].op == "transpose") == turned


def test_constants_are_left() -> None:
    builder = Builder("g")
    x = builder.input("x", DType.F32, (64, 12))
    w = builder.constant(np.ones((64, 4), np.float32), "w")
    graph = builder.finish([builder.one("matmul", [builder.one("transpose", [x], perm=(1, 0)), w])])
    assert [node.op for node in TurnedProducts()(graph).nodes] == [node.op for node in graph.nodes]
