"""Products of dequantised integers as products of floats: the same numbers while sums are below 2^24."""

from __future__ import annotations

import numpy as np
import pytest
from tests.passes.test_provenance import lost_by
from tests.passes.test_wide_bytes import PLAIN, quantised

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import DeadCode, FloatProducts, run_passes
from mapsto.passes.float_products import float_products

F32, U8, I8, I32 = DType.F32, DType.U8, DType.I8, DType.I32


def graph_of(dtype: DType = U8, zero: int | None = 7, marked: bool = True, clipped: bool = True) -> Graph:
    """Two convolutions after each other, of what is quantised, scaled; named conv and conv_2."""
    b = Builder("g")
    x = b.input("x", F32, (1, 3, 8, 8))
    mark = {"stands_for": F32} if marked else {}
    for seed in (0, 1):
        q = quantised(b, x, dtype, zero or 0) if clipped else b.one("cast", [x], to=dtype)
        whole = b.one("cast", [q], to=I32)
        whole = whole if zero is None else b.one("sub", [whole, b.constant(np.int32(zero))])
        w = np.random.default_rng(seed).integers(-127, 128, (3, 3, 3, 3), np.int32)
        with b.source(f"conv {seed}"):
            total = b.one("conv", [whole, b.constant(w)], **PLAIN, **mark)
        x = b.one("mul", [b.one("cast", [total], to=F32), b.constant(np.float32(1e-4))])
    return b.finish([x], names=["y"])


def types(graph: Graph) -> list[DType]:
    return [node.output.dtype for node in DeadCode()(graph).nodes if node.op == "conv"]


@pytest.mark.parametrize("clipped", [True, False])
@pytest.mark.parametrize("zero", [None, 0, 7])
@pytest.mark.parametrize("dtype", [U8, I8])
def test_the_same_numbers(dtype: DType, zero: int | None, clipped: bool) -> None:
    graph = graph_of(dtype, zero, clipped=clipped)
    names = {node.output.name for node in float_products(graph)}
    assert len(names) == 2
    floats = FloatProducts(names)(graph)
    assert types(floats) == [F32, F32]
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32) * 20
    before = run_graph(graph, {"x": x})["y"]
    np.testing.assert_array_equal(run_graph(floats, {"x": x})["y"], before)
    np.testing.assert_allclose(run_graph(run_passes(floats), {"x": x})["y"], before, rtol=1e-5, atol=1e-5)
    assert not lost_by(FloatProducts(names), graph)


def test_what_was_clipped_in_floats_is_no_byte_on_the_way() -> None:
    graph = graph_of()
    floats = run_passes(FloatProducts({node.output.name for node in float_products(graph)})(graph))
    assert not any(value.dtype is not F32 for node in floats.nodes for value in node.outputs)


def test_some_of_them() -> None:
    graph = graph_of()
    first, _ = float_products(graph)
    assert types(FloatProducts({first.output.name})(graph)) == [F32, I32]
    assert FloatProducts(())(graph) is graph


def test_what_is_an_integer_by_itself_stays_one() -> None:
    graph = graph_of(marked=False)
    assert float_products(graph) == ()
    names = {node.output.name for node in graph.nodes if node.op == "conv"}
    assert types(FloatProducts(names)(graph)) == [I32, I32]


def test_what_other_ops_read_stays_integers() -> None:
    b = Builder("g")
    whole = b.one("cast", [quantised(b, b.input("x", F32, (1, 3, 8, 8)))], to=I32)
    w = np.random.default_rng(0).integers(-127, 128, (3, 3, 3, 3), np.int32)
    total = b.one("conv", [whole, b.constant(w)], **PLAIN, stands_for=F32)
    graph = b.finish([b.one("cast", [total], to=F32), total], names=["y", "z"])
    floats = run_passes(FloatProducts({node.output.name for node in float_products(graph)})(graph))
    assert sorted(each.value for each in types(floats)) == ["f32", "i32"]
