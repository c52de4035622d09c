"""Scalar functions of kernels as loop-language code, any number of lanes: `emit` is the way in.

f32 and f64 only; a caller with f16 or bf16 casts to f32 around it. sign, mod, fmod and pow take integers too.
Special values follow C (Annex F) and numpy: NaN in gives NaN out, overflow gives infinities, denormal results are
rounded, not flushed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from mapsto.errors import UnsupportedError
from mapsto.ir.dtypes import DType
from mapsto.loop.ast import Statement, Value
from mapsto.loop.math.block import Block, Lanes
from mapsto.loop.math.error_function import erf
from mapsto.loop.math.exponential import cosh, exp, expm1, sigmoid, sinh, tanh
from mapsto.loop.math.inverse import acos, acosh, asin, asinh, atan, atanh
from mapsto.loop.math.logarithm import log, log1p
from mapsto.loop.math.power import power
from mapsto.loop.math.trigonometry import cos, sin, tan


def emit(fn: str, args: list[Value], fresh: Callable[[str], str]) -> tuple[list[Statement], Value]:
    """Statements that compute `fn` (a name of `FUNCTIONS`) of `args`, and the value that holds the result.

    `fresh(hint)` returns an unused name. The result has the type of the arguments; isnan and isinf give masks.
    Raises UnsupportedError for a function or an element type that is not covered.
    """
    if fn not in FUNCTIONS:
        raise UnsupportedError(f"no loop code for the scalar function {fn!r}; known are {', '.join(sorted(FUNCTIONS))}")
    element = args[0].type.element
    if not _accepts(fn, element):
        raise UnsupportedError(f"{fn} of {element.value} has no loop code: cast to f32 or f64 around it")
    block = Block(fresh)
    result = FUNCTIONS[fn](*(block.name(arg) for arg in args))
    return block.statements, result.value


def _accepts(fn: str, element: DType) -> bool:
    if element in (DType.F32, DType.F64):
        return True
    return fn in ON_INTEGERS and (element.is_integer or (element.is_float and fn != "pow"))


def _sign(x: Lanes) -> Lanes:
    """-1, 0 or 1; NaN stays."""
    one = x.lift(1)
    result = (x > 0).select(one, 0)
    if x.type.element.is_signed:
        result = (x < 0).select(x.lift(-1), result)
    return x.differs(x).select(x, result) if x.type.element.is_float else result


def _mod(x: Lanes, y: Lanes) -> Lanes:
    """The remainder with the divisor's sign (Python, numpy)."""
    r = x.remainder(y)
    if not x.type.element.is_signed:
        return r
    other_sign = (r < 0) ^ (y < 0)
    moved = other_sign.select(r + y, r)
    return r.differs(0).select(moved, r.lift(0).copysign(y) if x.type.element.is_float else r)


def _isnan(x: Lanes) -> Lanes:
    return x.differs(x)


def _isinf(x: Lanes) -> Lanes:
    return abs(x).equals(math.inf)


def _wide(fn: Callable[[Lanes], Lanes]) -> Callable[[Lanes], Lanes]:
    """f32 through f64: for functions too rare in networks to deserve polynomials of their own."""

    def call(x: Lanes) -> Lanes:
        if x.type.element is DType.F64:
            return fn(x)
        return fn(x.cast(DType.F64)).cast(DType.F32)

    return call


ON_INTEGERS = ("sign", "mod", "fmod", "pow")

FUNCTIONS: dict[str, Callable[..., Lanes]] = {
    "exp": exp,
    "log": log,
    "tanh": tanh,
    "erf": erf,
    "sigmoid": sigmoid,
    "pow": power,
    "expm1": expm1,
    "log1p": log1p,
    "sin": _wide(sin),
    "cos": _wide(cos),
    "tan": _wide(tan),
    "asin": _wide(asin),
    "acos": _wide(acos),
    "atan": _wide(atan),
    "sinh": _wide(sinh),
    "cosh": _wide(cosh),
    "asinh": _wide(asinh),
    "acosh": _wide(acosh),
    "atanh": _wide(atanh),
    "round": lambda x: x.rint(),
    "sign": _sign,
    "mod": _mod,
    "fmod": lambda x, y: x.remainder(y),
    "isnan": _isnan,
    "isinf": _isinf,
}

# The largest error in units of the last place, against exact results, over the whole range, of f32 and of f64; tests
# sample it.
_ERRORS: dict[str, tuple[float, float]] = {
    "exp": (1.0, 1.0),
    "expm1": (2.0, 2.0),
    "log": (1.0, 1.0),
    "log1p": (1.5, 1.5),
    "sigmoid": (2.5, 2.5),
    "tanh": (3.0, 3.0),
    "erf": (1.0, 1.5),
    "pow": (0.51, 0.55),
    "sin": (0.51, 1.0),
    "cos": (0.51, 1.0),
    "tan": (0.51, 2.5),
    "asin": (0.51, 1.5),
    "acos": (0.51, 1.5),
    "atan": (0.51, 1.0),
    "sinh": (0.51, 2.5),
    "cosh": (0.51, 2.0),
    "asinh": (0.51, 2.0),
    "acosh": (0.51, 2.0),
    "atanh": (0.51, 2.0),
}
ERROR_ULP: dict[tuple[str, DType], float] = {
    (fn, element): bound
    for fn, bounds in _ERRORS.items()
    for element, bound in zip((DType.F32, DType.F64), bounds, strict=True)
}
