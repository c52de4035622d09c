"""Rows of arithmetic of two tensors, or of one and a number."""

from __future__ import annotations

import math

from mapsto.importers.torch.rows.pointwise import truncated, wide
from mapsto.importers.torch.table import AtenCall, aten
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.kernel.scalar import compute_type
from mapsto.ops import composite


def both(call: AtenCall, kind: DType | None = None, first: str = "self", second: str = "other") -> list[Value]:
    """The operands in the result's type, or another one."""
    kind = call.out if kind is None else kind
    return [call.operand(first, kind), call.operand(second, kind)]


@aten("add", "sub", "subtract", "rsub")
def _sum(call: AtenCall) -> Value:
    x, y = both(call)
    if call.out is DType.BOOL:
        return call.one("or", [x, y])
    alpha = call.given.get("alpha", 1)
    if call.name == "rsub":
        x, y = y, x
        if not (isinstance(alpha, (int, float)) and alpha == 1):
            y = call.one("mul", [y, call.scalar(alpha, call.out)])
    elif not (isinstance(alpha, (int, float)) and alpha == 1):
        y = call.one("mul", [y, call.scalar(alpha, call.out)])
    return call.one("add" if call.name == "add" else "sub", [x, y])


@aten("mul", "multiply")
def _product(call: AtenCall) -> Value:
    return call.one("and" if call.out is DType.BOOL else "mul", both(call))


@aten("div", "true_divide", "divide")
def _quotient(call: AtenCall) -> Value:
    mode = call.given.get("rounding_mode")
    if mode is None:
        x, y = both(call, compute_type(call.out))
        return call.cast(call.one("div", [x, y]), call.out)
    if mode == "floor":
        return floor_divided(call, *both(call))
    x, y = both(call)
    if call.out.is_float:
        x, y = wide(call, x), wide(call, y)
        return call.cast(truncated(call, call.one("div", [x, y])), call.out)
    return call.one("div", [x, y])


def floor_divided(call: AtenCall, x: Value, y: Value) -> Value:
    """The quotient rounded down. Of floats as torch does it: from the remainder, so that it fits that."""
    if x.dtype.is_integer:
        if not x.dtype.is_signed:
            return call.one("div", [x, y])
        rest = call.one("mod", [x, y], fmod=False)
        return call.one("div", [call.one("sub", [x, rest]), y])
    a, b = wide(call, x), wide(call, y)
    zero, half = call.scalar(0.0, a.dtype), call.scalar(0.5, a.dtype)
    rest = call.one("mod", [a, b], fmod=True)
    quotient = call.one("div", [call.one("sub", [a, rest]), b])
    other = call.one("xor", [call.one("lt", [rest, zero]), call.one("lt", [b, zero])])
    other = call.one("and", [call.one("ne", [rest, zero]), other])
    one = call.scalar(1.0, a.dtype)
    quotient = call.one("select", [other, call.one("sub", [quotient, one]), quotient])
    down = call.one("floor", [quotient])
    above = call.one("gt", [call.one("sub", [quotient, down]), half])
    down = call.one("select", [above, call.one("add", [down, one]), down])
    plain = call.one("div", [a, b])
    by_zero = call.one("eq", [b, zero])
    return call.cast(call.one("select", [by_zero, plain, down]), x.dtype)


@aten("floor_divide")
def _floor_divide(call: AtenCall) -> Value:
    return floor_divided(call, *both(call))


@aten("remainder", "fmod")
def _remainder(call: AtenCall) -> Value:
    return call.one("mod", both(call), fmod=call.name == "fmod")


@aten("maximum", "minimum", "max.other", "min.other")
def _extreme(call: AtenCall) -> Value:
    op = call.name[:3]
    if call.out is DType.BOOL:
        return call.one("or" if op == "max" else "and", both(call))
    return call.one(op, both(call))


@aten("fmax", "fmin")
def _extreme_of_numbers(call: AtenCall) -> Value:
    """Where one operand is NaN, the other one."""
    x, y = both(call)
    op = call.name[1:]
    if call.out is DType.BOOL:
        return call.one("or" if op == "max" else "and", [x, y])
    found = call.one(op, [x, y])
    if not call.out.is_float:
        return found
    found = call.one("select", [call.one("isnan", [y]), x, found])
    return call.one("select", [call.one("isnan", [x]), y, found])


@aten("pow", "float_power")
def _power(call: AtenCall) -> Value:
    exponent = call.given["exponent"]
    if call.name == "pow" and call.overload == "Tensor_Scalar" and not isinstance(exponent, Value):
        x, number = call.operand("self", call.out), float(exponent)
        if number == 2.0:
            return call.one("mul", [x, x])
        if number == 1.0:
            return x
        if number == 3.0:
            a = wide(call, x)
            return call.cast(call.one("mul", [call.one("mul", [a, a]), a]), call.out)
        if number in (0.5, -0.5, -1.0, -2.0) and call.out.is_float:
            return call.cast(_root(call, wide(call, x), number), call.out)
    kind = compute_type(call.out)
    return call.cast(call.one("pow", both(call, kind, "self", "exponent")), call.out)


def _root(call: AtenCall, x: Value, number: float) -> Value:
    if number == -2.0:
        return call.one("reciprocal", [call.one("mul", [x, x])])
    y = x if number == -1.0 else call.one("sqrt", [x])
    return y if number == 0.5 else call.one("reciprocal", [y])


@aten("atan2", "arctan2")
def _atan2(call: AtenCall) -> Value:
    """From atan(y/x), moved by pi where x is negative; the signs of zeros and infinities count."""
    kind = compute_type(call.out)
    y, x = both(call, kind)
    zero = call.scalar(0.0, kind)
    bits = {4: DType.I32, 8: DType.I64}[kind.size]
    negative_x, negative_y = (call.one("lt", [call.one("bitcast", [v], to=bits), call.scalar(0, bits)]) for v in (x, y))
    infinite = call.one("and", [call.one("isinf", [v], detect_positive=True, detect_negative=True) for v in (x, y)])
    ratio = call.one("div", [call.one("abs", [y]), call.one("abs", [x])])
    both_zero = call.one("and", [call.one("eq", [v, zero]) for v in (x, y)])
    ratio = call.one("select", [both_zero, zero, ratio])
    ratio = call.one("select", [infinite, call.scalar(1.0, kind), ratio])
    angle = call.one("atan", [ratio])
    angle = call.one("select", [negative_x, call.one("sub", [call.scalar(math.pi, kind), angle]), angle])
    return call.cast(call.one("select", [negative_y, call.one("neg", [angle]), angle]), call.out)


@aten("copysign")
def _copysign(call: AtenCall) -> Value:
    x, y = both(call)
    bits = {2: DType.I16, 4: DType.I32, 8: DType.I64}[call.out.size]
    negative = call.one("lt", [call.one("bitcast", [y], to=bits), call.scalar(0, bits)])
    size = call.one("abs", [x])
    return call.one("select", [negative, call.one("neg", [size]), size])


@aten("hypot")
def _hypot(call: AtenCall) -> Value:
    """The larger one times sqrt(1 + ratio^2), which does not overflow before the result does."""
    kind = compute_type(call.out)
    x, y = (call.one("abs", [v]) for v in both(call, kind))
    large, small = call.one("max", [x, y]), call.one("min", [x, y])
    ratio = call.one("div", [small, large])
    plain = call.one("eq", [large, call.scalar(0.0, kind)])
    plain = call.one("or", [plain, call.one("isinf", [large], detect_positive=True, detect_negative=False)])
    square = call.one("add", [call.one("mul", [ratio, ratio]), call.scalar(1.0, kind)])
    found = call.one("select", [plain, large, call.one("mul", [large, call.one("sqrt", [square])])])
    infinite = call.one("or", [call.one("isinf", [v], detect_positive=True, detect_negative=False) for v in (x, y)])
    return call.cast(call.one("select", [infinite, call.scalar(math.inf, kind), found]), call.out)


@aten("logaddexp", "logaddexp2")
def _logaddexp(call: AtenCall) -> Value:
    """max + log(1 + e^-|a - b|); equal operands, infinite ones too, do not meet as a difference."""
    kind = compute_type(call.out)
    x, y = both(call, kind)
    factor = math.log(2.0) if call.name == "logaddexp2" else 1.0
    top = call.one("max", [x, y])
    gap = call.one("neg", [call.one("abs", [call.one("sub", [x, y])])])
    gap = call.one("select", [call.one("eq", [x, y]), call.scalar(0.0, kind), gap])
    scaled = gap if factor == 1.0 else call.one("mul", [gap, call.scalar(factor, kind)])
    more = call.one("softplus", [scaled])
    more = more if factor == 1.0 else call.one("div", [more, call.scalar(factor, kind)])
    return call.cast(call.one("add", [top, more]), call.out)


@aten("xlogy", "special_xlogy", "special_xlog1py")
def _xlogy(call: AtenCall) -> Value:
    kind = compute_type(call.out)
    x, y = both(call, kind)
    zero = call.scalar(0.0, kind)
    inner = call.one("add", [y, call.scalar(1.0, kind)]) if call.name == "special_xlog1py" else y
    found = call.one("select", [call.one("eq", [x, zero]), zero, call.one("mul", [x, call.one("log", [inner])])])
    return call.cast(call.one("select", [call.one("isnan", [y]), y, found]), call.out)


@aten("addcmul", "addcdiv")
def _addc(call: AtenCall) -> Value:
    kind = compute_type(call.out)
    x, a, b = (call.operand(name, kind) for name in ("self", "tensor1", "tensor2"))
    y = call.one("mul" if call.name == "addcmul" else "div", [a, b])
    value = call.given.get("value", 1)
    y = y if isinstance(value, (int, float)) and value == 1 else call.one("mul", [y, call.scalar(value, kind)])
    return call.cast(call.one("add", [x, y]), call.out)


@aten("lerp")
def _lerp(call: AtenCall) -> Value:
    """start + w (end - start) for |w| < 1/2, else end - (end - start)(1 - w)"""
    kind = compute_type(call.out)
    x, y, w = (call.operand(name, kind) for name in ("self", "end", "weight"))
    gap = call.one("sub", [y, x])
    near = call.one("add", [x, call.one("mul", [w, gap])])
    far = call.one("sub", [y, call.one("mul", [gap, call.one("sub", [call.scalar(1.0, kind), w])])])
    small = call.one("lt", [call.one("abs", [w]), call.scalar(0.5, kind)])
    return call.cast(call.one("select", [small, near, far]), call.out)


@aten("clamp", "clip", "clamp_min", "clamp_max")
def _clamp(call: AtenCall) -> Value:
    kind = call.out
    low, high = (call.operand(n, kind) if call.has(n) else None for n in ("min", "max"))
    return composite.clip(call.builder, call.operand("self", kind), low, high)


@aten("heaviside")
def _heaviside(call: AtenCall) -> Value:
    x, at_zero = call.value(), call.value("values")
    zero = call.scalar(0, x.dtype)
    step = call.cast(call.one("gt", [x, zero]), x.dtype)
    return call.one("select", [call.one("eq", [x, zero]), at_zero, step])
