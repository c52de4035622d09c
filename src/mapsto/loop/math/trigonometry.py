"""sin, cos, tan in f64, for every finite argument; f32 comes through them (see `functions`).

x = n pi/2 + r with |r| <= pi/4, r held as a pair. Up to 2^30 by subtracting n times pi/2 in three parts (Cody, Waite
1980), above by multiplying with as many bits of 2/pi as the exponent calls for (Payne, Hanek 1983).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mapsto.ir.dtypes import DType
from mapsto.loop.ast import Alloc, Const, Gather, Store, Type
from mapsto.loop.math.block import Lanes
from mapsto.loop.math.pair import Pair, quick_two_sum, two_product, two_sum

_HALF_PI = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33)
_TWO_OVER_PI = 0.6366197723675814
_LARGE = 2.0**30
# fdlibm k_sin.c and k_cos.c (Sun Microsystems, 1993), |r| <= pi/4.
_SIN = (
    -1.66666666666666324348e-01,
    8.33333333332248946124e-03,
    -1.98412698298579493134e-04,
    2.75573137070700676789e-06,
    -2.50507602534068634195e-08,
    1.58969099521155010221e-10,
)
_COS = (
    4.16666666666666019037e-02,
    -1.38888888888741095749e-03,
    2.48015872894767294178e-05,
    -2.75573143513906633035e-07,
    2.08757232129817482790e-09,
    -1.13596475577881948265e-11,
)
# The bits of 2/pi after the point, 32 a word, with one word of zeros in front.
_BITS_OF_TWO_OVER_PI = (
    0x00000000,
    0xA2F9836E, 0x4E441529, 0xFC2757D1, 0xF534DDC0, 0xDB629599, 0x3C439041, 0xFE5163AB, 0xDEBBC561,
    0xB7246E3A, 0x424DD2E0, 0x06492EEA, 0x09D1921C, 0xFE1DEB1C, 0xB129A73E, 0xE88235F5, 0x2EBB4484,
    0xE99C7026, 0xB45F7E41, 0x3991D639, 0x835339F4, 0x9C845F8B, 0xBDF9283B, 0x1FF897FF, 0xDE05980F,
    0xEF2F118B, 0x5A0A6D1F, 0x6D367ECF, 0x27CB09B7, 0x4F463F66, 0x9E5FEA2D, 0x7527BAC7, 0xEBE5F17B,
    0x3D0739F7, 0x8A5292EA, 0x6BFB5FB1, 0x1F8D5D08, 0x56033046, 0xFC7B6BAB, 0xF0CFBC20, 0x9AF4361D,
)  # fmt: skip


@dataclass(frozen=True)
class _Angle:
    """n pi/2 + r; `quadrant` holds n in its low bits (i64)."""

    quadrant: Lanes
    r: Pair


def _reduce(x: Lanes) -> _Angle:
    magic = 1.5 * 2.0**52
    shifted = x.fma(_TWO_OVER_PI, magic)
    n = shifted - magic
    rest = n.fma(-_HALF_PI[0], x)  # exact: a multiple of pi/2's last bit, below 1
    product, error = two_product(n, x.lift(_HALF_PI[1]))
    near = two_sum(rest, -product)
    low = near.low - n.fma(_HALF_PI[2], error)
    r = quick_two_sum(near.high, low)
    quadrant = shifted.bits()
    return _reduce_large(x, quadrant, r)


def _reduce_large(x: Lanes, quadrant: Lanes, r: Pair) -> _Angle:
    """Payne and Hanek's results in the lanes where |x| is large; the code is skipped when no lane is."""
    a = abs(x)
    large = (a > _LARGE) & (a < math.inf)

    def compute() -> tuple[Lanes, ...]:
        angle = _payne_hanek(large.select(x, 2.0 * _LARGE))
        return angle.quadrant, angle.r.high, angle.r.low

    quadrant, high, low = x.block.where_any(large, (quadrant, r.high, r.low), compute)
    return _Angle(quadrant, Pair(high, low))


def _payne_hanek(x: Lanes) -> _Angle:
    """For finite |x| >= 2^30. x = M 2^E with M of 53 bits; x 2/pi modulo 4 needs the bits of 2/pi from weight 2^(1-E)
    on: a window W of 192 of them gives (M W mod 2^192) 2^-190, with 126 bits after the point."""
    bits = abs(x).bits()
    significand = (bits & ((1 << 52) - 1) | (1 << 52)).bitcast(DType.U64)
    window = _window((bits >> 52) - 1075 + 30)
    limbs = _multiply(significand, window)
    high = limbs[5] << 32 | limbs[4]
    low = limbs[3] << 32 | limbs[2]
    quadrant = (high + (1 << 61)) >> 62
    fraction = (high - (quadrant << 62)).bitcast(DType.I64)
    upper = fraction.cast(DType.F64)
    lower = (fraction - upper.cast(DType.I64)).cast(DType.F64) * 2.0**-62 + low.cast(DType.F64) * 2.0**-126
    turn = quick_two_sum(upper * 2.0**-62, lower)
    r = turn * Pair(x.lift(_HALF_PI[0]), x.lift(_HALF_PI[1]))
    n = quadrant.bitcast(DType.I64)
    negative = x < 0.0
    return _Angle(negative.select(-n, n), Pair(negative.select(-r.high, r.high), negative.select(-r.low, r.low)))


def _window(position: Lanes) -> list[Lanes]:
    """Six 32-bit words of the table from a bit position on, the least significant first."""
    block = position.block
    table = block.fresh("bits_of_two_over_pi")
    scalar = Type(DType.U64)
    block.add(Alloc(table, DType.U64, len(_BITS_OF_TWO_OVER_PI)))
    block.add(*(Store(table, i, Const(word, scalar)) for i, word in enumerate(_BITS_OF_TWO_OVER_PI)))
    lanes = Type(DType.U64, position.type.lanes)
    first = position >> 5
    words = [block.name(Gather(table, (first + k).value, lanes)) for k in range(7)]
    shift = (32 - (position & 31)).bitcast(DType.U64)
    return [((words[k] << 32 | words[k + 1]) >> shift) & 0xFFFFFFFF for k in range(5, -1, -1)]


def _multiply(significand: Lanes, window: list[Lanes]) -> list[Lanes]:
    """Six 32-bit limbs of the product modulo 2^192, by long multiplication; no sum exceeds 64 bits."""
    limbs = [w.lift(0) for w in window]
    for row, factor in enumerate((significand & 0xFFFFFFFF, significand >> 32)):
        carry = significand.lift(0)
        for k in range(row, 6):
            total = window[k - row] * factor + limbs[k] + carry
            limbs[k], carry = total & 0xFFFFFFFF, total >> 32
    return limbs


def _sin_of(r: Pair) -> Lanes:
    x, y = r.high, r.low
    z = x * x
    v = z * x
    return x - ((z * (y * 0.5 - v * z.horner(_SIN[1:])) - y) - v * _SIN[0])


def _cos_of(r: Pair) -> Lanes:
    x, y = r.high, r.low
    z = x * x
    half = z * 0.5
    w = 1.0 - half
    return w + (((1.0 - w) - half) + (z * (z * z.horner(_COS)) - x * y))


def _turned(angle: _Angle, quadrant: Lanes) -> Lanes:
    """sin(r + quadrant pi/2)."""
    odd = (quadrant & 1).differs(0)
    value = odd.select(_cos_of(angle.r), _sin_of(angle.r))
    return (value.bits() ^ ((quadrant & 2) << 62)).as_float()


_SAME = 2.0**-27  # below this size sin(x) and tan(x) round to x


def sin(x: Lanes) -> Lanes:
    angle = _reduce(x)
    return (abs(x) < _SAME).select(x, _turned(angle, angle.quadrant))


def cos(x: Lanes) -> Lanes:
    angle = _reduce(x)
    return _turned(angle, angle.quadrant + 1)


def tan(x: Lanes) -> Lanes:
    angle = _reduce(x)
    s, c = _sin_of(angle.r), _cos_of(angle.r)
    odd = (angle.quadrant & 1).differs(0)
    y = odd.select(-c, s) / odd.select(s, c)
    return (abs(x) < _SAME).select(x, y)
