"""Scalar functions of kernels as operations on loop values, any number of lanes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mapsto.ir.dtypes import DType
from mapsto.kernel.scalar import neutral
from mapsto.loop import ast as loop
from mapsto.loop.functions import FUNCTIONS, ON_INTEGERS, emit

_BINARY = {
    **{fn: fn for fn in ("add", "sub", "mul", "div", "min", "max", "and", "or", "xor", "shl", "shr")},
    "bitand": "and",
    "bitor": "or",
    "bitxor": "xor",
}
_COMPARE = ("eq", "ne", "lt", "le", "gt", "ge")
_UNARY = {**{fn: fn for fn in ("neg", "abs", "sqrt", "floor", "ceil", "not")}, "bitnot": "not", "round": "rint"}
COMBINE = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and"}
# Of integers these are the identity.
_WHOLE_ALREADY = ("floor", "ceil", "round")


def lift(value: loop.Value, lanes: int) -> loop.Value:
    """A value with this many lanes; a single one is repeated."""
    if value.type.lanes == lanes:
        return value
    wide = loop.Type(value.type.element, lanes)
    return loop.Const(value.value, wide) if isinstance(value, loop.Const) else loop.Broadcast(value, wide)


def same_lanes(values: Sequence[loop.Value]) -> list[loop.Value]:
    """Values lifted to the most lanes that one of them has."""
    lanes = max((v.type.lanes for v in values), default=1)
    return [lift(v, lanes) for v in values]


def apply(
    fn: str, args: Sequence[loop.Value], dtype: DType, fresh: Callable[[str], str]
) -> tuple[list[loop.Statement], loop.Value]:
    """Statements and the value of `fn(args)`, of element type `dtype`.

    Half types are computed in f32 and rounded once.
    """
    args = same_lanes(args)
    if fn == "select":
        return [], loop.Select(args[0], args[1], args[2])
    if fn == "bitcast":
        return [], loop.Bitcast(args[0], loop.Type(dtype, args[0].type.lanes))
    if args[0].type.element.is_half:
        wide = [convert(a, DType.F32) for a in args]
        statements, value = apply(fn, wide, DType.BOOL if dtype is DType.BOOL else DType.F32, fresh)
        return statements, convert(value, dtype)
    if fn in _COMPARE:
        return [], loop.Compare(fn, args[0], args[1])
    element = args[0].type.element
    if fn in _WHOLE_ALREADY and not element.is_float:
        return [], args[0]
    if fn in _UNARY:
        return [], loop.Unary(_UNARY[fn], args[0])
    if fn in _BINARY:
        return [], loop.Binary(_BINARY[fn], args[0], args[1])
    if fn == "fma":
        if element.is_float:
            return [], loop.Fma(args[0], args[1], args[2])
        return [], loop.Binary("add", loop.Binary("mul", args[0], args[1]), args[2])
    return _called(fn, args, dtype, fresh)


def _called(
    fn: str, args: list[loop.Value], dtype: DType, fresh: Callable[[str], str]
) -> tuple[list[loop.Statement], loop.Value]:
    """A function with loop code of its own; those that know no integers go through f64."""
    element = args[0].type.element
    if not element.is_float and fn not in ON_INTEGERS:
        statements, value = emit(fn, [convert(a, DType.F64) for a in args], fresh)
        return statements, convert(value, dtype)
    assert fn in FUNCTIONS, f"no scalar function {fn!r}"
    return emit(fn, args, fresh)


def convert(value: loop.Value, dtype: DType) -> loop.Value:
    """Conversion by numpy's rules: anything but zero is true."""
    t = value.type
    if t.element is dtype:
        return value
    wide = loop.Type(dtype, t.lanes)
    if dtype is DType.BOOL:
        return loop.Compare("ne", value, constant(0, t))
    if t.element is DType.BOOL:
        return loop.Select(value, constant(1, wide), constant(0, wide))
    return loop.Cast(value, wide)


def upper_half(value: loop.Value, dtype: DType) -> loop.Value:
    """An f32 value as bf16, which holds it exactly: its upper bits."""
    lanes = value.type.lanes
    bits = loop.Bitcast(value, loop.Type(DType.U32, lanes))
    upper = loop.Binary("shr", bits, constant(16, bits.type))
    return loop.Bitcast(loop.Cast(upper, loop.Type(DType.U16, lanes)), loop.Type(dtype, lanes))


def constant(value: float | int, t: loop.Type) -> loop.Const:
    return loop.Const(float(value) if t.element.is_float else value, t)


def combine(kind: str, a: loop.Value, b: loop.Value) -> loop.Value:
    """One step of a reduction."""
    return loop.Binary(COMBINE[kind], a, b)


def identity(kind: str, t: loop.Type) -> loop.Const:
    """What an empty reduction gives."""
    return constant(neutral(kind, t.element), t)
