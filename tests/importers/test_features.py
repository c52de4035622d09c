"""Ops of ai.onnx.ml that scale, select and repair features, native, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

import mapsto
from mapsto.errors import ExecutionError, ModelError, UnsupportedError

KINDS = ["float32", "float64", "int32", "int64"]


def model_of(op: str, given: dict[str, np.ndarray], **attributes: Any) -> Any:
    def kind(array: np.ndarray) -> int:
        return int(helper.np_dtype_to_tensor_dtype(array.dtype))

    ports = [
        helper.make_tensor_value_info(n, kind(a), [f"{n}{k}" for k in range(a.ndim - 1)] + list(a.shape[-1:]))
        for n, a in given.items()
    ]
    node = helper.make_node(op, list(given), ["y"], "it", domain="ai.onnx.ml", **attributes)
    graph = helper.make_graph([node], "one", ports, [helper.make_empty_tensor_value_info("y")])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def check(op: str, *sets: dict[str, np.ndarray], **attributes: Any) -> None:
    """One executable for all sets of inputs, whose leading axes are open."""
    model = model_of(op, sets[0], **attributes)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    executable = mapsto.compile(model, cache=False)
    for given in sets:
        (ours,), (right,) = executable.run(given).values(), session.run(None, given)
        assert ours.dtype == right.dtype and ours.shape == right.shape
        np.testing.assert_allclose(ours, right, rtol=1e-6, atol=1e-6)


def numbers(*shape: int, kind: str = "float32") -> np.ndarray:
    drawn = np.random.default_rng(len(shape)).normal(size=shape, scale=4).round(3)
    drawn[..., :1] = 0
    return drawn.astype(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_scaler(kind: str) -> None:
    sets = [{"x": numbers(n, 4, kind=kind)} for n in (3, 1, 0)]
    check("Scaler", *sets, offset=[1.0, -2.0, 0.5, 3.0], scale=[0.5, 2.0, 1.5, -1.0])
    check("Scaler", *sets, offset=[1.5], scale=[0.25])


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
@pytest.mark.parametrize("kind", KINDS)
def test_normalizer(kind: str, norm: str) -> None:
    rows = numbers(5, 6, kind=kind)
    rows[2] = 0
    check("Normalizer", {"x": rows}, {"x": rows[:1]}, {"x": rows[2:3]}, norm=norm)
    check("Normalizer", {"x": rows[0]}, norm=norm)


@pytest.mark.parametrize("kind", KINDS)
def test_binarizer(kind: str) -> None:
    """ONNX Runtime has none."""
    x = numbers(3, 4, kind=kind)
    if x.dtype.kind == "f":
        x[0, 1], x[1, 1] = np.nan, 0.5
    y = mapsto.compile(model_of("Binarizer", {"x": x}, threshold=0.5), cache=False)(x)
    assert y.dtype == x.dtype and (y == (x > 0.5)).all()


def test_imputer() -> None:
    x = numbers(4, 3)
    x[1, 2] = np.nan
    check("Imputer", {"x": x}, imputed_value_floats=[7.0, 8.0, 9.0], replaced_value_float=float("nan"))
    check("Imputer", {"x": x}, imputed_value_floats=[7.0], replaced_value_float=0.0)
    places = numbers(4, 3, kind="int64")
    check("Imputer", {"x": places}, imputed_value_int64s=[7, 8, 9], replaced_value_int64=0)


def test_array_feature_extractor() -> None:
    places = np.array([2, 0, 2], np.int64)
    for x in (numbers(4, 3), numbers(4, 3, kind="int32"), numbers(2, 4, 3), numbers(3)):
        check("ArrayFeatureExtractor", {"x": x, "places": places})
    model = model_of("ArrayFeatureExtractor", {"x": numbers(4, 3), "places": places})
    with pytest.raises(ExecutionError, match="feature -1"):
        mapsto.compile(model, cache=False).run({"x": numbers(4, 3), "places": np.array([0, -1, 1])})


def test_linear_regressor() -> None:
    sets = [{"x": numbers(n, 3)} for n in (4, 1, 0)]
    check("LinearRegressor", *sets, coefficients=[1.0, 2.0, 3.0], intercepts=[0.5])
    check("LinearRegressor", *sets, coefficients=[1.0, 2.0, 3.0, 0.0, -1.0, 4.0], intercepts=[0.5, 1.0], targets=2)
    check("LinearRegressor", *sets, coefficients=[1.0, 2.0, 3.0])


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(ModelError, match="scale has 2 numbers, where .* has 3 features"):
        mapsto.compile(model_of("Scaler", {"x": numbers(4, 3)}, scale=[1.0, 2.0]))
    with pytest.raises(ModelError, match="2 coefficients for 1 targets do not fit"):
        mapsto.compile(model_of("LinearRegressor", {"x": numbers(4, 3)}, coefficients=[1.0, 2.0]))
    with pytest.raises(UnsupportedError, match="post_transform='LOGISTIC' is not supported"):
        model = model_of("LinearRegressor", {"x": numbers(4, 3)}, coefficients=[1.0] * 3, post_transform="LOGISTIC")
        mapsto.compile(model)
