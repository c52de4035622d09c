"""RoiAlign, MaxRoiPool and DeformConv against ONNX Runtime and the standard's own evaluator, of open sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from tests.importers.models import model, node, port

from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ExecutionError
from mapsto.importers.onnx import load
from mapsto.ops.interpret import run_graph
from mapsto.session.compile import build, prepared

onnxruntime = pytest.importorskip("onnxruntime")

RNG = 5
SIZES = ("n", "c", "h", "w")


def native(made: Any, workers: Workers, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return build(prepared(load(made), None), workers, 2, None).run(feeds)["y"]


def by_references(made: Any, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return run_graph(prepared(load(made), None), feeds)["y"]


def by_onnxruntime(made: Any, feeds: dict[str, np.ndarray]) -> np.ndarray:
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    copy.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None))
    return onnxruntime.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)[
        0
    ]


def regions() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image, regions that reach beyond it or have no size, and which image each is of."""
    rng = np.random.default_rng(RNG)
    x = rng.standard_normal((2, 3, 9, 11)).astype(np.float32)
    rois = np.sort(rng.uniform(-3, 14, (6, 2, 2)), axis=1).reshape(6, 4).astype(np.float32)
    rois[5] = 5
    return x, rois, np.array([0, 1, 1, 0, 1, 0])


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("coordinates", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align(mode: str, coordinates: str, ratio: int) -> None:
    made, feeds = roi_align(mode, coordinates, ratio)
    np.testing.assert_allclose(by_references(made, feeds), by_onnxruntime(made, feeds), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("mode", "ratio"), [("avg", 0), ("max", 2)])
def test_roi_align_in_native_code(mode: str, ratio: int, workers: Workers) -> None:
    made, feeds = roi_align(mode, "half_pixel", ratio)
    np.testing.assert_allclose(native(made, workers, feeds), by_references(made, feeds), rtol=1e-4, atol=1e-5)


def roi_align(mode: str, coordinates: str, ratio: int) -> tuple[Any, dict[str, np.ndarray]]:
    x, rois, images = regions()
    attributes = {"output_height": 3, "output_width": 2, "spatial_scale": 0.7, "sampling_ratio": ratio, "mode": mode}
    made = model(
        [node("RoiAlign", ["x", "rois", "images"], coordinate_transformation_mode=coordinates, **attributes)],
        [port("x", SIZES), port("rois", ["r", 4]), port("images", ["r"], np.int64)],
    )
    return made, {"x": x, "rois": rois, "images": images}


def test_regions_of_no_image_or_without_end_are_refused(workers: Workers) -> None:
    x, rois, images = regions()
    made = model(
        [node("RoiAlign", ["x", "rois", "images"], name="align")],
        [port("x", SIZES), port("rois", ["r", 4]), port("images", ["r"], np.int64)],
    )
    exe = build(prepared(load(made), None), workers, 2, None)
    assert exe.run({"x": x, "rois": rois[:0], "images": images[:0]})["y"].shape == (0, 3, 1, 1)
    with pytest.raises(ExecutionError, match="batch index"):
        exe.run({"x": x, "rois": rois, "images": images + 1})
    with pytest.raises(ExecutionError, match="more than 4096 samples"):
        exe.run({"x": x, "rois": rois * 1e6, "images": images})


def test_max_roi_pool(workers: Workers) -> None:
    x, rois, images = regions()
    operand = np.concatenate([images[:, None].astype(np.float32), np.abs(rois)], 1)
    made = model(
        [node("MaxRoiPool", ["x", "rois"], pooled_shape=[3, 2], spatial_scale=0.7)],
        [port("x", SIZES), port("rois", ["r", 5])],
    )
    feeds = {"x": x, "rois": operand}
    np.testing.assert_array_equal(native(made, workers, feeds), by_onnxruntime(made, feeds))


@pytest.mark.parametrize(("group", "parts"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_deform_conv(group: int, parts: int) -> None:
    made, feeds = deform_conv(group, parts)
    (expected,) = ReferenceEvaluator(made).run(None, feeds)
    np.testing.assert_allclose(by_references(made, feeds), expected, rtol=1e-4, atol=1e-4)


def test_deform_conv_in_native_code(workers: Workers) -> None:
    made, feeds = deform_conv(2, 2)
    np.testing.assert_allclose(native(made, workers, feeds), by_references(made, feeds), rtol=1e-4, atol=1e-4)


def deform_conv(group: int, parts: int) -> tuple[Any, dict[str, np.ndarray]]:
    rng = np.random.default_rng(RNG)
    x = rng.standard_normal((2, 4, 6, 7)).astype(np.float32)
    w = rng.standard_normal((4, 4 // group, 2, 3)).astype(np.float32)
    offset = (2 * rng.standard_normal((2, parts * 12, 7, 6))).astype(np.float32)
    mask, bias = rng.uniform(size=(2, parts * 6, 7, 6)).astype(np.float32), rng.standard_normal(4).astype(np.float32)
    made = model(
        [node("DeformConv", ["x", "w", "offset", "b", "mask"], group=group, offset_group=parts, pads=[1, 1, 1, 0])],
        [port("x", ["n", 4, "h", "v"]), port("offset", ["n", parts * 12, "p", "q"]),
         port("mask", ["n", parts * 6, "p", "q"])],
        constants={"w": w, "b": bias}, opset=19,
    )  # fmt: skip
    return made, {"x": x, "offset": offset, "mask": mask}
