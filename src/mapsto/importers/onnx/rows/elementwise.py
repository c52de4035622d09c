"""Rows of elementwise ops: arithmetic, comparison, logic, activations, casts."""

from __future__ import annotations

import numpy as np
import onnx

from mapsto.errors import ShapeError
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.importers.onnx.tensors import dtype_of
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.kernel.minifloats import ROUNDINGS
from mapsto.ops import composite
from mapsto.ops.arranging import column, flatten, reshape
from mapsto.ops.variadic import combined

# ONNX name -> ours, where the two mean the same
_UNARY = {
    "Neg": "neg", "Abs": "abs", "Sign": "sign", "Sqrt": "sqrt", "Exp": "exp", "Log": "log", "Tanh": "tanh", "Erf":
    "erf", "Sigmoid": "sigmoid", "Softplus": "softplus", "Relu": "relu", "Sin": "sin", "Cos": "cos", "Tan": "tan",
    "Asin": "asin", "Acos": "acos", "Atan": "atan", "Sinh": "sinh", "Cosh": "cosh", "Asinh": "asinh", "Acosh":
    "acosh", "Atanh": "atanh", "Floor": "floor", "Ceil": "ceil", "Round": "round", "Not": "not", "IsNaN": "isnan",
    "Reciprocal": "reciprocal", "BitwiseNot": "bitnot",
}  # fmt: skip
_BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow", "Equal": "eq", "Less": "lt",
    "LessOrEqual": "le", "Greater": "gt", "GreaterOrEqual": "ge", "And": "and", "Or": "or", "Xor": "xor",
    "BitwiseAnd": "bitand", "BitwiseOr": "bitor", "BitwiseXor": "bitxor",
}  # fmt: skip
_FOLDED = {"Sum": "add", "Max": "max", "Min": "min"}


@row(*_UNARY)
def _unary(call: NodeCall) -> Result:
    return call.builder.one(_UNARY[call.op], [composite.decoded(call.builder, call.input())])


@row(*_BINARY)
def _binary(call: NodeCall) -> Result:
    second = call.input(1) if call.opset >= 7 else _second_of_old(call)
    return call.builder.one(_BINARY[call.op], [call.input(0), second])


def _second_of_old(call: NodeCall) -> Value:
    """Before opset 7 only the second operand is broadcast, and only by `broadcast`: its axes are those of the first
    from `axis` on, the last ones where there is no `axis`.
    """
    x, y = call.input(0), call.input(1)
    if not call.integer("broadcast", 0):
        if x.rank != y.rank:
            raise call.wrong(f"{x} and {y} differ in rank; attribute broadcast=1 would allow that")
        return y
    if y.rank > x.rank:
        raise call.wrong(f"{y} has more axes than {x}, to which it is broadcast")
    if not call.has_attribute("axis"):
        return y
    axis = call.axis(x.rank)
    if axis + y.rank > x.rank:
        raise call.wrong(f"{y} does not fit {x} from axis {axis} on")
    return reshape(call.builder, y, (*y.shape, *[1] * (x.rank - axis - y.rank)))


@row(*_FOLDED)
def _folded(call: NodeCall) -> Result:
    return combined(call.builder, _FOLDED[call.op], call.all_inputs())


@row("Mean")
def _mean(call: NodeCall) -> Result:
    total = combined(call.builder, "add", call.all_inputs())
    return call.builder.one("div", [total, call.scalar(len(call.inputs), total)])


@row("Mod")
def _mod(call: NodeCall) -> Result:
    return call.builder.one("mod", [call.input(0), call.input(1)], fmod=bool(call.integer("fmod", 0)))


@row("BitShift")
def _shift(call: NodeCall) -> Result:
    direction = call.one_of("direction", "", ["LEFT", "RIGHT"])
    return call.builder.one("shl" if direction == "LEFT" else "shr", [call.input(0), call.input(1)])


@row("Where")
def _where(call: NodeCall) -> Result:
    return call.builder.one("select", [call.input(0), call.input(1), call.input(2)])


@row("Clip")
def _clip(call: NodeCall) -> Result:
    """min(max(x, low), high): where low > high the result is high."""
    b, x = call.builder, call.input()
    if call.opset < 11:
        low, high = (_bound_of_old(call, name, x) for name in ("min", "max"))
    else:
        low, high = call.optional(1), call.optional(2)
    if low is not None:
        x = b.one("max", [x, low])
    return x if high is None else b.one("min", [x, high])


def _bound_of_old(call: NodeCall, name: str, x: Value) -> Value | None:
    """An attribute of Clip; where it is left out the largest finite f32 bounds the operand, before opset 6 nothing."""
    if not call.has_attribute(name) and (call.opset < 6 or x.dtype.is_half):
        return None
    largest = float(np.finfo(np.float32).max)
    return call.scalar(call.number(name, largest if name == "max" else -largest), x)


@row("Cast")
def _cast(call: NodeCall) -> Result:
    if call.opset >= 6:
        return _to(call, call.dtype("to"))
    name = call.text("to", "").upper()
    if name not in onnx.TensorProto.DataType.keys():
        raise call.wrong(f"attribute to={name!r} is no element type")
    return _to(call, dtype_of(onnx.TensorProto.DataType.Value(name), "attribute 'to'"))


@row("BitCast")
def _bit_cast(call: NodeCall) -> Result:
    """The same bits, read as another type of the same size; a bool is a byte of 0 or 1, and any other byte is true."""
    x, to = call.input(), call.dtype("to")
    if x.dtype.bits != to.bits:
        raise call.wrong(f"the bits of {x.dtype.value} are none of {to.value}: the types must be of one size")
    if x.dtype.is_float or to.is_float or x.dtype.is_storage or to.is_storage:
        return x if x.dtype is to else call.builder.one("bitcast", [x], to=to)
    return _to(call, to)  # integers of one size wrap around


@row("CastLike")
def _cast_like(call: NodeCall) -> Result:
    return _to(call, call.input(1).dtype)


def _to(call: NodeCall, dtype: DType) -> Value:
    rounding = call.text("round_mode", "up")
    if rounding not in ROUNDINGS:
        raise call.wrong(f"attribute round_mode={rounding!r} is none of {', '.join(ROUNDINGS)}")
    return composite.recast(call.builder, call.input(), dtype, bool(call.integer("saturate", 1)), rounding)


@row("Identity")
def _identity(call: NodeCall) -> Result:
    return call.input()


@row("IsInf")
def _is_inf(call: NodeCall) -> Result:
    positive, negative = bool(call.integer("detect_positive", 1)), bool(call.integer("detect_negative", 1))
    x = composite.decoded(call.builder, call.input())
    return call.builder.one("isinf", [x], detect_positive=positive, detect_negative=negative)


# -- activations -------------------------------------------------------------------------------------------------------


@row("LeakyRelu")
def _leaky_relu(call: NodeCall) -> Result:
    return call.builder.one("leaky_relu", [call.input()], alpha=call.number("alpha", 0.01))


@row("Elu")
def _elu(call: NodeCall) -> Result:
    return call.builder.one("elu", [call.input()], alpha=call.number("alpha", 1.0))


@row("Selu")
def _selu(call: NodeCall) -> Result:
    default = (1.67326319217681884765625, 1.05070102214813232421875) if call.opset >= 6 else (1.6732, 1.0507)
    alpha, gamma = call.number("alpha", default[0]), call.number("gamma", default[1])
    return composite.selu(call.builder, call.input(), alpha, gamma)


@row("Celu")
def _celu(call: NodeCall) -> Result:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1)) = alpha * elu(x / alpha, 1)"""
    b, x = call.builder, call.input()
    alpha = call.scalar(call.number("alpha", 1.0), x)
    return b.one("mul", [b.one("elu", [b.one("div", [x, alpha])], alpha=1.0), alpha])


@row("PRelu")
def _prelu(call: NodeCall) -> Result:
    x, slope = call.input(0), call.input(1)
    if call.opset < 7 and slope.rank == 1 and slope.shape[0] != 1 and x.rank > 1:  # a slope for each channel
        slope = column(call.builder, slope, 1, x.rank)
    return composite.prelu(call.builder, x, slope)


@row("HardSigmoid")
def _hard_sigmoid(call: NodeCall) -> Result:
    return composite.hard_sigmoid(call.builder, call.input(), call.number("alpha", 0.2), call.number("beta", 0.5))


@row("HardSwish")
def _hard_swish(call: NodeCall) -> Result:
    return composite.hard_swish(call.builder, call.input())


@row("Mish")
def _mish(call: NodeCall) -> Result:
    return composite.mish(call.builder, call.input())


@row("Gelu")
def _gelu(call: NodeCall) -> Result:
    approximate = call.one_of("approximate", "none", ["none", "tanh"])
    return composite.gelu(call.builder, call.input(), approximate=approximate)


@row("Erfc")
def _erfc(call: NodeCall) -> Result:
    """No op of the standard: converters of TensorFlow's models leave it."""
    if not call.input().dtype.is_float:
        raise call.wrong(f"{call.input()} is no tensor of floats")
    return composite.erfc(call.builder, call.input())


@row("Swish")
def _swish(call: NodeCall) -> Result:
    return composite.quick_gelu(call.builder, call.input(), call.number("alpha", 1.0))


@row("Softsign")
def _softsign(call: NodeCall) -> Result:
    return composite.softsign(call.builder, call.input())


@row("ThresholdedRelu")
def _thresholded_relu(call: NodeCall) -> Result:
    """x where x > alpha, else 0"""
    b, x = call.builder, call.input()
    return b.one("select", [b.one("gt", [x, call.scalar(call.number("alpha", 1.0), x)]), x, call.scalar(0, x)])


@row("Shrink")
def _shrink(call: NodeCall) -> Result:
    """x + bias where x < -lambd, x - bias where x > lambd, else 0; of integers in f64, and cut towards 0"""
    b, given = call.builder, call.input()
    x = given if given.dtype.is_float else b.one("cast", [given], to=DType.F64)
    bias, bound = call.number("bias", 0.0), call.number("lambd", 0.5)
    above = b.one(
        "select", [b.one("gt", [x, call.scalar(bound, x)]), b.one("sub", [x, call.scalar(bias, x)]), call.scalar(0, x)]
    )
    below = b.one("add", [x, call.scalar(bias, x)])
    return composite.cast(b, b.one("select", [b.one("lt", [x, call.scalar(-bound, x)]), below, above]), given.dtype)


# -- softmax and its kin -----------------------------------------------------------------------------------------------


def _softmax_axis(call: NodeCall) -> tuple[Value, int]:
    """The operand and axis of a softmax. Before opset 13 it runs over all axes from `axis` on, as one."""
    x = call.input()
    if call.opset >= 13:
        return x, call.axis(x.rank, -1)
    axis = call.axis(x.rank, 1)
    if axis == x.rank - 1:
        return x, axis
    return flatten(call.builder, x, axis), 1


@row("Softmax", "LogSoftmax")
def _softmax(call: NodeCall) -> Result:
    if call.input().rank == 0:
        raise ShapeError("the operand has no axes")
    x, axis = _softmax_axis(call)
    build = composite.softmax if call.op == "Softmax" else composite.log_softmax
    result = build(call.builder, x, axis)
    return result if x is call.input() else call.builder.one("reshape", [result], shape=call.input().shape)


@row("Hardmax")
def _hardmax(call: NodeCall) -> Result:
    """1 at the first maximum along the axis, else 0."""
    b = call.builder
    x, axis = _softmax_axis(call)
    winner = b.one("argmax", [x], axis=axis, keepdims=True, select_last=False)
    positions = b.one("iota", [], shape=(x.shape[axis],), start=0, step=1, dtype=DType.I64)
    hit = b.one("eq", [column(b, positions, axis, x.rank), winner])
    result = b.one("cast", [hit], to=x.dtype)
    return result if x is call.input() else b.one("reshape", [result], shape=call.input().shape)
