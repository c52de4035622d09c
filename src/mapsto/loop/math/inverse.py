"""Inverse trigonometric and hyperbolic functions in f64; f32 comes through them (see `functions`)."""

from __future__ import annotations

import math

from mapsto.loop.math.block import Lanes
from mapsto.loop.math.logarithm import log, log1p

_HALF_PI, _HALF_PI_LOW = 1.5707963267948966, 6.123233995736766e-17
_QUARTER_PI = 0.7853981633974483

# fdlibm e_asin.c (Sun Microsystems, 1993): asin(x) = x + x z p(z)/q(z), z = x^2, |x| <= 1/2.
_ASIN_P = (
    1.66666666666666657415e-01,
    -3.25565818622400915405e-01,
    2.01212532134862925881e-01,
    -4.00555345006794114027e-02,
    7.91534994289814532176e-04,
    3.47933107596021167570e-05,
)
_ASIN_Q = (
    1.0,
    -2.40339491173441421878e00,
    2.02094576023350569471e00,
    -6.88283971605453293030e-01,
    7.70381505559019352791e-02,
)
# Cephes atan.c (Moshier 1995): atan(x) = x + x z p(z)/q(z), |x| <= 0.66.
_ATAN_P = (
    -6.485021904942025371773e1,
    -1.228866684490136173410e2,
    -7.500855792314704667340e1,
    -1.615753718733365076637e1,
    -8.750608600031904122785e-1,
)
_ATAN_Q = (
    1.945506571482613964425e2,
    4.853903996359136964868e2,
    4.328810604912902668951e2,
    1.650270098316988542046e2,
    2.485846490142306297962e1,
    1.0,
)


def _asin_tail(z: Lanes) -> Lanes:
    return z * z.horner(_ASIN_P) / z.horner(_ASIN_Q)


def _half_angle(a: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """For a in [1/2, 1]: s = sqrt((1-a)/2), what the root lost, and s's tail, with acos(a) = 2 asin(s)."""
    z = (1.0 - a) * 0.5
    s = z.sqrt()
    lost = z.equals(0.0).select(z, (-s).fma(s, z) / (s + s))
    return s, lost, _asin_tail(z)


def asin(x: Lanes) -> Lanes:
    a = abs(x)
    near = _asin_tail(x * x).fma(x, x)
    s, lost, tail = _half_angle(a)
    small = 2.0 * (s * tail) - (_HALF_PI_LOW - 2.0 * lost)
    far = _QUARTER_PI - (small - (_QUARTER_PI - 2.0 * s))
    return (a < 0.5).select(near, far.copysign(x))


def acos(x: Lanes) -> Lanes:
    middle = _HALF_PI - (x - (_HALF_PI_LOW - x * _asin_tail(x * x)))
    s, lost, tail = _half_angle(abs(x))
    w = s.fma(tail, lost)
    right = 2.0 * (s + w)
    left = 2.0 * (_HALF_PI - (s + (w - _HALF_PI_LOW)))
    return (abs(x) < 0.5).select(middle, (x > 0.0).select(right, left))


def atan(x: Lanes) -> Lanes:
    a = abs(x)
    big = a > 2.414213562373095  # tan(3 pi/8): atan(a) = pi/2 - atan(1/a)
    middle = (a > 0.66) & ~big  # atan(a) = pi/4 + atan((a-1)/(a+1))
    base = big.select(a.lift(_HALF_PI), middle.select(a.lift(_QUARTER_PI), 0.0))
    low = big.select(a.lift(_HALF_PI_LOW), middle.select(a.lift(_HALF_PI_LOW / 2), 0.0))
    t = big.select(-1.0 / a, middle.select((a - 1.0) / (a + 1.0), a))
    z = t * t
    y = (z * z.horner(_ATAN_P) / z.horner(_ATAN_Q)).fma(t, t)
    return (base + (y + low)).copysign(x)


def asinh(x: Lanes) -> Lanes:
    """log1p(a + a^2/(1 + sqrt(a^2 + 1))); log(a) + log(2) where the square would overflow."""
    a = abs(x)
    square = a * a
    near = log1p(a + square / ((square + 1.0).sqrt() + 1.0))
    far = log(a) + math.log(2.0)
    return (a > 2.0**28).select(far, near).copysign(x)


def acosh(x: Lanes) -> Lanes:
    """log1p(t + sqrt(2t + t^2)), t = x - 1."""
    t = x - 1.0
    near = log1p(t + (t.fma(t, t + t)).sqrt())
    far = log(x) + math.log(2.0)
    return (x >= 1.0).select((x > 2.0**28).select(far, near), math.nan)


def atanh(x: Lanes) -> Lanes:
    """log1p(2a/(1-a))/2."""
    a = abs(x)
    return (log1p((a + a) / (1.0 - a)) * 0.5).copysign(x)
