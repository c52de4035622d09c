"""Storage types: reference, shape rule and lowering of `decode` and `encode` agree, and no op computes with them."""

from __future__ import annotations

import numpy as np
import pytest
from tests.ops.support import check, make_node

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.kernel.minifloats import ROUNDINGS
from mapsto.ops.shapes import STORAGE

TYPES = sorted(STORAGE, key=lambda dtype: dtype.value)
FLOATS = [dtype for dtype in TYPES if dtype.decoded is DType.F32]
INTEGERS = [dtype for dtype in TYPES if dtype.decoded is not DType.F32]


def codes(dtype):
    return np.arange(1 << dtype.bits, dtype=np.uint8).view(dtype.numpy)


@pytest.mark.parametrize("dtype", TYPES, ids=repr)
def test_every_code_is_decoded(dtype):
    (found,) = check("decode", [codes(dtype)])
    assert from_numpy(found.dtype) is dtype.decoded
    np.testing.assert_array_equal(found, codes(dtype).astype(found.dtype))


@pytest.mark.parametrize("dtype", INTEGERS, ids=repr)
def test_bits_that_mean_nothing_are_not_read(dtype):
    """`ml_dtypes` reads the low bits alone as well."""
    every = np.arange(256, dtype=np.uint8).view(dtype.numpy)
    (found,) = check("decode", [every])
    np.testing.assert_array_equal(found, np.resize(codes(dtype).astype(found.dtype), 256))


@pytest.mark.parametrize("dtype", FLOATS, ids=repr)
@pytest.mark.parametrize("saturate", [True, False])
@pytest.mark.parametrize("source", [np.float32, np.float64])
def test_floats_are_encoded(dtype, saturate, source):
    random = np.random.default_rng(3)
    x = (random.standard_normal(5000) * np.exp2(random.integers(-30, 20, 5000))).astype(source)
    values = np.sort(codes(dtype).astype(np.float64))
    values = values[np.isfinite(values)]
    ties = ((values[1:] + values[:-1]) / 2).astype(source)
    ends = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1e30, 1e-45, -1e-40], source)
    x = np.concatenate([x, ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf), ends]).astype(source)
    for rounding in ROUNDINGS if dtype is DType.F8E8M0 else ("up",):
        attrs = {"to": dtype, "saturate": saturate, "rounding": rounding}
        (wanted,) = check("encode", [x], attrs)
        assert wanted.dtype == dtype.numpy


@pytest.mark.parametrize("dtype", FLOATS, ids=repr)
@pytest.mark.parametrize("saturate", [True, False])
def test_what_is_decoded_is_encoded_as_it_was(dtype, saturate):
    every = codes(dtype)
    numbers = every[~np.isnan(every.astype(np.float32))]
    attrs = {"to": dtype, "saturate": saturate, "rounding": "nearest"}
    (found,) = check("encode", [numbers.astype(np.float32)], attrs)
    finite = np.isfinite(numbers.astype(np.float32)) | (not saturate)
    np.testing.assert_array_equal(found.view(np.uint8)[finite], numbers.view(np.uint8)[finite])


@pytest.mark.parametrize("dtype", INTEGERS, ids=repr)
@pytest.mark.parametrize("source", [np.int8, np.uint8])
def test_integers_keep_their_low_bits(dtype, source):
    x = np.arange(256, dtype=np.uint8).view(source)
    (found,) = check("encode", [x], {"to": dtype, "saturate": True, "rounding": "up"})
    np.testing.assert_array_equal(found, x.astype(dtype.numpy))


def test_nothing_is_computed_in_a_storage_type():
    x = codes(DType.F8E4M3FN)
    for name in ("add", "mul", "max", "eq", "lt"):
        with pytest.raises(ShapeError, match="f8e4m3fn; allowed"):
            make_node(name, [x, x], {})
    for name, attrs in (("cast", {"to": DType.F32}), ("relu", {}), ("exp", {})):
        with pytest.raises(ShapeError, match="f8e4m3fn; allowed"):
            make_node(name, [x], attrs)


def test_a_cast_to_a_storage_type_is_refused():
    with pytest.raises(ShapeError, match="encoded as i4"):
        make_node("cast", [np.zeros(3, np.float32)], {"to": DType.I4})


def test_encode_takes_what_it_can_round_once():
    with pytest.raises(ShapeError, match="f16; allowed"):
        make_node("encode", [np.zeros(3, np.float16)], {"to": DType.F8E5M2, "saturate": True, "rounding": "up"})
    with pytest.raises(ShapeError, match="i32; allowed"):
        make_node("encode", [np.zeros(3, np.int32)], {"to": DType.I4, "saturate": True, "rounding": "up"})


@pytest.mark.parametrize("dtype", TYPES, ids=repr)
def test_elements_are_moved(dtype):
    x = codes(dtype)[:4].reshape(2, 2)
    check("transpose", [x], {"perm": (1, 0)})
    check("concat", [x, x], {"axis": 0})
    check("pad", [x], {"before": (1, 0), "after": (0, 1), "mode": "constant", "value": 0.0})
    check("select", [np.array([True, False]), x, x[:1]])
