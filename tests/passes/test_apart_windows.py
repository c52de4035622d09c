"""Transposed convolutions whose windows do not overlap, as products and moves: when, and that nothing changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mapsto.devices.cpu.workers import Workers
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, sym
from mapsto.ir.graph import Graph
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import ApartWindows, run_passes
from mapsto.session.compile import build

CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], bool, dict[str, Any]]] = {
    "one channel": ((1, 24, 5, 7), (24, 1, 2, 2), True, {}),
    "three channels": ((2, 8, 4, 3), (8, 3, 2, 3), False, {}),
    "one dim": ((1, 6, 9), (6, 2, 4), True, {}),
    "three dims": ((1, 4, 2, 3, 2), (4, 1, 2, 1, 3), True, {}),
}
POINTS: dict[str, tuple[tuple[int, ...], tuple[int, ...], bool, dict[str, Any]]] = {
    "every other place": ((2, 24, 5, 7), (24, 16, 1, 1), False, {"strides": (2, 2)}),
    "with a bias": ((1, 6, 5, 7), (6, 3, 1, 1), True, {"strides": (3, 2)}),
    "a border": ((1, 6, 5, 7), (6, 3, 1, 1), True, {"strides": (3, 2), "output_padding": (2, 1)}),
    "cut": ((1, 6, 5, 7), (6, 3, 1, 1), True, {"strides": (3, 2), "pads": (1, 2, 4, 0)}),
    "one way": ((1, 6, 5, 7), (6, 3, 1, 1), False, {"strides": (1, 2)}),
    "point groups": ((1, 6, 5, 7), (6, 2, 1, 1), True, {"strides": (2, 2), "group": 3}),
    "in three dims": ((1, 6, 2, 3, 2), (6, 3, 1, 1, 1), True, {"strides": (2, 1, 3)}),
    "no batch": ((0, 6, 5, 7), (6, 3, 1, 1), True, {"strides": (2, 2)}),
}
OTHERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], bool, dict[str, Any]]] = {
    "windows overlap": ((1, 24, 5, 7), (24, 1, 3, 3), True, {"strides": (2, 2)}),
    "gaps between windows": ((1, 24, 5, 7), (24, 1, 2, 2), True, {"strides": (3, 3)}),
    "padding": ((1, 24, 5, 7), (24, 1, 2, 2), True, {"pads": (1, 0, 0, 0)}),
    "a border": ((1, 24, 5, 7), (24, 1, 2, 2), True, {"output_padding": (1, 0)}),
    "dilation": ((1, 24, 5, 7), (24, 1, 2, 2), True, {"dilations": (2, 2)}),
    "groups": ((1, 24, 5, 7), (24, 1, 2, 2), True, {"group": 2}),
    "many channels": ((1, 24, 5, 7), (24, 8, 2, 2), True, {}),
    "a window of one": ((1, 24, 5, 7), (24, 1, 1, 1), True, {}),
    "few inputs": ((1, 2, 5, 7), (2, 1, 2, 2), True, {}),
}


def spread(x: Sequence[Dim], w: Sequence[int], bias: bool, attrs: dict[str, Any]) -> Graph:
    b, rng, rank = Builder("g"), np.random.default_rng(0), len(w) - 2
    own = {"strides": tuple(w[2:]), "pads": (0,) * 2 * rank, "dilations": (1,) * rank, "group": 1}
    own["output_padding"] = (0,) * rank
    inputs = [b.input("x", DType.F32, tuple(x)), b.constant(rng.standard_normal(w).astype(np.float32), "w")]
    channels = w[1] * attrs.get("group", 1)
    inputs += [b.constant(rng.standard_normal(channels).astype(np.float32), "bias")] if bias else []
    return b.finish([b.one("sigmoid", [b.one("conv_transpose", inputs, **own | attrs)])], names=["y"])


def ops_of(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


@pytest.mark.parametrize("name", CASES)
def test_it_is_a_product_and_the_same_numbers(name: str, workers: Workers) -> None:
    graph = spread(*CASES[name])
    made = ApartWindows()(graph)
    assert "conv" in ops_of(made) and "conv_transpose" not in ops_of(made)
    feed = {"x": np.random.default_rng(1).standard_normal(CASES[name][0]).astype(np.float32)}
    before = run_graph(graph, feed)["y"]
    np.testing.assert_allclose(run_graph(made, feed)["y"], before, rtol=2e-6, atol=1e-7)
    native = build(run_passes(graph), workers, 2, None).run(feed)["y"]
    np.testing.assert_allclose(native, before, rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize("name", POINTS)
def test_windows_of_a_point_are_products_with_zeros_between(name: str, workers: Workers) -> None:
    graph = spread(*POINTS[name])
    made = ApartWindows()(graph)
    assert [set(node.attrs["strides"]) for node in made.nodes if node.op == "conv_transpose"] == [{1}]
    feed = {"x": np.random.default_rng(1).standard_normal(POINTS[name][0]).astype(np.float32)}
    before = run_graph(graph, feed)["y"]
    np.testing.assert_allclose(run_graph(made, feed)["y"], before, rtol=2e-6, atol=1e-7)
    native = build(run_passes(graph), workers, 2, None).run(feed)["y"]
    np.testing.assert_allclose(native, before, rtol=5e-6, atol=1e-6)


def test_open_sizes_of_points(workers: Workers) -> None:
    graph = spread((sym("n"), 6, sym("h"), 4), (6, 3, 1, 1), True, {"strides": (2, 2), "output_padding": (1, 0)})
    exe = build(run_passes(graph), workers, 2, None)
    for shape in ((1, 6, 3, 4), (2, 6, 1, 4)):
        feed = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
        np.testing.assert_allclose(exe.run(feed)["y"], run_graph(graph, feed)["y"], rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize("name", OTHERS)
def test_others_stay(name: str) -> None:
    graph = spread(*OTHERS[name])
    assert ops_of(ApartWindows()(graph)) == ["conv_transpose", "sigmoid"]


def test_sizes_may_be_open(workers: Workers) -> None:
    graph = spread((sym("n"), 24, sym("h"), sym("w")), (24, 1, 2, 2), True, {})
    exe = build(run_passes(graph), workers, 2, None)
    for shape in ((1, 24, 3, 4), (2, 24, 1, 9), (0, 24, 2, 2)):
        feed = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
        np.testing.assert_allclose(exe.run(feed)["y"], run_graph(graph, feed)["y"], rtol=5e-6, atol=1e-6)
