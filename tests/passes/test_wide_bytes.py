"""Bytes that products read, stored in 16 bits: the same integers, where everything that reads them takes them so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.ops.quantisation import dequantise, quantise
from mapsto.passes import DeadCode, Identities, NarrowProducts, WideBytes, run_passes

F32, U8, I8, I16, I32 = DType.F32, DType.U8, DType.I8, DType.I16, DType.I32
PLAIN = {"strides": (1, 1), "dilations": (1, 1), "group": 1, "pads": (1,) * 4}
POOL = {"kernel": (2, 2), "strides": (2, 2), "pads": (0,) * 4, "dilations": (1, 1)}


def quantised(b: Builder, x: Value, dtype: DType = U8, zero: int = 7) -> Value:
    return quantise(b, x, b.constant(np.float32(0.05)), b.constant(np.asarray(zero, dtype.numpy)), dtype)


def product(b: Builder, q: Value, zero: int = 7) -> Value:
    """A convolution of bytes less their zero point, of 32 bits."""
    w = np.random.default_rng(0).integers(-127, 128, (4, int(q.shape[1]), 3, 3), np.int32)  # type: ignore[call-overload]
    whole = b.one("sub", [b.one("cast", [q], to=I32), b.constant(np.int32(zero))])
    return b.one("conv", [whole, b.constant(w)], **PLAIN)


def graph_of(build: Callable[[Builder, Value], list[Value]]) -> Graph:
    b = Builder("g")
    made = build(b, b.input("x", F32, (1, 3, 8, 8)))
    graph = b.finish(made, names=[f"y{k}" for k in range(len(made))])
    return run_passes(graph, (Identities(), NarrowProducts(), Identities(), DeadCode()))


def types(graph: Graph) -> set[DType]:
    """Of operands of products."""
    values = graph.values()
    return {values[node.inputs[0]].dtype for node in graph.nodes if node.op == "conv"}


def alone(b: Builder, x: Value) -> list[Value]:
    return [product(b, quantised(b, x))]


def signed(b: Builder, x: Value) -> list[Value]:
    return [product(b, quantised(b, x, I8, -3), -3)]


def beside_a_sum(b: Builder, x: Value) -> list[Value]:
    q = quantised(b, x)
    real = dequantise(b, q, b.constant(np.float32(0.05)), b.constant(np.uint8(7)), F32)
    return [product(b, q), b.one("add", [real, x])]


def through_a_pool_and_a_concatenation(b: Builder, x: Value) -> list[Value]:
    q, r = quantised(b, x), quantised(b, b.one("tanh", [x]))
    return [product(b, b.one("concat", [b.one("max_pool", [v], **POOL) for v in (q, r)], axis=1))]


def an_output(b: Builder, x: Value) -> list[Value]:
    q = quantised(b, x)
    return [product(b, q), q]


def read_as_bytes(b: Builder, x: Value) -> list[Value]:
    q = quantised(b, x)
    return [product(b, q), b.one("add", [q, q])]


def not_clipped(b: Builder, x: Value) -> list[Value]:
    return [product(b, b.one("cast", [b.one("min", [x, b.constant(np.float32(255))])], to=U8))]


def clipped_beyond_bytes(b: Builder, x: Value) -> list[Value]:
    low = b.one("min", [x, b.constant(np.float32(10))])
    return [product(b, b.one("cast", [b.one("max", [low, b.constant(np.float32(300))])], to=U8))]


def beside_what_is_not_wide(b: Builder, x: Value) -> list[Value]:
    other = b.one("cast", [b.one("cast", [x], to=I32)], to=U8)
    return [product(b, b.one("concat", [quantised(b, x), other], axis=1))]


@pytest.mark.parametrize("build", [alone, signed, beside_a_sum, through_a_pool_and_a_concatenation])
def test_stored_wide(build: Callable[[Builder, Value], list[Value]]) -> None:
    graph = graph_of(build)
    assert types(graph) <= {U8, I8}
    wide = WideBytes()(graph)
    assert types(wide) == {I16}
    assert not any(value.dtype in (U8, I8) for node in wide.nodes for value in node.outputs)
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32) * 20
    before, after = (run_graph(each, {"x": x}) for each in (graph, wide))
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.parametrize(
    "build", [an_output, read_as_bytes, not_clipped, clipped_beyond_bytes, beside_what_is_not_wide]
)
def test_what_stays(build: Callable[[Builder, Value], list[Value]]) -> None:
    graph = graph_of(build)
    assert WideBytes()(graph) is graph


def test_no_product_reads_them() -> None:
    def build(b: Builder, x: Value) -> list[Value]:
        return [dequantise(b, quantised(b, x), b.constant(np.float32(0.05)), b.constant(np.uint8(7)), F32)]

    graph = graph_of(build)
    assert WideBytes()(graph) is graph
