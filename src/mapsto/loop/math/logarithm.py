"""log and what is made of it; f32 and f64.

x = 2^e m with m around 1, log(x) = e ln2 + log(m).
"""

from __future__ import annotations

import math

from mapsto.ir.dtypes import DType
from mapsto.loop.math.block import Lanes

_LN2 = math.log(2.0)
# fdlibm e_log.c (Sun Microsystems, 1993): log(1+f) with s = f/(2+f), error below 1 ulp.
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_FDLIBM = (
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
)


def log(x: Lanes) -> Lanes:
    y = _log_positive_f32(x) if x.type.element is DType.F32 else _log_positive_f64(x)
    y = (x < math.inf).select(y, x)  # inf and NaN as they are
    below = x.equals(0.0).select(x.lift(-math.inf), math.nan)
    return (x > 0.0).select(y, (x <= 0.0).select(below, x))


def log1p(x: Lanes) -> Lanes:
    """With u = 1 + x = 2^e m: log1p(x) = e ln2 + log1p(f), f = x 2^-e + (2^-e - 1), exact enough whatever u lost."""
    u = x + 1.0
    f32 = x.type.element is DType.F32
    bits = u.bits()
    exponent = (bits - 0x3F2AAAAB) & 0xFF800000 if f32 else (bits - 0x3FE6A09E667F3BCD) & -(1 << 52)
    four = x.lift(4.0).bits()
    scale = (four - exponent).as_float() * 0.25
    f = x.fma(scale, scale - 1.0)
    y = _log_f32(exponent.cast(DType.F32) * 2.0**-23, f) if f32 else _log_f64((exponent >> 52).cast(DType.F64), f)
    y = (x < math.inf).select(y.copysign(x), x)
    below = x.equals(-1.0).select(x.lift(-math.inf), math.nan)
    return (x > -1.0).select(y, (x <= -1.0).select(below, x))


def _log_positive_f32(x: Lanes) -> Lanes:
    """N. Juffa's logf (stackoverflow.com/questions/39821367), 0.86 ulp, m in [2/3, 4/3]."""
    tiny = x < 1.175494351e-38
    x = tiny.select(x * 8388608.0, x)
    extra = tiny.select(x.lift(-23.0), 0.0)
    bits = x.bits()
    exponent = (bits - 0x3F2AAAAB) & 0xFF800000
    m = (bits - exponent).as_float() - 1.0
    e = exponent.cast(DType.F32).fma(2.0**-23, extra)
    return _log_f32(e, m)


def _log_f32(e: Lanes, m: Lanes) -> Lanes:
    """e ln2 + log(1 + m)."""
    s = m * m
    r = m.lift(-0.130310059).fma(s, -0.121483460).fma(s, -0.166846126).fma(s, -0.249996200)
    t = m.lift(0.140869141).fma(s, 0.139814854).fma(s, 0.200120345)
    r = t.fma(m, r).fma(m, 0.333331972).fma(m, -0.5).fma(s, m)
    return e.fma(_LN2, r)


def _log_positive_f64(x: Lanes) -> Lanes:
    """m in [sqrt(1/2), sqrt(2)]."""
    tiny = x < 2.2250738585072014e-308
    x = tiny.select(x * 2.0**54, x)
    bits = x.bits()
    exponent = (bits - 0x3FE6A09E667F3BCD) >> 52
    f = (bits - (exponent << 52)).as_float() - 1.0
    e = exponent.cast(DType.F64) + tiny.select(x.lift(-54.0), 0.0)
    return _log_f64(e, f)


def _log_f64(e: Lanes, f: Lanes) -> Lanes:
    """e ln2 + log(1 + f)."""
    s = f / (f + 2.0)
    z = s * s
    r = z * z.horner(_FDLIBM)
    half = f * f * 0.5
    return e * _LN2_HIGH - ((half - (s * (half + r) + e * _LN2_LOW)) - f)
