"""exp and what is made of it: expm1, sigmoid, tanh, sinh, cosh; f32 and f64.

Reduction (Cody, Waite 1980): x = n ln2 + r with n = rint(x / ln2), so exp(x) = 2^n exp(r), |r| <= ln2/2.
n comes from adding 1.5*2^(mantissa bits), which leaves it in the low bits of the sum.
"""

from __future__ import annotations

from dataclasses import dataclass

from mapsto.ir.dtypes import DType
from mapsto.loop.math.block import Lanes
from mapsto.loop.math.pair import quick_two_sum, two_product


@dataclass(frozen=True)
class _Format:
    """Constants of one float format."""

    mantissa: int  # bits after the point
    bias: int  # of the exponent
    ln2: tuple[float, float]  # ln 2 as a sum
    tail: tuple[float, ...]  # exp(r) = 1 + r + r^2 * tail(r)
    lowest: float  # exp rounds to 0 below, and 2^(n/2) is still normal here
    normal: float  # exp is a normal number here and above
    highest: float  # exp overflows at or above
    tanh_one: float  # tanh rounds to 1 above
    expm1_tail: tuple[float, ...]  # as `tail`, fitted for the relative error of exp(r) - 1
    expm1_one: float  # expm1 rounds to -1 below
    expm1_same: float  # expm1(x) rounds to x below this size


# f32: N. Juffa's expf (stackoverflow.com/questions/29381117), 0.87 ulp. The rest: minimax (scripts/fit_polynomials.py),
# f64 with a relative error of 2^-64.
_F32 = _Format(
    23,
    127,
    (6.93145752e-1, 1.42860677e-6),
    (4.99999851e-1, 1.66664720e-1, 4.16695364e-2, 8.37312452e-3, 1.37805939e-3),
    -104.0,
    -87.3,
    89.0,
    9.25,
    (
        0.5000000053057898,
        0.16666666902586547,
        0.04166632695339544,
        0.008333219921653721,
        0.0013943214693765075,
        0.00019962313610417232,
    ),
    -25.0,
    2.0**-25,
)
_TAIL_F64 = (
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
)
_F64 = _Format(
    52,
    1023,
    (6.93147180369123816490e-01, 1.90821492927058770002e-10),
    _TAIL_F64,
    -746.0,
    -708.3,
    710.0,
    20.0,
    _TAIL_F64,
    -50.0,
    2.0**-54,
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
    """Results that round to 0, as those of a masked softmax, are not computed: an operation that underflows may take as
    long as a hundred others.
    """
    f = _FORMATS[x.type.element]
    none = x < f.lowest
    found = _exp_clamped(none.select(x.lift(0.0), x).at_most(f.highest), f)
    return none.select(x.lift(0.0), found)


def exp_bounded(x: Lanes) -> Lanes:
    """exp for arguments known to give a normal result (NaN passes), or that are `highest`: one scaling, no clamps."""
    f = _FORMATS[x.type.element]
    reduced = _reduce(x, f)
    return reduced.r.horner((1.0, 1.0, *f.tail)) * _power_of_two(reduced, f)


def sigmoid(x: Lanes) -> Lanes:
    """1 / (1 + exp(-x)): the sum rounds no more where exp(-x) is large than where it is small, so small results keep
    their bits. At the upper bound the power of two is infinite and the result 0, where it would be denormal.
    """
    f = _FORMATS[x.type.element]
    return 1.0 / (exp_bounded((-x).at_least(f.normal).at_most(f.highest)) + 1.0)


def _expm1_of(reduced: _Reduced, f: _Format) -> Lanes:
    """2^n (1 + q) - 1 with q = exp(r) - 1, for 2^n in the normal range."""
    r = reduced.r
    q = r.horner(f.tail).fma(r * r, r)
    power = _power_of_two(reduced, f)
    return q.fma(power, power - 1.0)


def expm1(x: Lanes) -> Lanes:
    """2 * (2^(n-1) (1 + q) - 1/2): the halved power stays finite up to the overflow of exp."""
    f = _FORMATS[x.type.element]
    reduced = _reduce(x.at_least(f.expm1_one).at_most(f.highest), f)
    r = reduced.r
    q = r.horner(f.expm1_tail).fma(r * r, r)
    half = ((reduced.shifted - (f.bias + 1)) << f.mantissa).as_float()
    y = q.fma(half, half - 0.5)
    return (abs(x) < f.expm1_same).select(x, y + y)


def exp_of_sum(high: Lanes, low: Lanes) -> Lanes:
    """exp(high + low) for f64, |low| at most an ulp of high.

    1 + r + r^2/2 is held as a pair and only the last addition rounds: some 0.55 ulp, so what is a number is given
    exactly.
    """
    f = _F64
    x = high.at_least(f.lowest).at_most(f.highest)
    magic = 1.5 * 2.0**f.mantissa + 2 * f.bias
    shifted = x.fma(_LOG2_E, magic)
    n = shifted - magic
    near = n.fma(-f.ln2[0], x)
    r = n.fma(-f.ln2[1], near)
    rest = n.fma(-f.ln2[1], near - r) + low
    square, square_rest = two_product(r, r)
    line = quick_two_sum(r.lift(1.0), r)
    parabola = quick_two_sum(line.high, square * 0.5)
    cubic = square * r * r.horner(f.tail[1:])
    tail = line.low + (parabola.low + square_rest.fma(0.5, cubic))
    value = parabola.high + (parabola.high + tail).fma(rest, tail)
    return _scale(value, _Reduced(shifted.bits(), r), f)


def tanh(x: Lanes) -> Lanes:
    """m/(m + 2) with m = exp(2|x|) - 1."""
    f = _FORMATS[x.type.element]
    a = abs(x).at_most(f.tanh_one)
    m = _expm1_of(_reduce(a + a, f), f)
    return (m / (m + 2.0)).copysign(x)


def sinh(x: Lanes) -> Lanes:
    """(m + m/(m+1))/2 with m = expm1(|x|); past the overflow of exp, exp(|x|/2)^2 / 2."""
    a = abs(x)
    m = expm1(a)
    y = (m + m / (m + 1.0)) * 0.5
    return _or_half_square(a, y).copysign(x)


def cosh(x: Lanes) -> Lanes:
    """(e + 1/e)/2 with e = exp(|x|)."""
    a = abs(x)
    e = exp(a)
    return _or_half_square(a, (e + 1.0 / e) * 0.5)


def _or_half_square(a: Lanes, y: Lanes) -> Lanes:
    f = _FORMATS[a.type.element]
    root = exp(a * 0.5)
    return (a > f.highest - 2.0).select(root * 0.5 * root, y)
