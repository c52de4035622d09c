"""non_max_suppression against its numpy reference, and through the importer against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tests.devices.routines.harness import run

import mapsto.ops  # noqa: F401
from mapsto.devices.cpu.isa import Isa
from mapsto.importers.onnx import load
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ir.graph import Node, Value
from mapsto.ops.interpret import run_graph
from mapsto.ops.registry import op

Arrays = dict[str, np.ndarray | None]


def sample(images: int, classes: int, boxes: int, seed: int = 0, center: bool = False) -> Arrays:
    """Boxes in clusters, some of no area, some with swapped corners; scores with ties."""
    rng = np.random.default_rng(seed)
    middle = rng.integers(0, 4, (images, boxes, 2)) * 10 + rng.normal(size=(images, boxes, 2)) * 2
    size = np.maximum(rng.normal(8, 4, (images, boxes, 2)), 0)
    corners = np.concatenate([middle - size / 2, middle + size / 2], axis=2)
    swapped = rng.random((images, boxes, 1)) < 0.3
    corners = np.where(swapped, corners[..., [2, 3, 0, 1]], corners)
    given = np.concatenate([middle, size], axis=2) if center else corners
    scores = rng.integers(0, 20, (images, classes, boxes)) / 20
    return {"boxes": given.astype(np.float32), "scores": scores.astype(np.float32)}


def with_limits(arrays: Arrays, overlap: float | None, least: float | None) -> Arrays:
    one = {"overlap": overlap, "least": least}
    return {**arrays, **{n: None if v is None else np.array([v], np.float32) for n, v in one.items()}}


def expect(arrays: Arrays, limit: int, center: bool, **options: Any) -> None:
    boxes, scores = arrays["boxes"], arrays["scores"]
    assert boxes is not None and scores is not None
    most = scores.shape[0] * scores.shape[1] * min(limit, scores.shape[2])
    outputs = (Value("indices", DType.I64, (most, 3)), Value("count", DType.I64, ()))
    node = Node("non_max_suppression", tuple(arrays), outputs, {"limit": limit, "center": center})
    reference = op("non_max_suppression").reference
    assert reference is not None
    wanted = reference(list(arrays.values()), node.attrs, [(most, 3), ()])
    found = run(node, arrays, **options)
    np.testing.assert_array_equal(found["count"], wanted[1])
    np.testing.assert_array_equal(found["indices"], wanted[0])


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 20)),
    limit=st.integers(0, 25),
    overlap=st.sampled_from([None, 0.0, 0.3, 0.7, 1.0]),
    least=st.sampled_from([None, 0.0, 0.5]),
    center=st.booleans(),
    lanes=st.sampled_from([1, 4, 8]),
)
def test_any_sizes(sizes, limit: int, overlap: float | None, least: float | None, center: bool, lanes: int) -> None:
    expect(with_limits(sample(*sizes, center=center), overlap, least), limit, center, lanes=lanes, shares=2)


@pytest.mark.parametrize("center", [False, True])
def test_native_code(isa: Isa, center: bool) -> None:
    for limit, overlap, least in [(300, 0.5, 0.25), (7, 0.1, None)]:
        expect(with_limits(sample(2, 3, 500, center=center), overlap, least), limit, center, isa=isa, shares=4)


def test_an_overlap_of_exactly_the_limit_is_none(isa: Isa) -> None:
    """Half of the first box, of which the second is one half: 1/2, and above 0.49."""
    boxes = np.array([[[0, 0, 1, 2], [0, 0, 1, 1], [5, 5, 6, 6]]], np.float32)
    scores = np.array([[[0.9, 0.8, 0.7]]], np.float32)
    for limit, stay in ((0.5, 3), (0.49, 2)):
        arrays = with_limits({"boxes": boxes, "scores": scores}, limit, None)
        expect(arrays, 3, False, isa=isa)
        found = op("non_max_suppression").reference(list(arrays.values()), {"limit": 3, "center": False}, [(3, 3), ()])  # type: ignore[misc]
        assert found[1] == stay


def test_nan_boxes_and_scores(isa: Isa) -> None:
    arrays = with_limits(sample(1, 2, 40), 0.4, None)
    arrays["boxes"][0, ::7, 1] = np.nan  # type: ignore[index]
    arrays["scores"][0, :, ::5] = np.nan  # type: ignore[index]
    for least in (None, 0.3):
        expect(with_limits(arrays, 0.4, least), 40, False, isa=isa)


def test_sizes_that_only_a_run_knows() -> None:
    n, c, s, k = (sym(name) for name in "ncsk")
    inputs = (
        Value("boxes", DType.F32, (n, s, 4)),
        Value("scores", DType.F32, (n, c, s)),
        Value("overlap", DType.F32, (1,)),
    )
    for images, classes, count, limit in [(1, 2, 30, 5), (2, 1, 9, 9), (0, 1, 4, 2), (1, 1, 0, 0), (2, 2, 6, 0)]:
        outputs = (Value("indices", DType.I64, (n * c * k, 3)), Value("count", DType.I64, ()))
        node = Node("non_max_suppression", ("boxes", "scores", "overlap"), outputs, {"limit": k, "center": False})
        arrays = with_limits(sample(images, classes, count), 0.5, None)
        arrays.pop("least")
        found = run(node, arrays, {"n": images, "c": classes, "s": count, "k": limit}, inputs=inputs)
        reference = op("non_max_suppression").reference
        assert reference is not None
        attrs = {"limit": limit, "center": False}
        wanted = reference(list(arrays.values()), attrs, [(images * classes * limit, 3), ()])
        np.testing.assert_array_equal(found["count"], wanted[1])
        np.testing.assert_array_equal(found["indices"], wanted[0])


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("limit", [0, 4, 1000])
def test_model_against_onnxruntime(limit: int, center: bool) -> None:
    arrays = with_limits(sample(2, 3, 120, center=center), 0.4, 0.2)
    arrays["limit"] = np.array([limit], np.int64)
    names = ["boxes", "scores", "limit", "overlap", "least"]
    node = helper.make_node("NonMaxSuppression", names, ["out"], center_point_box=int(center))
    kinds = {np.float32: TensorProto.FLOAT, np.int64: TensorProto.INT64}
    inputs = [helper.make_tensor_value_info(n, kinds[arrays[n].dtype.type], arrays[n].shape) for n in names]  # type: ignore[union-attr]
    outputs = [helper.make_tensor_value_info("out", TensorProto.INT64, [None, 3])]
    graph = helper.make_graph([node], "one", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, arrays)
    found = run_graph(load(model), {n: arrays[n] for n in names})
    np.testing.assert_array_equal(found["out"], wanted)
