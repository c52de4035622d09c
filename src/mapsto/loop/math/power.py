"""pow by C's rules (Annex F.10.4.4): f32 through f64."""

from __future__ import annotations

import math

from mapsto.ir.dtypes import DType
from mapsto.loop.math.block import Lanes
from mapsto.loop.math.exponential import exp
from mapsto.loop.math.logarithm import log


def power(x: Lanes, y: Lanes) -> Lanes:
    a = abs(x)
    size = exp(y.cast(DType.F64) * log(a.cast(DType.F64))).cast(DType.F32)
    return _special_cases(x, y, a, size)


def _special_cases(x: Lanes, y: Lanes, a: Lanes, size: Lanes) -> Lanes:
    """From |x|^y = `size` to x^y. log gives -inf for 0 and inf for inf, so 0^y and inf^y are right but for y = 0."""
    whole = y.rint().equals(y)  # infinities are even integers
    half = y * 0.5
    odd = whole & half.rint().differs(half)
    negative = x < 0.0
    minus_zero = x.bits() < 0  # the sign of -0 counts where y is odd
    result = (odd & minus_zero).select(-size, size)
    result = (negative & ~whole & (a < math.inf)).select(x.lift(math.nan), result)
    one = x.equals(1.0) | y.equals(0.0) | (x.equals(-1.0) & abs(y).equals(math.inf))
    return one.select(x.lift(1.0), result)
