"""Rows of comparisons, logic and choice."""

from __future__ import annotations

from mapsto.importers.torch.rows.pointwise import truth
from mapsto.importers.torch.table import AtenCall, aten
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value

_COMPARED = {
    "eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge", "greater": "gt", "greater_equal": "ge",
    "less": "lt", "less_equal": "le", "not_equal": "ne",
}  # fmt: skip


@aten(*_COMPARED)
def _compared(call: AtenCall) -> Value:
    """In the type that both are promoted to; truth values are ordered as 0 and 1."""
    kind = call.promoted("self", "other")
    op = _COMPARED[call.name]
    if kind is DType.BOOL and op not in ("eq", "ne"):
        kind = DType.U8
    return call.one(op, [call.operand("self", kind), call.operand("other", kind)])


@aten("logical_and", "logical_or", "logical_xor")
def _logical(call: AtenCall) -> Value:
    operands = [truth(call, call.value(name)) for name in ("self", "other")]
    return call.one(call.name.removeprefix("logical_"), operands)


@aten("bitwise_and", "bitwise_or", "bitwise_xor", "__and__", "__or__", "__xor__")
def _bitwise(call: AtenCall) -> Value:
    name, kind = call.name.removeprefix("bitwise_").strip("_"), call.out
    op = name if kind is DType.BOOL else f"bit{name}"
    return call.one(op, [call.operand("self", kind), call.operand("other", kind)])


@aten("bitwise_left_shift", "bitwise_right_shift", "__lshift__", "__rshift__")
def _shift(call: AtenCall) -> Value:
    kind = call.out
    if not kind.is_integer:
        raise call.unsupported(f"shifts of {kind.value} are not supported; shift integers")
    x, n = call.operand("self", kind), call.operand("other", kind)
    if "left" in call.name or "lshift" in call.name:
        return call.one("shl", [x, n])
    return call.one("shr", [x, n])


@aten("where")
def _where(call: AtenCall) -> Value:
    if not call.has("self"):
        raise call.unsupported("`torch.where(condition)` alone is not supported; use torch.nonzero")
    kind = call.out
    return call.one(
        "select", [truth(call, call.value("condition")), call.operand("self", kind), call.operand("other", kind)]
    )


@aten("masked_fill")
def _masked_fill(call: AtenCall) -> Value:
    x = call.value()
    chosen = call.one("select", [call.value("mask"), call.operand("value", x.dtype), x])
    return chosen


@aten("isclose")
def _isclose(call: AtenCall) -> Value:
    """|a - b| <= atol + rtol |b|, or a = b; of two NaN only where that is asked for."""
    kind = call.promoted("self", "other")
    x, y = (call.operand(name, kind) for name in ("self", "other"))
    found = call.one("eq", [x, y])
    if kind is DType.BOOL:
        return found
    real = kind if kind.is_float else DType.F64
    a, b = call.cast(x, real), call.cast(y, real)
    bound = call.one("mul", [call.one("abs", [b]), call.scalar(call.number("rtol", 1e-5), real)])
    bound = call.one("add", [bound, call.scalar(call.number("atol", 1e-8), real)])
    distance = call.one("abs", [call.one("sub", [a, b])])
    finite = call.one("lt", [distance, call.scalar(float("inf"), real)])
    near = call.one("and", [finite, call.one("le", [distance, bound])])
    found = call.one("or", [found, near])
    if call.flag("equal_nan") and kind.is_float:
        found = call.one("or", [found, call.one("and", [call.one("isnan", [x]), call.one("isnan", [y])])])
    return found
