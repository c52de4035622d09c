"""Contractions of what was widened take it as it was, and give the same numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import NarrowProducts, run_passes

U8, I8, I16, I32, F16, BF16, F32 = (getattr(DType, n) for n in ("U8", "I8", "I16", "I32", "F16", "BF16", "F32"))


def narrowed(graph: Graph) -> Node:
    """The contraction of a graph after all passes; results are checked on the way, bit for bit where integers are."""
    after = run_passes(graph)
    rng = np.random.default_rng(3)
    feeds = {
        v.name: (
            rng.standard_normal(v.shape).astype(v.dtype.numpy)  # type: ignore[arg-type]
            if v.dtype.is_float
            else rng.integers(np.iinfo(v.dtype.numpy).min, np.iinfo(v.dtype.numpy).max + 1, v.shape, v.dtype.numpy)  # type: ignore[arg-type]
        )
        for v in graph.inputs
    }
    before, found = run_graph(graph, feeds)["y"], run_graph(after, feeds)["y"]
    assert found.dtype == before.dtype
    if found.dtype.kind == "i":
        np.testing.assert_array_equal(found, before)
    else:
        np.testing.assert_allclose(found.astype(np.float64), before.astype(np.float64), rtol=1e-5, atol=1e-5)
    return next(node for node in after.nodes if node.op in ("conv", "matmul"))


def types(graph: Graph) -> tuple[DType, ...]:
    node, values = narrowed(graph), run_passes(graph).values()
    return tuple(values[name].dtype for name in node.inputs[:2])


def conv(zero: int | None, low: int, high: int, pads: int = 1, dtype: DType = U8, bias: bool = False) -> Graph:
    b = Builder("g")
    x = b.one("cast", [b.input("x", dtype, (1, 6, 5, 5))], to=I32)
    if zero is not None:
        x = b.one("sub", [x, b.constant(np.asarray(zero, np.int32))])
    w = np.random.default_rng(1).integers(low, high + 1, (8, 6, 3, 3), dtype=np.int32)
    w.reshape(-1)[:2] = low, high
    inputs = [x, b.constant(w, "w"), *([b.constant(np.arange(8, dtype=np.int32), "b")] if bias else [])]
    y = b.one("conv", inputs, strides=(1, 1), pads=(pads,) * 4, dilations=(1, 1), group=1)
    return b.finish([y], names=["y"])


@pytest.mark.parametrize("zero", [None, 0, 3, 128, 255])
@pytest.mark.parametrize("pads", [0, 1])
def test_bytes_with_weights_that_fit_a_byte(zero: int | None, pads: int) -> None:
    assert types(conv(zero, -128, 127, pads, bias=True)) == (U8, I8)


def test_weights_beyond_a_byte_are_16_bits_wide() -> None:
    assert types(conv(3, -100, 155)) == (I16, I16)
    assert types(conv(None, 0, 255)) == (U8, I16)


def test_a_zero_point_that_the_bytes_do_not_have_is_no_padding() -> None:
    assert types(conv(200, -128, 127, dtype=I8)) == (I16, I8)
    assert types(conv(200, -128, 127, 0, dtype=I8)) == (I8, I8)


def test_integers_that_were_never_narrow_stay() -> None:
    assert types(conv(None, -(1 << 20), 1 << 20)) == (I32, I32)
    b = Builder("g")
    x = b.one("sub", [b.one("cast", [b.input("x", U8, (4, 5))], to=I32), b.input("z", I32, ())])
    y = b.one("matmul", [x, b.constant(np.ones((5, 6), np.int32), "w")])
    assert types(b.finish([y], names=["y"])) == (I32, I32)


def matmul(zero: Callable[[Builder], Value], run_time: bool) -> Graph:
    b = Builder("g")
    wide = [b.one("cast", [b.input("x", U8, (7, 5))], to=I32)]
    if run_time:
        wide.append(b.one("cast", [b.input("w", I8, (5, 6))], to=I32))
    else:
        wide.append(b.constant(np.arange(30, dtype=np.int32).reshape(5, 6) - 15, "w"))
    return b.finish([b.one("matmul", [b.one("sub", [wide[0], zero(b)]), wide[1]])], names=["y"])


def test_zero_points_that_a_run_makes() -> None:
    def scalar(b: Builder) -> Value:
        return b.one("cast", [b.input("z", U8, ())], to=I32)

    def a_row(b: Builder) -> Value:
        return b.one("reshape", [b.one("cast", [b.input("z", U8, (7,))], to=I32)], shape=(7, 1))

    def a_column(b: Builder) -> Value:
        return b.one("cast", [b.input("z", U8, (5,))], to=I32)

    assert types(matmul(scalar, run_time=False)) == (U8, I8)
    assert types(matmul(a_row, run_time=False)) == (U8, I8)
    assert types(matmul(a_column, run_time=False)) == (I16, I8)  # it varies along what is summed
    assert types(matmul(scalar, run_time=True)) == (I16, I8)


@pytest.mark.parametrize("half", [F16, BF16])
def test_halves_with_f32_results(half: DType) -> None:
    def graph(weights: np.ndarray) -> Graph:
        b = Builder("g")
        x = b.one("cast", [b.input("x", half, (4, 5))], to=F32)
        return b.finish([b.one("matmul", [x, b.constant(weights, "w")])], names=["y"])

    exact = np.arange(30, dtype=np.float32).reshape(5, 6) / 4
    assert types(graph(exact)) == (half, half)
    assert types(graph(exact + np.float32(2.0**-20))) == (half, F32)  # it would be rounded
    assert NarrowProducts()(run_passes(graph(exact))) is not None


def test_scales_are_not_folded_into_weights_that_would_round_them() -> None:
    b = Builder("g")
    x = b.one("cast", [b.input("x", BF16, (4, 5))], to=F32)
    y = b.one("matmul", [x, b.constant(np.ones((5, 6), np.float32), "w")])
    y = b.one("mul", [y, b.constant(np.linspace(0.1, 0.2, 6).astype(np.float32), "s")])
    graph = b.finish([y], names=["y"])
    feeds = {"x": np.ones((4, 5), BF16.numpy)}
    once, again = run_passes(graph), run_passes(run_passes(graph))
    for after in (once, again):
        np.testing.assert_allclose(run_graph(after, feeds)["y"], run_graph(graph, feeds)["y"], rtol=1e-6)
