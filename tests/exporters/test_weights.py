"""Trained weights in the ONNX file that they came from: nothing else in it changes, and other engines read it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import mapsto
from mapsto.errors import ArgumentError, ModelError, ShapeError
from mapsto.exporters.weights import with_weights

MODEL = Path(__file__).parents[2] / "examples" / "mnist-cnn.onnx"


def initializers(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def test_only_the_named_initializers_change() -> None:
    before = onnx.load(MODEL)
    own = initializers(before)
    bias, weight = own["fc2.bias"] + 1, own["conv1.weight"][::-1]
    made = onnx.load_model_from_string(with_weights(MODEL, {"fc2.bias": bias, "conv1.weight": weight}))
    found = initializers(made)
    assert np.array_equal(found["fc2.bias"], bias) and np.array_equal(found["conv1.weight"], weight)
    for name in set(own) - {"fc2.bias", "conv1.weight"}:
        assert np.array_equal(found[name], own[name])
    del before.graph.initializer[:], made.graph.initializer[:]
    assert made == before


def test_another_engine_reads_it() -> None:
    own = initializers(onnx.load(MODEL))
    image = np.random.default_rng(0).random((2, 1, 28, 28), np.float32)

    def logits(model: bytes) -> np.ndarray:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        found: np.ndarray = session.run(None, {"image": image})[0]
        return found

    moved = with_weights(MODEL.read_bytes(), {"fc2.bias": own["fc2.bias"] + np.float32(2)})
    np.testing.assert_allclose(logits(moved), logits(MODEL.read_bytes()) + 2, rtol=1e-5)


def test_data_of_other_files_comes_along(tmp_path: Path) -> None:
    proto = onnx.load(MODEL)
    onnx.save_model(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    own = initializers(onnx.load(MODEL))
    made = with_weights(tmp_path / "m.onnx", {"fc2.bias": own["fc2.bias"] * 2})
    (tmp_path / "m.data").unlink()
    found = initializers(onnx.load_model_from_string(made))
    assert np.array_equal(found["fc1.weight"], own["fc1.weight"])
    assert np.array_equal(found["fc2.bias"], own["fc2.bias"] * 2)


def test_another_head_has_other_outputs() -> None:
    rng = np.random.default_rng(1)
    head = {"fc2.weight": rng.random((4, 64), np.float32), "fc2.bias": rng.random(4, np.float32)}
    made = with_weights(MODEL, head, resized=True)
    (output,) = onnx.load_model_from_string(made).graph.output
    assert [dim.dim_value or dim.dim_param for dim in output.type.tensor_type.shape.dim] == ["batch", 4]
    onnx.checker.check_model(made, full_check=True)
    image = rng.random((3, 1, 28, 28), np.float32)
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    found = session.run(None, {"image": image})[0]
    assert found.shape == (3, 4)
    np.testing.assert_allclose(mapsto.compile(made, threads=1)(image), found, rtol=1e-4, atol=1e-4)
    with pytest.raises(ShapeError, match=r"fc2\.bias: float32\[1, 4\] was given"):
        with_weights(MODEL, {**head, "fc2.bias": head["fc2.bias"][None]}, resized=True)
    with pytest.raises(ShapeError, match="does not take weights of these shapes"):
        with_weights(MODEL, {"fc2.weight": rng.random((4, 63), np.float32)}, resized=True)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"has no initializer fc9\.bias; there are conv1\.weight, "):
        with_weights(MODEL, {"fc9.bias": np.zeros(10, np.float32)})
    with pytest.raises(ShapeError, match=r"fc2\.bias: float32\[11\] was given; the file has float32\[10\]"):
        with_weights(MODEL, {"fc2.bias": np.zeros(11, np.float32)})
    with pytest.raises(ShapeError, match=r"fc2\.bias: float64\[10\] was given"):
        with_weights(MODEL, {"fc2.bias": np.zeros(10)})
    with pytest.raises(ArgumentError, match="arrays: expected a dict"):
        with_weights(MODEL, [np.zeros(3)])  # type: ignore[arg-type]
    with pytest.raises(ModelError):
        with_weights(tmp_path / "none.onnx", {})
