"""exp and what is made of it: expm1, sigmoid, tanh, sinh, cosh; f32 and f64.

Reduction (Cody, Waite 1980): x = n ln2 + r with n = rint(x / ln2), so exp(x) = 2^n exp(r), |r| <= ln2/2.
n comes from adding 1.5*2^(mantissa bits), which leaves it in the low bits of the sum.
"""

from __future__ import annotations

from dataclasses import dataclass

from mapsto.ir.dtypes import DType
from mapsto.loop.math.block import Lanes


@dataclass(frozen=True)
class _Format:
    """Constants of one float format."""

    mantissa: int  # bits after the point
    bias: int  # of the exponent
    ln2: tuple[float, float]  # ln 2 as a sum
    tail: tuple[float, ...]  # exp(r) = 1 + r + r^2 * tail(r)
    lowest: float  # exp rounds to 0 below, and 2^(n/2) is still normal here
    highest: float  # exp overflows at or above
    tanh_one: float  # tanh rounds to 1 above
    overflow: float  # a bound below which exp does not overflow


# f32: N. Juffa's expf (stackoverflow.com/questions/29381117), 0.87 ulp. f64: minimax (Remez), relative error 2^-64.
_F32 = _Format(
    23,
    127,
    (6.93145752e-1, 1.42860677e-6),
    (4.99999851e-1, 1.66664720e-1, 4.16695364e-2, 8.37312452e-3, 1.37805939e-3),
    -104.0,
    89.0,
    9.25,
    88.0,
)
_F64 = _Format(
    52,
    1023,
    (6.93147180369123816490e-01, 1.90821492927058770002e-10),
    (
        0.5,
        0.16666666666666682,
        0.04166666666666611,
        0.008333333333316926,
        0.0013888888889107723,
        0.00019841269896661253,
        2.4801586942770762e-05,
        2.7557234577696777e-06,
        2.755756736912328e-07,
        2.5112138074213084e-08,
        2.083134579963493e-09,
    ),
    -746.0,
    710.0,
    20.0,
    709.0,
)
_FORMATS = {DType.F32: _F32, DType.F64: _F64}
_LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class _Reduced:
    """x = n ln2 + r; `shifted` holds n + 2*bias in its low bits."""

    shifted: Lanes
    r: Lanes


def _reduce(x: Lanes, f: _Format) -> _Reduced:
    magic = 1.5 * 2.0**f.mantissa + 2 * f.bias
    shifted = x.fma(_LOG2_E, magic)
    n = shifted - magic
    r = n.fma(-f.ln2[1], n.fma(-f.ln2[0], x))
    return _Reduced(shifted.bits(), r)


def _power_of_two(reduced: _Reduced, f: _Format) -> Lanes:
    """2^n for n in the normal range."""
    return ((reduced.shifted - f.bias) << f.mantissa).as_float()


def _scale(value: Lanes, reduced: _Reduced, f: _Format) -> Lanes:
    """value * 2^n for any n, as value * 2^(n>>1) * 2^(n - (n>>1)): overflow and denormal results are rounded once."""
    exponent_field = -(1 << f.mantissa)
    half = (reduced.shifted << (f.mantissa - 1)) & exponent_field
    rest = (reduced.shifted << f.mantissa) - half
    return value * half.as_float() * rest.as_float()


def _exp_clamped(x: Lanes, f: _Format) -> Lanes:
    reduced = _reduce(x, f)
    return _scale(reduced.r.horner((1.0, 1.0, *f.tail)), reduced, f)


def exp(x: Lanes) -> Lanes:
    f = _FORMATS[x.type.element]
    return _exp_clamped(x.at_least(f.lowest).at_most(f.highest), f)


def exp_bounded(x: Lanes) -> Lanes:
    """exp for arguments known to give a normal result (NaN passes): one scaling, no clamps."""
    f = _FORMATS[x.type.element]
    reduced = _reduce(x, f)
    return reduced.r.horner((1.0, 1.0, *f.tail)) * _power_of_two(reduced, f)


def sigmoid(x: Lanes) -> Lanes:
    """1/(1 + exp(-x)) with e = exp(-|x|): 1/(1+e) for x >= 0, e/(1+e) below, so small results keep their bits."""
    f = _FORMATS[x.type.element]
    e = _exp_clamped((-abs(x)).at_least(f.lowest), f)
    return (x < 0.0).select(e, 1.0) / (e + 1.0)


def _expm1_of(reduced: _Reduced, f: _Format) -> Lanes:
    """2^n (1 + q) - 1 with q = exp(r) - 1, for 2^n in the normal range."""
    r = reduced.r
    q = r.horner(f.tail).fma(r * r, r)
    power = _power_of_two(reduced, f)
    return q.fma(power, power - 1.0)


def tanh(x: Lanes) -> Lanes:
    """m/(m + 2) with m = exp(2|x|) - 1."""
    f = _FORMATS[x.type.element]
    a = abs(x).at_most(f.tanh_one)
    m = _expm1_of(_reduce(a + a, f), f)
    return (m / (m + 2.0)).copysign(x)
