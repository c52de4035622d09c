"""Sums of integers that are quantised again are scaled once: against exact quotients, but for ties."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.ops.quantisation import quantise
from mapsto.passes import DeadCode, Identities, Requantised, run_passes

F32, U8, I8, I32 = DType.F32, DType.U8, DType.I8, DType.I32
SCALE = np.float32(0.037)


def real(b: Builder, q: Value, factor: float = 0.0123) -> Value:
    return b.one("mul", [b.one("cast", [q], to=F32), b.constant(np.float32(factor))])


def plain(b: Builder, q: Value, p: Value) -> Value:
    return real(b, q)


def shifted(b: Builder, q: Value, p: Value) -> Value:
    return b.one("add", [real(b, q), b.constant(np.float32(-0.4))])


def of_a_relu(b: Builder, q: Value, p: Value) -> Value:
    return b.one("relu", [shifted(b, q, p)])


def between_limits(b: Builder, q: Value, p: Value) -> Value:
    low = b.one("max", [real(b, q), b.constant(np.float32(-1.5))])
    return b.one("min", [low, b.constant(np.float32(1.25))])


def of_two(b: Builder, q: Value, p: Value) -> Value:
    return b.one("relu", [b.one("add", [real(b, q), real(b, p, 0.0071)])])


def less(b: Builder, q: Value, p: Value) -> Value:
    return b.one("sub", [real(b, q), real(b, p, 0.0071)])


def times(b: Builder, q: Value, p: Value) -> Value:
    return b.one("mul", [real(b, q, 0.002), b.one("sigmoid", [real(b, p)])])


def times_itself(b: Builder, q: Value, p: Value) -> Value:
    x = real(b, q)
    return b.one("mul", [x, b.one("sigmoid", [x])])


def graph_of(
    build: Callable[[Builder, Value, Value], Value], dtype: DType = U8, zero: int = 3, again: bool = False
) -> Graph:
    b = Builder("g")
    q, p = (b.one("cast", [b.input(name, I8, (2, 500))], to=I32) for name in "qp")
    made = build(b, q, p)
    result = quantise(b, made, b.constant(SCALE), b.constant(np.asarray(zero, dtype.numpy)), dtype)
    return b.finish([result, made] if again else [result], names=["y", "made"] if again else ["y"])


def ops(graph: Graph) -> set[str]:
    """Of what the outputs need."""
    return {node.op for node in DeadCode()(graph).nodes}


def feed() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {name: rng.integers(-128, 128, (2, 500), np.int8) for name in "qp"}


@pytest.mark.parametrize("dtype, zero", [(U8, 0), (U8, 3), (I8, -128), (I8, 5)])
@pytest.mark.parametrize("build", [plain, shifted, of_a_relu, between_limits, of_two, less, times])
def test_scaled_once(build: Callable[[Builder, Value, Value], Value], dtype: DType, zero: int) -> None:
    graph = graph_of(build, dtype, zero)
    after = run_passes(Requantised()(graph), (Identities(), DeadCode()))
    assert "div" not in {node.op for node in after.nodes}
    assert sum(node.op == "mul" for node in after.nodes) == sum(node.op == "mul" for node in graph.nodes)
    inputs = feed()
    exact = run_graph(graph, inputs, wide=True)["y"].astype(int)
    found = run_graph(after, inputs)["y"].astype(int)
    assert np.abs(found - exact).max() <= 1 and (found != exact).mean() < 0.01


def test_what_others_read_as_well_is_scaled_twice_where_that_is_one_factor() -> None:
    graph = graph_of(times_itself)
    after = run_passes(Requantised()(graph), (DeadCode(),))
    assert "div" not in {node.op for node in after.nodes}
    inputs = feed()
    exact, found = run_graph(graph, inputs, wide=True)["y"].astype(int), run_graph(after, inputs)["y"].astype(int)
    assert np.abs(found - exact).max() <= 1 and (found != exact).mean() < 0.01


def test_a_relu_before_bytes_without_a_sign_is_left_out() -> None:
    for build in (of_a_relu, of_two):
        after = run_passes(Requantised()(graph_of(build, U8, 0)), (DeadCode(),))
        assert "relu" not in {node.op for node in after.nodes}
        after = run_passes(Requantised()(graph_of(build, U8, 3)), (DeadCode(),))
        assert "relu" in {node.op for node in after.nodes}
        after = run_passes(Requantised()(graph_of(build, I8, 0)), (DeadCode(),))
        assert "relu" in {node.op for node in after.nodes}


def test_what_others_read_is_not_computed_twice() -> None:
    graph = graph_of(shifted, again=True)
    assert "div" in ops(Requantised()(graph))


@pytest.mark.parametrize("marked", [False, True])
def test_sums_that_stand_for_themselves_are_divided_to_the_bit(marked: bool) -> None:
    b = Builder("g")
    x = b.one("cast", [b.input("x", I8, (3, 40))], to=I32)
    w = b.constant(np.random.default_rng(0).integers(-127, 128, (40, 8), np.int32))
    total = b.one("matmul", [x, w], **({"stands_for": F32} if marked else {}))
    whole = b.one("sub", [total, b.constant(np.arange(8, dtype=np.int32))])
    graph = b.finish([quantise(b, real(b, whole), b.constant(SCALE), None, U8)], names=["y"])
    assert ("div" in ops(Requantised()(graph))) is not marked


def test_what_is_not_made_of_integers_is_divided() -> None:
    for scaled in (False, True):
        b = Builder("g")
        x = b.input("x", F32, (2, 500))
        x = b.one("mul", [x, b.constant(np.float32(0.3))]) if scaled else b.one("relu", [x])
        graph = b.finish([quantise(b, x, b.constant(SCALE), None, U8)], names=["y"])
        assert "div" in ops(Requantised()(graph))


@pytest.mark.parametrize("scale, factor", [(2e-38, 1e3), (3e38, 1e-3), (-1.0, 0.1)])
def test_scales_that_do_not_fit(scale: float, factor: float) -> None:
    """Of which a factor would be lost or overflow, or that turn the order round."""
    b = Builder("g")
    made = b.one("relu", [real(b, b.input("q", I8, (2, 5)), factor)])
    graph = b.finish([quantise(b, made, b.constant(np.float32(scale)), None, U8)], names=["y"])
    assert "div" in ops(Requantised()(graph))
