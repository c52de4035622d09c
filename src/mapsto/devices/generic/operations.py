"""Scalar functions of kernels as operations on loop values, any number of lanes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mapsto.ir.dtypes import DType
from mapsto.kernel.scalar import neutral
from mapsto.loop.ast import Binary, Bitcast, Broadcast, Cast, Compare, Const, Fma, Select, Statement, Type, Unary, Value
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
_HALF = (DType.F16, DType.BF16)
# Of integers these are the identity.
_WHOLE_ALREADY = ("floor", "ceil", "round")


def lift(value: Value, lanes: int) -> Value:
    """A value with this many lanes; a single one is repeated."""
    if value.type.lanes == lanes:
        return value
    wide = Type(value.type.element, lanes)
    return Const(value.value, wide) if isinstance(value, Const) else Broadcast(value, wide)


def level(values: Sequence[Value]) -> list[Value]:
    """Values lifted to the most lanes that one of them has."""
    lanes = max((v.type.lanes for v in values), default=1)
    return [lift(v, lanes) for v in values]


def apply(fn: str, args: Sequence[Value], dtype: DType, fresh: Callable[[str], str]) -> tuple[list[Statement], Value]:
    """Statements and the value of `fn(args)`, of element type `dtype`.

    Half types are computed in f32 and rounded once.
    """
    args = level(args)
    if fn == "select":
        return [], Select(args[0], args[1], args[2])
    if args[0].type.element in _HALF:
        wide = [convert(a, DType.F32) for a in args]
        statements, value = apply(fn, wide, DType.BOOL if dtype is DType.BOOL else DType.F32, fresh)
        return statements, convert(value, dtype)
    if fn in _COMPARE:
        return [], Compare(fn, args[0], args[1])
    element = args[0].type.element
    if fn in _WHOLE_ALREADY and not element.is_float:
        return [], args[0]
    if fn in _UNARY:
        return [], Unary(_UNARY[fn], args[0])
    if fn in _BINARY:
        return [], Binary(_BINARY[fn], args[0], args[1])
    if fn == "fma":
        if element.is_float:
            return [], Fma(args[0], args[1], args[2])
        return [], Binary("add", Binary("mul", args[0], args[1]), args[2])
    return _called(fn, args, dtype, fresh)


def _called(fn: str, args: list[Value], dtype: DType, fresh: Callable[[str], str]) -> tuple[list[Statement], Value]:
    """A function with loop code of its own; those that know no integers go through f64."""
    element = args[0].type.element
    if not element.is_float and fn not in ON_INTEGERS:
        statements, value = emit(fn, [convert(a, DType.F64) for a in args], fresh)
        return statements, convert(value, dtype)
    assert fn in FUNCTIONS, f"no scalar function {fn!r}"
    return emit(fn, args, fresh)


def convert(value: Value, dtype: DType) -> Value:
    """Conversion by numpy's rules: anything but zero is true."""
    t = value.type
    if t.element is dtype:
        return value
    wide = Type(dtype, t.lanes)
    if dtype is DType.BOOL:
        return Compare("ne", value, number(0, t))
    if t.element is DType.BOOL:
        return Select(value, number(1, wide), number(0, wide))
    return Cast(value, wide)


def upper_half(value: Value, dtype: DType) -> Value:
    """An f32 value as bf16, which holds it exactly: its upper bits."""
    bits = Bitcast(value, Type(DType.U32, value.type.lanes))
    upper = Binary("shr", bits, number(16, bits.type))
    return Bitcast(Cast(upper, Type(DType.U16, value.type.lanes)), Type(dtype, value.type.lanes))


def number(value: float | int, t: Type) -> Const:
    return Const(float(value) if t.element.is_float else value, t)


def combine(kind: str, a: Value, b: Value) -> Value:
    """One step of a reduction."""
    return Binary(COMBINE[kind], a, b)


def identity(kind: str, t: Type) -> Const:
    """What an empty reduction gives."""
    return number(neutral(kind, t.element), t)
