"""Signed bytes that products read, stored without a sign: the same sums, where all that reads them takes them so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.passes.test_wide_bytes import POOL, product, quantised

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.ops.quantisation import dequantise
from mapsto.passes import UnsignedBytes, run_passes

F32, U8, I8, I32 = DType.F32, DType.U8, DType.I8, DType.I32


def graph_of(build: Callable[[Builder, Value], list[Value]]) -> Graph:
    b = Builder("g")
    made = build(b, b.input("x", F32, (1, 3, 8, 8)))
    return b.finish(made, names=[f"y{k}" for k in range(len(made))])


def signed(b: Builder, x: Value, zero: int = -3) -> Value:
    return quantised(b, x, I8, zero)


def alone(b: Builder, x: Value) -> list[Value]:
    return [product(b, signed(b, x), -3)]


def of_a_relu(b: Builder, x: Value) -> list[Value]:
    """0 is the lowest byte: no border but zeros is needed."""
    return [product(b, signed(b, b.one("relu", [x]), -128), -128)]


def without_a_zero_point(b: Builder, x: Value) -> list[Value]:
    return [product(b, signed(b, x, 0), 0)]


def beside_a_sum(b: Builder, x: Value) -> list[Value]:
    q = signed(b, x)
    real = dequantise(b, q, b.constant(np.float32(0.05)), b.constant(np.int8(-3)), F32)
    return [product(b, q, -3), b.one("add", [real, x])]


def through_a_pool_and_a_concatenation(b: Builder, x: Value) -> list[Value]:
    q, r = signed(b, x), signed(b, b.one("tanh", [x]))
    return [product(b, b.one("concat", [b.one("max_pool", [v], **POOL) for v in (q, r)], axis=1), -3)]


def by_a_matrix(b: Builder, x: Value) -> list[Value]:
    w = np.random.default_rng(0).integers(-127, 128, (8, 5), np.int32)
    whole = b.one("sub", [b.one("cast", [signed(b, x)], to=I32), b.constant(np.int32(-3))])
    return [b.one("matmul", [whole, b.constant(w)])]


STORED = [alone, of_a_relu, without_a_zero_point, beside_a_sum, through_a_pool_and_a_concatenation, by_a_matrix]


@pytest.mark.parametrize("build", STORED)
def test_stored_without_a_sign(build: Callable[[Builder, Value], list[Value]]) -> None:
    graph = graph_of(build)
    unsigned = UnsignedBytes()(graph)
    assert not any(value.dtype is I8 for node in unsigned.nodes for value in node.outputs)
    after = run_passes(unsigned)
    values = after.values()
    read = {values[node.inputs[0]].dtype for node in after.nodes if node.op in ("conv", "matmul")}
    assert read == {U8}
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32) * 20
    x.reshape(-1)[:3] = np.inf, -np.inf, -0.0
    results = [run_graph(each, {"x": x}) for each in (graph, unsigned, after)]
    for name, expected in results[0].items():
        for found in results[1:]:
            np.testing.assert_array_equal(found[name], expected)


def test_of_a_relu_no_border_is_filled() -> None:
    after = run_passes(UnsignedBytes()(graph_of(of_a_relu)))
    assert "pad" not in {node.op for node in after.nodes}


def an_output(b: Builder, x: Value) -> list[Value]:
    q = signed(b, x)
    return [product(b, q, -3), q]


def read_as_bytes(b: Builder, x: Value) -> list[Value]:
    q = signed(b, x)
    return [product(b, q, -3), b.one("add", [q, q])]


def not_clipped(b: Builder, x: Value) -> list[Value]:
    return [product(b, b.one("cast", [b.one("round", [x])], to=I8), -3)]


def not_rounded(b: Builder, x: Value) -> list[Value]:
    for op, limit in (("max", -128), ("min", 127)):
        x = b.one(op, [x, b.constant(np.float32(limit))])
    return [product(b, b.one("cast", [x], to=I8), -3)]


def without_a_product(b: Builder, x: Value) -> list[Value]:
    return [dequantise(b, signed(b, x), b.constant(np.float32(0.05)), b.constant(np.int8(-3)), F32)]


def of_two_values_of_the_run(b: Builder, x: Value) -> list[Value]:
    whole = b.one("cast", [signed(b, x)], to=I32)
    return [b.one("matmul", [whole, whole])]


def without_a_sign_already(b: Builder, x: Value) -> list[Value]:
    return [product(b, quantised(b, x))]


STAYS = [an_output, read_as_bytes, not_clipped, not_rounded, without_a_product, of_two_values_of_the_run]


@pytest.mark.parametrize("build", [*STAYS, without_a_sign_already])
def test_what_stays(build: Callable[[Builder, Value], list[Value]]) -> None:
    graph = graph_of(build)
    assert UnsignedBytes()(graph) is graph
