"""Floats of 8 and 4 bits as mathematics on integers, against `ml_dtypes`, the ONNX reference and exact arithmetic."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest

from mapsto.ir.dtypes import DType
from mapsto.kernel.minifloats import FORMATS, ROUNDINGS, encode_reference

BY_SIGN_AND_MANTISSA = sorted(FORMATS, key=lambda dtype: dtype.value)


def random_floats() -> np.ndarray:
    """2^20 patterns of 32 bits, and as many numbers around those that the types hold."""
    random = np.random.default_rng(8)
    bits = random.integers(0, 2**32, 1 << 20, dtype=np.uint64).astype(np.uint32)
    near = random.standard_normal(1 << 20) * np.exp2(random.integers(-20, 20, 1 << 20))
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 448, 464, 465, 57344, 61440, 6, 7, 240, 248]
    return np.concatenate([bits.view(np.float32), near.astype(np.float32), np.array(special, np.float32)])


def codes(dtype: DType) -> np.ndarray:
    return np.arange(1 << dtype.bits, dtype=np.uint8).view(dtype.numpy)


@pytest.mark.parametrize("dtype", BY_SIGN_AND_MANTISSA, ids=repr)
@pytest.mark.parametrize("saturate", [True, False])
def test_the_reference_is_the_standards(dtype, saturate):
    x = random_floats()
    with np.errstate(all="ignore"):
        wanted = onnx.numpy_helper.saturate_cast(x, dtype.numpy) if saturate else x.astype(dtype.numpy)
    found = encode_reference(x, dtype, saturate, "up")
    np.testing.assert_array_equal(found.view(np.uint8), wanted.view(np.uint8))


@pytest.mark.parametrize("dtype", BY_SIGN_AND_MANTISSA, ids=repr)
def test_a_double_is_rounded_once(dtype):
    """The middle between two neighbours, and what lies beside it by less than an f32 tells apart."""
    values = np.unique(codes(dtype).astype(np.float64))
    values = values[np.isfinite(values)]
    middle = (values[1:] + values[:-1]) / 2
    above, below = values[1:], values[:-1]
    with np.errstate(all="ignore"):
        assert (encode_reference(np.nextafter(middle, np.inf), dtype, True, "up").astype(np.float64) == above).all()
        assert (encode_reference(np.nextafter(middle, -np.inf), dtype, True, "up").astype(np.float64) == below).all()


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_powers_of_two_are_rounded_as_the_standard_says(rounding):
    """The ONNX reference takes subnormal floats for others than they are, and infinity for no number when it saturates
    (its own table says that it is the largest); elsewhere it is what the table says.
    """
    x = random_floats()
    normal = x[np.isfinite(x) & (np.abs(x) >= np.float32(2.0**-126))]
    wanted = onnx.numpy_helper.to_float8e8m0(normal, True, rounding)
    found = encode_reference(normal, DType.F8E8M0, True, rounding)
    np.testing.assert_array_equal(found.view(np.uint8), wanted.view(np.uint8))


@pytest.mark.parametrize(
    ("x", "saturated", "strict"),
    [
        (0.0, 0, 255),
        (np.inf, 254, 255),
        (np.nan, 255, 255),
        (2.0**-127, 0, 0),
        (2.0**-149, 0, 255),
        (1.9 * 2.0**-128, 0, 0),  # up to the smallest
        (1.5 * 2.0**-127, 1, 1),
        (2.0**127, 254, 254),
        (1.25 * 2.0**127, 254, 255),
        (1.0, 127, 127),
        (1.001, 128, 128),
        (-3.0, 129, 129),
    ],
)
def test_ends_of_the_powers_of_two(x, saturated, strict):
    x = np.float32(x)
    assert encode_reference(x, DType.F8E8M0, True, "up").view(np.uint8) == saturated
    assert encode_reference(x, DType.F8E8M0, False, "up").view(np.uint8) == strict


def test_powers_of_two_come_back_as_they_were():
    every = codes(DType.F8E8M0)
    for rounding in ROUNDINGS:
        again = encode_reference(every.astype(np.float32), DType.F8E8M0, True, rounding)
        np.testing.assert_array_equal(again.view(np.uint8), every.view(np.uint8))


def test_the_largest_numbers():
    for dtype, form in FORMATS.items():
        largest = np.array([form.largest], np.uint8).view(dtype.numpy).astype(np.float64)
        assert largest == float(ml_dtypes.finfo(dtype.numpy).max)
