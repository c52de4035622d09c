"""Pooling windows of more places than an input has: what lies in none of them is not gone through."""

from __future__ import annotations

import numpy as np
import pytest

from mapsto.devices.cpu.workers import Workers
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ir.graph import Graph
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import run_passes
from mapsto.session.compile import build

# input, kernel, pads, stride, dilation
CASES = [
    (5, 300, (299, 299), 2, 1), (5, 300, (149, 150), 2, 1), (700, 300, (0, 0), 3, 1), (700, 300, (299, 0), 3, 2),
    (5, 301, (0, 700), 1, 1), (5, 301, (700, 0), 1, 1), (9, 400, (399, 900), 7, 3), (1, 257, (256, 256), 300, 1),
]  # fmt: skip


def pooled(
    op: str, extent: int, kernel: int, pads: tuple[int, int], stride: int, dilation: int, is_open: bool
) -> Graph:
    b = Builder("g")
    x = b.input("x", DType.F32, (1, 3, sym("n") if is_open else extent))
    attrs = {"kernel": (kernel,), "strides": (stride,), "pads": pads, "dilations": (dilation,)}
    more = {"count_include_pad": False, "ceil_pads": (0,)} if op == "avg_pool" else {}
    return b.finish([b.one(op, [x], **attrs, **more)], names=["y"])


@pytest.mark.parametrize("op", ["max_pool", "avg_pool", "max_pool_indices"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the mean of no places
def test_windows_beyond_the_input(op: str, case: tuple, is_open: bool, workers: Workers) -> None:  # type: ignore[type-arg]
    graph = pooled(op, *case, is_open)
    exe = build(run_passes(graph), workers, 1, None)
    for extent in (case[0], case[0] + 1, case[0] + 13) if is_open else (case[0],):
        x = np.random.default_rng(extent).standard_normal((1, 3, extent)).astype(np.float32)
        found, expected = exe.run({"x": x})["y"], run_graph(graph, {"x": x})["y"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_window_of_a_million_million_places_ends(workers: Workers) -> None:
    """As `auto_pad=SAME_UPPER` lays it over an image of 5 pixels."""
    half = 1 << 39
    exe = build(run_passes(pooled("avg_pool", 5, 2 * half, (half - 1, half), 2, 1, False)), workers, 1, None)
    x = np.arange(15, dtype=np.float32).reshape(1, 3, 5)
    np.testing.assert_allclose(exe.run({"x": x})["y"], np.repeat(x.mean(axis=2, keepdims=True), 3, axis=2))
