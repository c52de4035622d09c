"""erf; f32 and f64."""

from __future__ import annotations

from mapsto.ir.dtypes import DType
from mapsto.loop.math.block import Lanes
from mapsto.loop.math.exponential import exp_bounded

# N. Juffa's erff (stackoverflow.com/questions/35148198), 1.0 ulp: erf(a) = a + a p(a^2) up to _SPLIT,
# 1 - exp(-t + t q(t)) with t = |a| above.
_SPLIT = 0.927734375
_NEAR_F32 = (1.28379166e-1, -3.76125336e-1, 1.12819925e-1, -2.67681349e-2, 4.99119423e-3, -5.96761703e-4)

# Minimax (scripts/fit_polynomials.py), relative error 2^-56: erf(a) = a + a p(a^2) on [0, 1],
# exp(x^2) erfc(x) = q((x-2)/(x+2)) on [1, 6].
_NEAR_F64 = (
    0.12837916709551256,
    -0.3761263890318352,
    0.11283791670944186,
    -0.02686617064311159,
    0.0052239776061191925,
    -0.0008548325929337175,
    0.00012055293577292792,
    -1.4924712304983726e-05,
    1.644713156008381e-06,
    -1.6206313353603884e-07,
    1.3710977426754569e-08,
    -7.779460911463882e-10,
)
_FAR_F64 = (
    0.25539567631050575,
    -0.4271858474139585,
    0.24165819424246487,
    -0.07897858101571043,
    0.0037328924045224704,
    0.006997461737168335,
    -0.0008471432591299322,
    -0.0009819769416630694,
    4.3555731386542434e-05,
    0.00017435934519404096,
    2.752545653000521e-05,
    -2.7559338928086956e-05,
    -1.3988884789073277e-05,
    1.2820009320624593e-06,
    4.000013804931904e-06,
    1.3429549230206316e-06,
    -1.1852489654582395e-06,
)


def erf(x: Lanes) -> Lanes:
    return _erf_f32(x) if x.type.element is DType.F32 else _erf_f64(x)


def _erf_f32(x: Lanes) -> Lanes:
    t = abs(x).at_most(4.0)  # erf rounds to 1 from 3.92 on
    s = t * t
    r = t.lift(-1.72853470e-5).fma(t, 3.83197126e-4)
    u = t.lift(-3.88396438e-3).fma(t, 2.42546219e-2)
    r = r.fma(s, u).fma(t, -1.06777877e-1).fma(t, -6.34846687e-1).fma(t, -1.28717512e-1).fma(t, -t)
    far = (1.0 - exp_bounded(r)).copysign(x)
    near = s.horner(_NEAR_F32).fma(x, x)
    return (t > _SPLIT).select(far, near)


def _erf_f64(x: Lanes) -> Lanes:
    t = abs(x).at_most(6.0)  # erf rounds to 1 from 5.93 on
    s = t * t
    complement = exp_bounded(-s) * ((t - 2.0) / (t + 2.0)).horner(_FAR_F64)
    far = (1.0 - complement).copysign(x)
    near = s.horner(_NEAR_F64).fma(x, x)
    return (t > 1.0).select(far, near)
