"""erf; f32 (f64 follows)."""

from __future__ import annotations

from mapsto.loop.math.block import Lanes
from mapsto.loop.math.exponential import exp_bounded

# N. Juffa's erff (stackoverflow.com/questions/35148198), 1.0 ulp: erf(a) = a + a p(a^2) up to _SPLIT,
# 1 - exp(-t + t q(t)) with t = |a| above.
_SPLIT = 0.927734375
_NEAR = (1.28379166e-1, -3.76125336e-1, 1.12819925e-1, -2.67681349e-2, 4.99119423e-3, -5.96761703e-4)


def erf(x: Lanes) -> Lanes:
    t = abs(x).at_most(4.0)  # erf rounds to 1 from 3.92 on
    s = t * t
    r = t.lift(-1.72853470e-5).fma(t, 3.83197126e-4)
    u = t.lift(-3.88396438e-3).fma(t, 2.42546219e-2)
    r = r.fma(s, u).fma(t, -1.06777877e-1).fma(t, -6.34846687e-1).fma(t, -1.28717512e-1).fma(t, -t)
    far = (1.0 - exp_bounded(r)).copysign(x)
    near = s.horner(_NEAR).fma(x, x)
    return (t > _SPLIT).select(far, near)
