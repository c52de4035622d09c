"""pow(x, e): the result has the base's type; base and exponent may be of different types, as ONNX allows.

- Integer base and exponent: exact, modulo 2^bits of the base's type. A negative exponent gives the truncated 1 / x^|e|:
  1 and -1 keep their powers, anything else gives 0, and so does the base 0, as an integer divided by zero is 0.
- Integer base, float exponent: as above where the exponent is a whole number; else through f64, truncated.
- Float base: in the wider of the two types (integers of 32 bits and more count as f64).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import Array, DType, from_numpy
from mapsto.ir.expr import Dim, sym
from mapsto.ir.graph import Node, Value
from mapsto.kernel.ast import Const, Op, Scalar, Stmt
from mapsto.kernel.scalar import apply, compute_type, convert
from mapsto.ops.elementwise import content_of, converted, scalar_like, sum_to
from mapsto.ops.making import Making
from mapsto.ops.registry import Inference, Lowering, OpSpec, Shape, register
from mapsto.ops.shapes import NUMBERS, broadcast_shape, describe, require_dtype

# Integers from here on are odd or even only by their own bits: as f64 they are all even.
_EXACT_F64 = 1 << 53
_BEYOND_I64 = 2.0**63


def _infer(inference: Inference) -> list[tuple[DType, Shape]]:
    base = require_dtype(inference, 0, NUMBERS)
    require_dtype(inference, 1, NUMBERS)
    if len(inference.inputs) != 2:
        raise ShapeError(f"{describe(inference)}: pow takes (base, exponent)")
    return [(base, broadcast_shape(inference, [inference.value(0).shape, inference.value(1).shape]))]


def _through(base: DType, exponent: DType) -> DType:
    """The type that a float base is raised in."""
    wide = {compute_type(base), compute_type(exponent)}
    exact_in_f32 = exponent.is_float or exponent.size <= 2
    return DType.F32 if exact_in_f32 and wide.isdisjoint({DType.F64}) else DType.F64


# ---- one formula for both: in scalars of a kernel, and in arrays -----------------------------------------------------
#
# `_Scalars` and `_Arrays` say how a step is made; `_power` is written over either.


class _Scalars:
    """Steps as scalar expressions of a kernel."""

    def op(self, fn: str, *args: Scalar, bool_: bool = False) -> Scalar:
        of = args[1] if fn == "select" else args[0]
        return Op(fn, args, DType.BOOL if bool_ else of.dtype)

    def number(self, value: float | int, like: Scalar) -> Scalar:
        return Const(float(value) if like.dtype.is_float else int(value), like.dtype)

    def cast(self, value: Scalar, dtype: DType) -> Scalar:
        return converted(value, dtype)

    def dtype(self, value: Scalar) -> DType:
        return value.dtype


class _Arrays:
    """The same steps done at once."""

    def op(self, fn: str, *args: Array, bool_: bool = False) -> Array:
        of = args[1] if fn == "select" else args[0]
        return apply(fn, args, DType.BOOL if bool_ else from_numpy(of.dtype))

    def number(self, value: float | int, like: Array) -> Array:
        return np.asarray(value).astype(like.dtype)

    def cast(self, value: Array, dtype: DType) -> Array:
        return convert(value, dtype)

    def dtype(self, value: Array) -> DType:
        return from_numpy(value.dtype)


def _power(s: Any, x: Any, e: Any, base: DType) -> Any:
    """x^e in the type `base`, which x has (or is the half type that x was widened from)."""
    exponent = s.dtype(e)
    if base.is_float:
        return s.cast(_float_power(s, x, e, base), base)
    if not exponent.is_float:
        return _integer_power(s, x, e)
    wide = s.cast(e, DType.F64)
    inside = s.op("lt", s.op("abs", wide), s.number(_BEYOND_I64, wide), bool_=True)
    whole = s.op("and", s.op("eq", s.op("floor", wide), wide, bool_=True), inside)
    real = s.cast(s.op("pow", s.cast(x, DType.F64), wide), base)
    return s.op("select", whole, _integer_power(s, x, s.cast(wide, DType.I64)), real)


def _integer_power(s: Any, x: Any, e: Any) -> Any:
    """x^e modulo 2^bits. Powers modulo 2^64 are powers modulo any smaller 2^n as well, so both take the wider type."""
    base, exponent = s.dtype(x), s.dtype(e)
    wide = exponent if exponent.size > base.size else base
    power = s.cast(s.op("pow", s.cast(x, wide), s.cast(e, wide)), base)
    if not exponent.is_signed:
        return power
    one, zero = s.number(1, x), s.number(0, x)
    inverse = s.op("select", s.op("eq", x, one, bool_=True), one, zero)
    if base.is_signed:
        odd = s.op("ne", s.op("bitand", e, s.number(1, e)), s.number(0, e), bool_=True)
        turned = s.op("select", odd, s.number(-1, x), one)
        inverse = s.op("select", s.op("eq", x, s.number(-1, x), bool_=True), turned, inverse)
    return s.op("select", s.op("lt", e, s.number(0, e), bool_=True), inverse, power)


def _float_power(s: Any, x: Any, e: Any, base: DType) -> Any:
    through = _through(base, s.dtype(e))
    wide = s.cast(x, through)
    power = s.op("pow", wide, s.cast(e, through))
    if s.dtype(e).is_float or s.dtype(e).size < 8:
        return power
    # an odd exponent beyond 2^53 has become an even one, and the power of a negative base positive
    one = s.number(1, e)
    beyond = s.op("gt", s.op("abs", e), s.number(_EXACT_F64, e), bool_=True)
    odd = s.op("and", beyond, s.op("eq", s.op("bitand", e, one), one, bool_=True))
    zero = s.number(0, wide)
    minus_zero = s.op("lt", s.op("div", s.number(1, wide), wide), zero, bool_=True)
    negative = s.op("or", s.op("lt", wide, zero, bool_=True), minus_zero)
    return s.op("select", s.op("and", odd, negative), s.op("neg", power), power)


def _reference(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    x, e = np.broadcast_arrays(*inputs)
    return [np.asarray(_power(_Arrays(), x, e, from_numpy(x.dtype))).reshape(shapes[0])]


def _lower(low: Lowering) -> list[Stmt]:
    iters = low.iters(low.output.shape)
    index = [sym(i.name) for i in iters]
    x, e = (low.load_broadcast(k, index) for k in range(2))
    return [low.stmt(iters, _power(_Scalars(), x, e, low.output.dtype))]


def _dim(a: Dim, b: Dim) -> Dim | None:
    if not isinstance(b, int) or not 0 <= b <= 8:
        return None
    result: Dim = 1
    for _ in range(b):
        result = result * a
    return result


# ---- gradients -------------------------------------------------------------------------------------------------------


def _by_base(b: Making, g: Value, x: Value, exponent: Value) -> Value:
    """d(x^p)/dx = p * x^(p-1)"""
    p = b.one("cast", [exponent], to=x.dtype)
    lower = b.one("pow", [x, b.one("sub", [p, scalar_like(b, 1.0, x)])])
    return b.one("mul", [g, b.one("mul", [p, lower])])


def _by_exponent(b: Making, g: Value, x: Value, exponent: Value, y: Value) -> Value | None:
    """d(x^p)/dp = x^p * log x, where the exponent is a float and no constant"""
    if not exponent.dtype.is_float or b.array(exponent) is not None:
        return None
    full = b.one("mul", [b.one("mul", [g, y]), b.one("log", [x])])
    return b.one("cast", [full], to=exponent.dtype)


def _gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    (g,) = incoming
    if g is None or not g.dtype.is_float:
        return [None, None]
    x, exponent = (b.lookup(n) for n in node.inputs)
    by_exponent = _by_exponent(b, g, x, exponent, node.output)
    return [
        sum_to(b, _by_base(b, g, x, exponent), x.shape),
        None if by_exponent is None else sum_to(b, by_exponent, exponent.shape),
    ]


register(OpSpec("pow", "elementwise", _infer, _reference, _lower, content_of(_dim), _gradient))
