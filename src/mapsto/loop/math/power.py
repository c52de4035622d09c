"""pow by C's rules (Annex F.10.4.4): f32 through f64, f64 through pairs of f64, integers by squaring."""

from __future__ import annotations

import math

from mapsto.ir.dtypes import DType
from mapsto.loop.ast import Compare, Const, Value
from mapsto.loop.math.block import Lanes
from mapsto.loop.math.exponential import exp, exp_of_sum
from mapsto.loop.math.logarithm import log
from mapsto.loop.math.pair import Pair, divide, quick_two_sum, two_product, two_sum

_LN2 = (0.6931471805599453, 2.3190468138462996e-17)
_TWO_THIRDS = (0.6666666666666666, 3.700743415417188e-17)
# Minimax (scripts/fit_polynomials.py): log((1+s)/(1-s)) = 2s + s^3 (2/3 + z p(z)), z = s^2, error 2^-72 for
# s up to (sqrt(2)-1)/(sqrt(2)+1).
_TAIL = (
    0.3999999999999998,
    0.2857142857144522,
    0.22222222217511003,
    0.1818181887344509,
    0.15384556657019763,
    0.1333632566689387,
    0.1167465076888503,
    0.11990412713197866,
)


def power(x: Lanes, y: Lanes) -> Lanes:
    if x.type.element.is_integer:
        return _integer_power(x, y)
    a = abs(x)
    if x.type.element is DType.F32:
        size = exp(y.cast(DType.F64) * log(a.cast(DType.F64))).cast(DType.F32)
    else:
        size = _power_f64(a, y)
    return _special_cases(x, y, a, size)


_UNSIGNED = {DType.I8: DType.U8, DType.I16: DType.U16, DType.I32: DType.U32, DType.I64: DType.U64}


def _integer_power(x: Lanes, y: Lanes) -> Lanes:
    """x^y modulo 2^bits, y read without a sign: as many rounds as the largest exponent has bits."""
    exponent = y.bitcast(_UNSIGNED[y.type.element]) if y.type.element.is_signed else y

    def more(left: Lanes, square: Lanes, result: Lanes) -> Value:
        return Compare("ne", left.value, Const(0, left.type))

    def step(left: Lanes, square: Lanes, result: Lanes) -> tuple[Lanes, ...]:
        odd = (left & 1).differs(0)
        return left >> 1, square * square, odd.select(result * square, result)

    return x.block.while_any((exponent, x, x.lift(1)), more, step)[2]


def _power_f64(a: Lanes, y: Lanes) -> Lanes:
    """exp(y log(a)) for a >= 0, the logarithm and the product held as pairs (about 2^-65)."""
    logarithm = _log_pair(a)
    # 0 and inf have infinite logarithms; a huge y overflows the product's low part: both are decided by the high part.
    clamped = y.at_least(-1e300).at_most(1e300)
    high, rest = two_product(clamped, logarithm.high)
    low = clamped.fma(logarithm.low, rest)
    low = (abs(high) < 800.0).select(low, 0.0)
    size = exp_of_sum(high, low)
    endless = a.equals(0.0) | a.equals(math.inf)
    grows = a.equals(0.0) ^ (y > 0.0)
    size = endless.select(grows.select(a.lift(math.inf), 0.0), size)
    return (a.differs(a) | y.differs(y)).select(a + y, size)


def _log_pair(a: Lanes) -> Pair:
    """log(a) for positive finite a."""
    tiny = a < 2.2250738585072014e-308
    a = tiny.select(a * 2.0**54, a)
    bits = a.bits()
    exponent = (bits - 0x3FE6A09E667F3BCD) >> 52
    m = (bits - (exponent << 52)).as_float()
    e = exponent.cast(DType.F64) + tiny.select(a.lift(-54.0), 0.0)
    s = divide(Pair(m - 1.0, a.lift(0.0)), two_sum(m, a.lift(1.0)))
    z = s * s
    tail = Pair(z.high * z.high.horner(_TAIL), a.lift(0.0))
    cubic = (s * z) * (Pair(a.lift(_TWO_THIRDS[0]), a.lift(_TWO_THIRDS[1])) + tail)
    log_m = Pair(s.high + s.high, s.low + s.low) + cubic
    high, rest = two_product(e, a.lift(_LN2[0]))
    return quick_two_sum(high, e.fma(_LN2[1], rest)) + log_m


def _special_cases(x: Lanes, y: Lanes, a: Lanes, size: Lanes) -> Lanes:
    """From |x|^y = `size` to x^y; `size` is right for 0 and inf but for y = 0."""
    whole = y.rint().equals(y)  # infinities are even integers
    half = y * 0.5
    odd = whole & half.rint().differs(half)
    negative = x < 0.0
    minus_zero = x.bits() < 0  # the sign of -0 counts where y is odd
    result = (odd & minus_zero).select(-size, size)
    result = (negative & ~whole & (a < math.inf)).select(x.lift(math.nan), result)
    one = x.equals(1.0) | y.equals(0.0) | (x.equals(-1.0) & abs(y).equals(math.inf))
    return one.select(x.lift(1.0), result)
