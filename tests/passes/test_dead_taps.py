"""Taps that read padding alone are left out; the others read what they read before."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ir.graph import Graph
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes.dead_taps import DeadTaps

# (extent, taps, stride, dilation, padding before and after), and the taps and the padding that are left
CASES = {
    "wider than the image": ((16, 3, 1, 24, 24, 24), (1, 0, 0)),
    "some windows reach": ((16, 3, 1, 12, 12, 12), (3, 12, 12)),
    "one element": ((1, 3, 1, 1, 1, 1), (1, 0, 0)),
    "one element, strided": ((1, 5, 2, 1, 2, 2), (1, 0, 0)),
    "the first only": ((8, 3, 1, 6, 6, 0), (2, 0, 0)),
    "the last only": ((2, 3, 1, 2, 1, 3), (2, 1, 1)),
    "strides past it": ((3, 4, 4, 1, 1, 2), (3, 0, 2)),
    "no padding": ((9, 3, 1, 2, 0, 0), (3, 0, 0)),
}


def convolution(axis: tuple[int, ...], other: tuple[int, ...], constant: bool = True) -> Graph:
    extents, taps, strides, dilations, before, after = zip(axis, other, strict=True)
    b, rng = Builder("g"), np.random.default_rng(0)
    x = b.input("x", DType.F32, (2, 3, *extents))
    weights = rng.integers(-4, 5, (4, 3, *taps)).astype(np.float32)
    w = b.constant(weights, "w") if constant else b.input("w", DType.F32, weights.shape)
    made = b.one("conv", [x, w], strides=strides, dilations=dilations, pads=(*before, *after), group=1)
    return b.finish([made])


def assert_as_before(graph: Graph) -> Graph:
    rng = np.random.default_rng(1)
    feed = {v.name: rng.integers(-4, 5, v.shape).astype(np.float32) for v in graph.inputs}  # type: ignore[arg-type]
    left = DeadTaps()(graph)
    (before,), (after,) = run_graph(graph, feed).values(), run_graph(left, feed).values()
    assert np.array_equal(before, after)
    return left


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_what_is_left(case: str, constant: bool) -> None:
    axis, (taps, before, after) = CASES[case]
    left = assert_as_before(convolution(axis, (7, 3, 1, 1, 1, 1), constant))
    (conv,) = [node for node in left.nodes if node.op == "conv"]
    assert left.values()[conv.inputs[1]].shape == (4, 3, taps, 3)
    assert conv.attrs["pads"] == (before, 1, after, 1)


def test_all_small_windows() -> None:
    ranges = (range(1, 5), range(1, 4), range(1, 4), range(1, 5), range(4), range(4))
    cases = [c for c in itertools.product(*ranges) if c[0] + c[4] + c[5] > (c[1] - 1) * c[3]]
    for case in cases[::7]:
        assert_as_before(convolution(case, (5, 3, 1, 3, 3, 3)))


def test_open_sizes_keep_all_taps() -> None:
    b = Builder("g")
    x = b.input("x", DType.F32, (1, 1, sym("n")))
    w = b.constant(np.ones((1, 1, 3), np.float32), "w")
    left = DeadTaps()(b.finish([b.one("conv", [x, w], strides=(1,), dilations=(1,), pads=(1, 1), group=1)]))
    (conv,) = left.nodes
    assert conv.inputs[1] == "w" and conv.attrs["pads"] == (1, 1)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_taps_that_make_nan_of_padding_stay(value: float) -> None:
    b = Builder("g")
    weights = np.ones((4, 3, 3, 3), np.float32)
    weights[1, 2, 0, 0] = value
    x, w = b.input("x", DType.F32, (2, 3, 1, 1)), b.constant(weights, "w")
    made = b.one("conv", [x, w], strides=(1, 1), dilations=(1, 1), pads=(1, 1, 1, 1), group=1)
    graph = b.finish([made])
    feed = {"x": np.ones((2, 3, 1, 1), np.float32)}
    (before,), (after,) = (run_graph(each, feed).values() for each in (graph, DeadTaps()(graph)))
    assert np.isnan(before[:, 1]).all()
    np.testing.assert_array_equal(after, before)
