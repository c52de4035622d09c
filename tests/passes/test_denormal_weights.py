"""Weights below the least normal number count as zero, and nothing else does."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Node
from mapsto.ops.builder import Builder
from mapsto.passes import DenormalWeights, default_passes, run_passes

LEAST = {DType.F32: np.float32(2.0**-126), DType.BF16: ml_dtypes.bfloat16(2.0**-126), DType.F64: np.float64(2.0**-1022)}


def product(w: np.ndarray, dtype: DType, left: bool = False) -> Graph:
    b = Builder("g")
    x = b.input("x", dtype, (3, 3))
    operands = [b.constant(w, "w"), x] if left else [x, b.constant(w, "w")]
    return b.finish([b.one("matmul", operands)], names=["y"])


def weights_of(graph: Graph, i: int = 1) -> np.ndarray:
    node: Node = next(node for node in graph.nodes if node.op in ("matmul", "conv"))
    return graph.constants[node.inputs[i]]  # type: ignore[index]


def edges(dtype: DType) -> np.ndarray:
    """Zeros, the least and the largest denormal number, the least normal one, and others, with both signs."""
    least = LEAST[dtype]
    below = np.nextafter(least, least.dtype.type(0))
    tiny = np.nextafter(least.dtype.type(0), least)
    return np.array([0, -0.0, tiny, -tiny, below, -below, least, -least, 1], dtype.numpy).reshape(3, 3)


@pytest.mark.parametrize("dtype", LEAST, ids=lambda d: d.value)
@pytest.mark.parametrize("left", [False, True])
def test_denormal_weights_are_zero_and_others_as_they_were(dtype: DType, left: bool) -> None:
    w = edges(dtype)
    found = weights_of(DenormalWeights()(product(w, dtype, left)), int(not left))
    expected = w.copy()
    expected.reshape(-1)[2:6] = 0
    assert found.dtype == w.dtype
    np.testing.assert_array_equal(found, expected)


def test_special_numbers_stay() -> None:
    w = np.array([np.inf, -np.inf, 5, 3e38, -1, 1e-45, 2, 3, 4], np.float32).reshape(3, 3)
    found = weights_of(DenormalWeights()(product(w, DType.F32)))
    w[1, 2] = 0
    np.testing.assert_array_equal(found, w)


def test_a_tensor_of_small_weights_alone_is_left() -> None:
    w = np.full((3, 3), 2.0**-103, np.float32)
    w[1, 2] = 1e-40
    assert (weights_of(DenormalWeights()(product(w, DType.F32))) == w).all()
    w[0, 0] = 2.0**-102
    assert weights_of(DenormalWeights()(product(w, DType.F32)))[1, 2] == 0


def test_halves_stay_as_their_small_numbers_are_normal_in_f32() -> None:
    graph = product(np.full((3, 3), 6e-8, np.float16), DType.F16)
    assert DenormalWeights()(graph) is graph or (weights_of(DenormalWeights()(graph)) != 0).all()


def test_a_graph_without_them_is_left_as_it_is() -> None:
    graph = run_passes(product(np.eye(3, dtype=np.float32) + 1, DType.F32))
    assert DenormalWeights()(graph) is graph


def test_each_piece_of_a_large_constant_is_looked_at() -> None:
    """The last of 150,000 weights too; a kernel of three dims keeps its shape."""
    b = Builder("g")
    x = b.input("x", DType.F32, (1, 50, 8, 8))
    w = np.ones((1000, 50, 3, 1), np.float32)
    w[-1, -1, -1], w[500, 3, 1] = 1e-40, -1e-41
    y = b.one("conv", [x, b.constant(w, "w")], strides=(1, 1), pads=(1, 0, 1, 0), dilations=(1, 1), group=1)
    found = weights_of(DenormalWeights()(b.finish([y], names=["y"])))
    assert found.shape == w.shape
    assert (found == 0).sum() == 2
    assert found[-1, -1, -1] == 0
    assert found[500, 3, 1] == 0


def test_a_compile_does_so() -> None:
    w = np.array([[1, 1e-39, 2]] * 3, np.float32)
    assert (weights_of(run_passes(product(w, DType.F32), default_passes()))[:, 1] == 0).all()
