"""Graphs whose products are narrowed: what is rounded, what is stored rounded, and what stays."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from mapsto.errors import ArgumentError
from mapsto.formats.chosen import chosen
from mapsto.formats.format import wanted
from mapsto.formats.narrow import Narrowed
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import DeadCode, Identities, run_passes

F32, BF16, F16 = DType.F32, DType.BF16, DType.F16
RNG = np.random.default_rng(5)
PLAIN = {"strides": (1, 1), "dilations": (1, 1), "group": 1}


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def rounded(array: np.ndarray, to: type = ml_dtypes.bfloat16) -> np.ndarray:
    return array.astype(to).astype(np.float32)


def narrowed(graph: Graph, **patterns: str) -> Graph:
    found = chosen(graph, wanted(patterns or "bf16"))
    return run_passes(graph, (Narrowed(found), Identities(), DeadCode()))


def types_of(graph: Graph, op: str) -> list[tuple[str, ...]]:
    """The types of the operands of all nodes of this op."""
    values = graph.values()
    return [tuple(values[name].dtype.value for name in node.inputs[:2]) for node in graph.nodes if node.op == op]


def of(build: Callable[[Builder, Value], list[Value]], shape: tuple[int, ...] = (4, 8)) -> Graph:
    b = Builder("g")
    made = build(b, b.input("x", F32, shape))
    return b.finish(made, names=[f"y{k}" for k in range(len(made))])


def named(b: Builder, name: str, op: str, *inputs: Value, **attrs: object) -> Value:
    with b.source(name):
        return b.one(op, list(inputs), **attrs)


def chain(b: Builder, x: Value) -> list[Value]:
    h = named(b, "first", "matmul", x, b.constant(weights(8, 16), "w1"))
    h = named(b, "relu", "max", h, b.constant(np.zeros((), np.float32)))
    return [named(b, "second", "matmul", h, b.constant(weights(16, 3), "w2"))]


@pytest.mark.parametrize(("format", "to", "dtype"), [("bf16", ml_dtypes.bfloat16, BF16), ("f16", np.float16, F16)])
def test_operands_are_rounded_once_and_sums_are_of_f32(format: str, to: type, dtype: DType) -> None:
    graph = of(chain)
    after = narrowed(graph, **{"*": format})
    assert types_of(after, "matmul") == [(dtype.value, dtype.value)] * 2
    assert [n.output.dtype for n in after.nodes if n.op == "matmul"] == [F32, F32]
    x = weights(4, 8)
    w1, w2 = (rounded(graph.constants[n], to).astype(np.float64) for n in ("w1", "w2"))
    h = np.maximum((rounded(x, to).astype(np.float64) @ w1).astype(np.float32), 0)
    expected = (rounded(h, to).astype(np.float64) @ w2).astype(np.float32)
    np.testing.assert_array_equal(run_graph(after, {"x": x})["y0"], expected)


def test_only_weights() -> None:
    graph = of(chain)
    after = narrowed(graph, **{"*": "bf16-weights"})
    assert types_of(after, "matmul") == [("f32", "bf16")] * 2
    assert not any(node.op == "cast" for node in after.nodes)
    x = weights(4, 8)
    w1, w2 = (rounded(graph.constants[n]).astype(np.float64) for n in ("w1", "w2"))
    h = np.maximum((x.astype(np.float64) @ w1).astype(np.float32), 0)
    np.testing.assert_array_equal(run_graph(after, {"x": x})["y0"], (h.astype(np.float64) @ w2).astype(np.float32))


def residual(b: Builder, x: Value) -> list[Value]:
    h = named(b, "first", "matmul", x, b.constant(weights(8, 8), "w1"))
    h = named(b, "act", "tanh", h)
    inner = named(b, "second", "matmul", h, b.constant(weights(8, 8), "w2"))
    return [named(b, "sum", "add", h, inner)]


def test_who_reads_beside_a_product_reads_the_rounded_one() -> None:
    """One value lies in memory, of half the bytes."""
    after = narrowed(of(residual))
    values = after.values()
    (total,) = (node for node in after.nodes if node.op == "add")
    (wide,) = (after.producers[name] for name in total.inputs if after.producers[name].op == "cast")
    assert values[wide.inputs[0]].dtype is BF16
    assert after.producers[wide.inputs[0]].op == "cast"
    (tanh,) = (node for node in after.nodes if node.op == "tanh")
    assert sum(tanh.output.name in node.inputs for node in after.nodes) == 1


def test_a_product_that_stays_reads_what_was_not_rounded() -> None:
    def build(b: Builder, x: Value) -> list[Value]:
        h = named(b, "act", "tanh", x)
        one = named(b, "narrow", "matmul", h, b.constant(weights(8, 8), "w1"))
        return [one, named(b, "head", "matmul", h, b.constant(weights(8, 2), "w2"))]

    graph = of(build)
    after = narrowed(graph, **{"*": "bf16", "head": "f32"})
    assert types_of(after, "matmul") == [("bf16", "bf16"), ("f32", "f32")]
    x = weights(4, 8)
    np.testing.assert_array_equal(run_graph(after, {"x": x})["y1"], run_graph(graph, {"x": x})["y1"])


def test_an_output_is_not_rounded() -> None:
    def build(b: Builder, x: Value) -> list[Value]:
        h = named(b, "act", "tanh", x)
        return [h, named(b, "last", "matmul", h, b.constant(weights(8, 8), "w"))]

    graph = of(build)
    x = weights(4, 8)
    np.testing.assert_array_equal(run_graph(narrowed(graph), {"x": x})["y0"], run_graph(graph, {"x": x})["y0"])


def test_what_moves_moves_the_rounded_values() -> None:
    """Nothing wide is stored on the way to a product."""

    def build(b: Builder, x: Value) -> list[Value]:
        one, other = named(b, "a", "tanh", x), named(b, "b", "exp", x)
        joined = named(b, "join", "concat", one, other, axis=1)
        turned = named(b, "turn", "transpose", joined, perm=(1, 0))
        return [named(b, "last", "matmul", turned, b.constant(weights(4, 5), "w"))]

    graph = of(build)
    after = narrowed(graph)
    assert {n.output.dtype for n in after.nodes if n.op in ("concat", "transpose")} == {BF16}
    assert sum(node.op == "cast" for node in after.nodes) == 2
    x = weights(4, 8)
    wide = x.astype(np.float64)
    joined = rounded(np.concatenate([np.tanh(wide), np.exp(wide)], 1).astype(np.float32))
    expected = joined.T.astype(np.float64) @ rounded(graph.constants["w"]).astype(np.float64)
    np.testing.assert_allclose(run_graph(after, {"x": x})["y0"], expected, rtol=1e-6, atol=1e-6)


def test_two_products_of_values_and_none_of_constants() -> None:
    def build(b: Builder, x: Value) -> list[Value]:
        turned = named(b, "turn", "transpose", x, perm=(1, 0))
        return [named(b, "scores", "matmul", x, turned)]

    graph = of(build)
    assert types_of(narrowed(graph), "matmul") == [("bf16", "bf16")]
    (kept,) = chosen(graph, wanted("bf16-weights"))
    assert kept.format is None
    assert kept.because == "neither operand is constant"


def test_two_formats_of_one_value() -> None:
    def build(b: Builder, x: Value) -> list[Value]:
        h = named(b, "act", "tanh", x)
        one = named(b, "one", "matmul", h, b.constant(weights(8, 8), "w1"))
        return [one, named(b, "other", "matmul", h, b.constant(weights(8, 2), "w2"))]

    after = narrowed(of(build), one="bf16", other="f16")
    assert types_of(after, "matmul") == [("bf16", "bf16"), ("f16", "f16")]


@pytest.mark.parametrize(("largest", "stays"), [(65519.0, False), (65520.0, True), (np.inf, False), (np.nan, False)])
def test_a_weight_beyond_a_format(largest: float, stays: bool) -> None:
    def build(b: Builder, x: Value) -> list[Value]:
        w = weights(8, 2)
        w[1, 1] = largest
        return [named(b, "fc", "matmul", x, b.constant(w, "w"))]

    (found,) = chosen(of(build), wanted("f16"))
    assert (found.format is None) == stays
    assert ("is beyond f16" in found.because) == stays


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(ArgumentError, match="no node of the model is named 'frist'; names like it: first"):
        chosen(of(chain), wanted({"frist": "bf16"}))


def test_convolutions_by_the_names_of_their_values_where_no_model_is_behind() -> None:
    b = Builder("g")
    x = b.input("x", F32, (1, 3, 6, 6))
    y = b.one("conv", [x, b.constant(weights(4, 3, 3, 3), "w")], **PLAIN, pads=(1,) * 4)
    graph = b.finish([y], names=["y"])
    (found,) = chosen(graph, wanted({"y": "bf16"}))
    assert found.sources == ("y",)
    assert types_of(narrowed(graph, y="bf16"), "conv") == [("bf16", "bf16")]


def test_nothing_asked_for_is_the_same_graph() -> None:
    graph = of(chain)
    assert Narrowed(chosen(graph, wanted({"*": "f32"})))(graph) is graph
