"""Constant matrices that models have in blocks of integers: their products are of these integers, and what they are by
ONNX Runtime and by numpy.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.importers.models import node, port
from tests.importers.test_microsoft import model_of, theirs
from tests.importers.test_quantised import by_another

import mapsto
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.ops.interpret import run_graph
from mapsto.session.compile import prepared

KINDS = {"INT4": ml_dtypes.int4, "UINT4": ml_dtypes.uint4, "INT8": np.int8, "UINT8": np.uint8}
LIMITS = {"INT4": (-8, 7), "UINT4": (0, 15), "INT8": (-128, 127), "UINT8": (0, 255)}


def drawn(kind: str, *shape: int, seed: int = 0) -> np.ndarray:
    low, high = LIMITS[kind]
    return np.random.default_rng((*shape, seed)).integers(low, high + 1, shape).astype(KINDS[kind])


def scales(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).uniform(0.01, 0.1, shape).astype(np.float32)


def tensor(name: str, array: np.ndarray, kind: str) -> Any:
    if kind not in ("INT4", "UINT4"):
        return numpy_helper.from_array(array, name)
    return helper.make_tensor(name, getattr(TensorProto, kind), array.shape, array.astype(np.int32).reshape(-1))


def product(
    q: np.ndarray, kind: str, scale: np.ndarray, zero: np.ndarray | None, axis: int, block: int, turned: str = ""
) -> onnx.ModelProto:
    """x times the dequantised matrix; turned: by a Transpose, or by a Gemm, which has a bias."""
    named = [tensor("q", q, kind), numpy_helper.from_array(scale, "s")]
    named += [] if zero is None else [tensor("z", zero, kind)]
    nodes = [node("DequantizeLinear", [each.name for each in named], ["w"], axis=axis, block_size=block)]
    depth, columns = q.shape[::-1] if turned else q.shape
    if turned == "Transpose":
        nodes.append(node("Transpose", ["w"], ["wt"], perm=[1, 0]))
    if turned == "Gemm":
        named.append(numpy_helper.from_array(scales(columns), "b"))
        nodes.append(node("Gemm", ["x", "w", "b"], ["y"], "fc", transB=1, beta=0.5))
    else:
        nodes.append(node("MatMul", ["x", "wt" if turned else "w"], ["y"], "fc"))
    graph = helper.make_graph(nodes, "g", [port("x", ["n", depth])], [onnx.ValueInfoProto(name="y")], named)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def types(graph: Graph) -> list[tuple[str, DType]]:
    """Products by op, with the types of their weights."""
    values = graph.values()
    return [(n.op, values[n.inputs[1]].dtype) for n in graph.nodes if n.op in ("matmul", "block_matmul")]


def check(model: onnx.ModelProto, depth: int, kinds: list[tuple[str, DType]]) -> None:
    graph = prepared(model, None)
    assert types(graph) == kinds
    for rows in (1, 3):
        x = np.random.default_rng(rows).standard_normal((rows, depth)).astype(np.float32)
        (expected,) = by_another(model, {"x": x})
        for found in (mapsto.compile(model, {"x": [rows, depth]})(x), run_graph(graph, {"x": x})["y"]):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("depth", "block"), [(96, 32), (40, 16), (33, 16)])
def test_blocks_along_what_is_summed_over(kind: str, zero: bool, depth: int, block: int) -> None:
    blocks, columns = -(-depth // block), 24
    points = None
    if zero:  # near the middle, as what is quantised has them
        low, high = LIMITS[kind]
        near = np.random.default_rng(3).integers(-1, 2, (blocks, columns)) + (low + high + 1) // 2
        points = np.clip(near, low, high).astype(KINDS[kind])
    q = drawn(kind, depth, columns)
    if kind.endswith("8") and zero:
        q = np.clip(q.astype(int), points.astype(int).min() - 100, points.astype(int).max() + 100).astype(KINDS[kind])
    fits = kind != "UINT8" or zero
    wide = DType.I4 if kind == "INT4" and not zero else DType.I8
    wanted = [("block_matmul", wide)] if fits else [("matmul", DType.F32)]
    check(product(q, kind, scales(blocks, columns), points, 0, block), depth, wanted)


@pytest.mark.parametrize("turned", ["Transpose", "Gemm"])
def test_matrices_that_are_turned(turned: str) -> None:
    q = drawn("INT4", 24, 64)
    check(product(q, "INT4", scales(24, 2), None, 1, 32, turned), 64, [("block_matmul", DType.I4)])
    other = product(drawn("INT4", 32, 64), "INT4", scales(2, 64), None, 0, 16, turned)
    check(other, 64, [("matmul", DType.F32)])  # blocks along the columns


def test_what_is_no_product_by_such_a_matrix() -> None:
    """Scales that come with the run; weights that are read by something else stay floats beside it."""
    model = product(drawn("INT4", 64, 24), "INT4", scales(2, 24), None, 0, 32)
    model.graph.input.append(port("s", [2, 24]))
    del model.graph.initializer[1]
    assert types(prepared(model, None)) == [("matmul", DType.F32)]
    both = product(drawn("INT4", 64, 24), "INT4", scales(2, 24), None, 0, 32)
    both.graph.node.append(node("Neg", ["w"], ["v"]))
    both.graph.output.append(onnx.ValueInfoProto(name="v"))
    x = np.ones((1, 64), np.float32)
    found = mapsto.compile(both, {"x": [1, 64]}).run({"x": x})
    np.testing.assert_allclose(found["y"], -(x @ found["v"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("bits", "points", "wide"), [
    (2, "none", DType.I4), (4, "none", DType.I4), (8, "none", DType.I8), (4, "packed", DType.I8), (4, "floats", None),
    (4, "whole", DType.I8),
])  # fmt: skip
@pytest.mark.parametrize("width", [64, 40])
def test_products_of_n_bits(bits: int, points: str, wide: DType | None, width: int) -> None:
    columns, size = 12, 32
    blocks = -(-width // size)
    rng = np.random.default_rng(bits)
    constants: dict[str, Any] = {"q": rng.integers(0, 256, (columns, blocks, size * bits // 8), np.uint8)}
    constants["s"] = scales(columns * blocks)
    if points == "packed":
        constants["z"] = rng.integers(0, 256, columns * -(-blocks * bits // 8), np.uint8)
    elif points != "none":
        constants["z"] = (rng.integers(5, 11, columns * blocks) + (0.5 if points == "floats" else 0)).astype(np.float32)
    given = {"a": rng.standard_normal((1, 3, width)).astype(np.float32)}
    order = ["a", *constants]
    model = model_of("MatMulNBits", given, constants, order, ["y"], K=width, N=columns, bits=bits, block_size=size)
    graph = prepared(model, None)
    assert types(graph) == ([("block_matmul", wide)] if wide else [("matmul", DType.F32)])
    (expected,) = theirs(model, given) if bits != 2 else [run_graph(graph, given)["y"]]
    for rows in (1, 3):
        x = given["a"][:, :rows]
        found = mapsto.compile(model, {"a": list(x.shape)})(x)
        np.testing.assert_allclose(found, expected[:, :rows], rtol=0, atol=1e-4 * np.abs(expected).max())
    if bits == 2:
        whole = (constants["q"][..., None] >> np.arange(0, 8, 2)) & 3
        w = (whole.reshape(columns, blocks, size) - 2.0) * constants["s"].reshape(columns, blocks, 1)
        right = given["a"].astype(np.float64) @ w.reshape(columns, -1)[:, :width].T
        np.testing.assert_allclose(expected, right, rtol=1e-5, atol=1e-5)


def test_of_f16_they_stay_integers_and_are_summed_in_f32() -> None:
    constants = {"q": np.zeros((12, 2, 16), np.uint8), "s": scales(24).astype(np.float16)}
    given = {"a": np.ones((1, 64), np.float16)}
    model = model_of("MatMulNBits", given, constants, ["a", "q", "s"], ["y"], K=64, N=12, bits=4, block_size=32)
    assert types(prepared(model, None)) == [("block_matmul", DType.I4)]
