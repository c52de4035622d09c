"""Floats of 8 and 4 bits as mathematics on integers: how their bits become an f32, and an f32 their bits.

Shifts, one multiplication by a power of two and a few choices: vector code on every processor, without a table. Both
ways are exact, or rounded once. Sources: the tables of ONNX's Cast-25; OCP's 8-bit floating point and microscaling
formats (MX) v1.0 for E8M0 and E2M1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mapsto.ir.dtypes import Array, DType
from mapsto.kernel.ast import Cast, Const, Op, Scalar
from mapsto.kernel.scalar import widen

ROUNDINGS = ("up", "down", "nearest")


@dataclass(frozen=True)
class Format:
    """A sign, an exponent with a bias, a mantissa; codes below are without the sign.

    `largest`: the code of the largest finite number. `infinity`: the code for what is beyond it where nothing
    saturates. `nan`: that of NaN. `one_zero`: whether the code of -0 is the one NaN, so that there is no -0.
    """

    bits: int
    mantissa: int
    bias: int
    largest: int
    infinity: int
    nan: int
    one_zero: bool = False

    @property
    def sign(self) -> int:
        return 1 << (self.bits - 1)


FORMATS: dict[DType, Format] = {
    DType.F8E4M3FN: Format(8, 3, 7, 0x7E, 0x7F, 0x7F),
    DType.F8E4M3FNUZ: Format(8, 3, 8, 0x7F, 0x80, 0x80, one_zero=True),
    DType.F8E5M2: Format(8, 2, 15, 0x7B, 0x7C, 0x7E),
    DType.F8E5M2FNUZ: Format(8, 2, 16, 0x7F, 0x80, 0x80, one_zero=True),
    DType.F4E2M1: Format(
        4, 1, 1, 0x7, 0x7, 0x8
    ),  # without NaN: that becomes a zero of the other sign, as in `ml_dtypes`
}


class _Words:
    """Arithmetic on 32-bit integers, as kernel expressions."""

    def __call__(self, value: int) -> Const:
        return Const(value - (1 << 32) if value >> 31 else value, DType.I32)

    def op(self, fn: str, a: Scalar, b: Scalar | int) -> Scalar:
        return Op(fn, (a, self(b) if isinstance(b, int) else b), DType.I32)

    def test(self, fn: str, a: Scalar, b: Scalar | int) -> Scalar:
        return Op(fn, (a, self(b) if isinstance(b, int) else b), DType.BOOL)

    def choose(self, cond: Scalar, a: Scalar | int, b: Scalar | int) -> Scalar:
        return Op("select", (cond, *(self(v) if isinstance(v, int) else v for v in (a, b))), DType.I32)

    def bits(self, a: Scalar) -> Scalar:
        return Op("bitcast", (a,), DType.I32)

    def real(self, a: Scalar) -> Scalar:
        return Op("bitcast", (a,), DType.F32)


_w = _Words()


# ---- bits to f32 -----------------------------------------------------------------------------------------------------


def decoded(code: Scalar, dtype: DType) -> Scalar:
    """The f32 that a code (u8) of a float storage type stands for, exactly."""
    wide = Cast(code, DType.I32)
    return _decoded_power(wide) if dtype is DType.F8E8M0 else _decoded(wide, FORMATS[dtype])


def _decoded(code: Scalar, form: Format) -> Scalar:
    """Exponent and mantissa moved to their places in an f32 make a number 2^(127 - bias) too small, subnormal ones
    included.
    """
    magnitude = _w.op("bitand", code, form.sign - 1)
    moved = _w.op("shl", magnitude, 23 - form.mantissa)
    scale = Const(2.0 ** (127 - form.bias), DType.F32)
    bits = _w.bits(Op("mul", (_w.real(moved), scale), DType.F32))
    sign = _w.op("shl", _w.op("bitand", code, form.sign), 32 - form.bits)
    if form.one_zero:
        whole = _w.op("bitand", code, 2 * form.sign - 1)
        return _w.real(_w.choose(_w.test("eq", whole, form.nan), 0xFFC00000, _w.op("bitor", bits, sign)))
    if form.infinity > form.largest:  # what lies above the largest is infinity or NaN
        quiet = 0x7FC00000 if form.infinity == form.nan else _w.op("bitor", moved, 0x7F800000)
        bits = _w.choose(_w.test("gt", magnitude, form.largest), quiet, bits)
    return _w.real(_w.op("bitor", bits, sign))


def _decoded_power(code: Scalar) -> Scalar:
    """E8M0: 2^(code - 127); the smallest is a subnormal f32, the highest code NaN."""
    bits = _w.choose(_w.test("eq", code, 0), 0x00400000, _w.op("shl", code, 23))
    return _w.real(_w.choose(_w.test("eq", code, 0xFF), 0x7FC00000, bits))


# ---- f32 to bits -----------------------------------------------------------------------------------------------------


def encoded(value: Scalar, dtype: DType, saturate: bool, rounding: str) -> Scalar:
    """The code (u8) of an f32 or f64 in a float storage type: to nearest, ties to even; E8M0 by `rounding`.

    What is beyond the largest number (after rounding) becomes that where it saturates, else infinity or NaN.
    """
    if value.dtype is DType.F64:
        value = Cast(value, DType.F32) if dtype is DType.F8E8M0 else _to_odd(value)
    if dtype is DType.F8E8M0:
        return Cast(_encoded_power(value, saturate, rounding), DType.U8)
    return Cast(_encoded(_w.bits(value), FORMATS[dtype], saturate), DType.U8)


def _encoded(bits: Scalar, form: Format, saturate: bool) -> Scalar:
    drop = 23 - form.mantissa
    magnitude = _w.op("bitand", bits, 0x7FFFFFFF)
    kept_odd = _w.op("bitand", _w.op("shr", magnitude, drop), 1)
    offset = ((form.bias - 127) << 23) + (1 << (drop - 1)) - 1
    rebiased = _w.op("add", magnitude, offset + 2**32 if offset < 0 else offset)
    normal = _w.op("shr", _w.op("add", rebiased, kept_odd), drop)
    # The float adder rounds at the unit of the smallest subnormal: that is the last place of this power of two.
    unit = (127 + 24 - form.bias - form.mantissa) << 23
    tiny = _w.op("sub", _w.bits(Op("add", (_w.real(magnitude), _w.real(_w(unit))), DType.F32)), unit)
    code = _w.choose(_w.test("lt", magnitude, (128 - form.bias) << 23), tiny, normal)
    beyond = _w.test("gt", code, form.largest)
    code = _w.choose(beyond, form.largest if saturate else form.infinity, code)
    code = _w.choose(_w.test("gt", magnitude, 0x7F800000), form.nan, code)
    sign = _w.op("bitand", _w.op("shr", bits, 32 - form.bits), form.sign)
    if form.one_zero:
        return _w.op("bitor", code, _w.choose(_w.test("eq", code, 0), 0, sign))
    return _w.op("bitxor", code, sign)


def _encoded_power(value: Scalar, saturate: bool, rounding: str) -> Scalar:
    """E8M0: the exponent of the magnitude, one more where the fraction rounds up. What is too small to have 8 bits of
    exponent is looked at 2^64 times as large.
    """
    magnitude = _w.op("bitand", _w.bits(value), 0x7FFFFFFF)
    small = _w.test("lt", magnitude, (127 - 64) << 23)
    scaled = _w.bits(Op("mul", (_w.real(magnitude), Const(2.0**64, DType.F32)), DType.F32))
    near = _w.choose(small, scaled, magnitude)
    up = {"up": 0x7FFFFF, "down": 0, "nearest": 0x400000}[rounding]
    code = _w.op("sub", _w.op("shr", _w.op("add", near, up), 23), _w.choose(small, 64, 0))
    low, high = (0, 254) if saturate else (0xFF, 0xFF)
    code = _w.choose(_w.test("lt", code, 0), low, code)
    code = _w.choose(_w.test("gt", code, 254), high, code)
    return _w.choose(_w.test("gt", magnitude, 0x7F800000), 0xFF, code)


def _to_odd(value: Scalar) -> Scalar:
    """f64 to f32 rounded to odd; rounded once more to a narrower format that equals rounding once (Boldo and
    Melquiond, 2008).
    """
    near = Cast(value, DType.F32)
    back = Cast(near, DType.F64)
    sizes = [Op("abs", (v,), DType.F64) for v in (back, value)]
    above = Cast(Op("gt", (sizes[0], sizes[1]), DType.BOOL), DType.I32)
    bits = _w.bits(near)
    odd = _w.op("bitor", _w.op("sub", bits, above), 1)
    return _w.real(_w.choose(_w.test("ne", back, value), odd, bits))


# ---- the oracle ------------------------------------------------------------------------------------------------------


def encode_reference(x: Array, dtype: DType, saturate: bool, rounding: str) -> Array:
    """What `encoded` means, in numpy."""
    if dtype is DType.F8E8M0:
        return _power_reference(x, saturate, rounding)
    wide = _odd_reference(x) if x.dtype == np.float64 else widen(x)
    if saturate:
        limit = float(np.array(FORMATS[dtype].largest, np.uint8).view(dtype.numpy))
        wide = np.clip(wide, -limit, limit)
    with np.errstate(all="ignore"):
        return wide.astype(dtype.numpy)


def _odd_reference(x: Array) -> Array:
    """What `_to_odd` means; `ml_dtypes` itself rounds an f64 twice."""
    with np.errstate(all="ignore"):
        near = np.atleast_1d(x).astype(np.float32)
        back = near.astype(np.float64)
        odd = (near.view(np.int32) - (np.abs(back) > np.abs(np.atleast_1d(x)))) | 1
        return np.where(back != x, odd.astype(np.int32).view(np.float32), near).reshape(x.shape)


def _power_reference(x: Array, saturate: bool, rounding: str) -> Array:
    """x = fraction * 2^exponent with a fraction from 1/2 up to 1: whole powers have 1/2."""
    with np.errstate(all="ignore"):
        size = np.abs(np.asarray(x, np.float32)).astype(np.float64)
    finite = np.isfinite(size)
    fraction, exponent = np.frexp(np.where(finite, size, 1.0))
    least = {"up": 0.5 + 2.0**-53, "down": 1.0, "nearest": 0.75}[rounding]
    code = exponent - 1 + (fraction >= least) + 127
    code = np.where(size == 0, -1, np.where(np.isinf(size), 255, code))
    low, high = (0, 254) if saturate else (255, 255)
    code = np.where(code < 0, low, np.where(code > 254, high, code))
    return np.where(np.isnan(size), 255, code).astype(np.uint8).view(DType.F8E8M0.numpy)
