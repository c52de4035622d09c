"""Sums over what the maxima of windows hand back."""

from __future__ import annotations

import numpy as np
import pytest

from mapsto.ir.dtypes import DType
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import PooledSums


@pytest.mark.parametrize(
    ("axes", "kind", "fewer"),
    [((0, 2, 3), "sum", True), ((2, 3), "sum", True), ((0, 1, 2, 3), "sum", True), ((-1, -2), "sum", True),
     ((0, 2), "sum", False), ((0, 1), "sum", False), ((2, 3), "mean", False)],
)  # fmt: skip
@pytest.mark.parametrize("keepdims", [True, False])
def test_sums(axes: tuple[int, ...], kind: str, fewer: bool, keepdims: bool) -> None:
    rng = np.random.default_rng(0)
    feed = {"x": rng.integers(0, 3, (2, 3, 4, 6)).astype(np.float64), "g": rng.standard_normal((2, 3, 2, 2))}
    feed["x"][0, 0, 0, 0] = np.nan
    b = Builder("g")
    x, g = (b.input(name, DType.F64, array.shape) for name, array in feed.items())
    back = b.one("max_pool_gradient", [x, g], kernel=(2, 3))
    graph = b.finish([b.one("reduce", [back], kind=kind, axes=axes, keepdims=keepdims)])
    made = PooledSums()(graph)
    (before,), (after,) = (run_graph(each, feed).values() for each in (graph, made))
    np.testing.assert_allclose(after, before, rtol=1e-12, atol=1e-12)
    (reduce,) = [node for node in made.nodes if node.op == "reduce"]
    assert (reduce.inputs == ("g",)) == fewer
