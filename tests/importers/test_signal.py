"""DFT against numpy's transforms: each opset, axis, length, real and complex, one-sided and inverse."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tests.importers.models import model, node

from mapsto.errors import ModelError
from mapsto.importers.onnx import load
from mapsto.ops.interpret import run_graph


def transform(opset: int, x: np.ndarray, axis: int, length: int | None, inverse: bool, onesided: bool) -> np.ndarray:
    constants = {} if length is None else {"length": np.array(length, np.int64)}
    inputs = ["x", "length" if constants else ""]
    attributes: dict[str, int] = {"inverse": inverse, "onesided": onesided}
    if opset < 20:
        attributes["axis"] = axis
    else:
        inputs.append("axis")
        constants["axis"] = np.array(axis, np.int64)
    made = model([node("DFT", inputs, **attributes)], {"x": x.shape}, constants=constants, opset=opset)
    return run_graph(load(made), {"x": x})["y"]


def expected(x: np.ndarray, axis: int, length: int | None, inverse: bool, onesided: bool) -> np.ndarray:
    signal = x[..., 0] if x.shape[-1] == 1 else x[..., 0] + 1j * x[..., 1]
    axis %= x.ndim
    points = length or (2 * (x.shape[axis] - 1) if inverse and onesided else x.shape[axis])
    if inverse and onesided:
        return np.fft.irfft(signal, n=points, axis=axis)[..., None]
    found = (np.fft.ifft if inverse else np.fft.fft)(signal, n=points, axis=axis)
    if onesided:
        found = np.take(found, np.arange(points // 2 + 1), axis=axis)
    return np.stack([found.real, found.imag], axis=-1)


@pytest.mark.parametrize("opset", [17, 19, 20])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("onesided", [False, True])
def test_dft_is_that_of_numpy(opset: int, inverse: bool, onesided: bool) -> None:
    rng = np.random.default_rng(0)
    shapes = [(2, 5, 1), (2, 6, 2), (2, 4, 3, 2), (2, 4, 5, 1), (1, 7, 2)]
    for shape, axis, length in itertools.product(shapes, (1, -2), (None, 1, 4, 5, 8)):
        x = rng.standard_normal(shape).astype(np.float32)
        found = transform(opset, x, axis, length, inverse, onesided)
        wanted = expected(x, axis, length, inverse, onesided)
        assert found.shape == wanted.shape and found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=1e-5, err_msg=f"{shape}, axis {axis}, length {length}")


@pytest.mark.parametrize(("axis", "length", "said"), [(2, 4, "real and imaginary"), (1, 0, "of 0 points")])
def test_transforms_that_there_are_not(axis: int, length: int, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        transform(17, np.zeros((2, 6, 2), np.float32), axis, length, False, False)
