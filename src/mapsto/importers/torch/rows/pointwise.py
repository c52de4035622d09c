"""Rows of functions of one tensor, element by element: mathematics and activations."""

from __future__ import annotations

import math
from collections.abc import Callable

from mapsto.importers.torch.table import AtenCall, aten
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.kernel.scalar import compute_type
from mapsto.ops import composite

# Functions of floats by the names of our ops; of integers they are computed in f32.
_FLOAT = {
    "sqrt": "sqrt", "exp": "exp", "log": "log", "tanh": "tanh", "sigmoid": "sigmoid", "erf": "erf", "sin": "sin",
    "cos": "cos", "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan", "sinh": "sinh", "cosh": "cosh",
    "asinh": "asinh", "acosh": "acosh", "atanh": "atanh", "reciprocal": "reciprocal", "arcsin": "asin",
    "arccos": "acos", "arctan": "atan", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh",
    "special_expit": "sigmoid", "special_erf": "erf",
}  # fmt: skip


def operand(call: AtenCall, name: str = "self") -> Value:
    """The operand in the type of the result."""
    return call.cast(call.value(name), call.out)


def wide(call: AtenCall, x: Value) -> Value:
    """A half-precision operand of several steps, in the type that it is computed in."""
    return call.cast(x, compute_type(x.dtype))


@aten(*_FLOAT)
def _function(call: AtenCall) -> Value:
    return call.one(_FLOAT[call.name], [operand(call)])


@aten("neg", "abs", "absolute", "negative")
def _same_type(call: AtenCall) -> Value:
    x = call.value()
    if x.dtype is DType.BOOL or (
        x.dtype in (DType.U8, DType.U16, DType.U32, DType.U64) and call.name.startswith("abs")
    ):
        return x
    return call.one("neg" if call.name.startswith("neg") else "abs", [x])


@aten("sign", "sgn")
def _sign(call: AtenCall) -> Value:
    """A NaN has the sign 0 in torch."""
    x = call.value()
    if x.dtype is DType.BOOL:
        return x
    if not x.dtype.is_float:
        return call.one("sign", [x])
    zero = call.scalar(0, x.dtype)
    up, down = (call.cast(call.one(op, [x, zero]), x.dtype) for op in ("gt", "lt"))
    return call.one("sub", [up, down])


@aten("floor", "ceil", "round", "trunc", "fix")
def _rounded(call: AtenCall) -> Value:
    x = call.value()
    if not x.dtype.is_float:
        return x
    if call.overload == "decimals":
        factor = call.scalar(10.0 ** abs(call.integer("decimals")), x.dtype)
        if call.integer("decimals") == 0:
            return call.one("round", [x])
        there, back = ("mul", "div") if call.integer("decimals") > 0 else ("div", "mul")
        return call.one(back, [call.one("round", [call.one(there, [x, factor])]), factor])
    if call.name in ("trunc", "fix"):
        return truncated(call, x)
    return call.one(call.name, [x])


def truncated(call: AtenCall, x: Value) -> Value:
    negative = call.one("lt", [x, call.scalar(0, x.dtype)])
    return call.one("select", [negative, call.one("ceil", [x]), call.one("floor", [x])])


@aten("frac")
def _frac(call: AtenCall) -> Value:
    x = call.value()
    return call.one("sub", [x, truncated(call, x)])


@aten("square")
def _square(call: AtenCall) -> Value:
    x = operand(call)
    return call.one("mul", [x, x])


@aten("rsqrt")
def _rsqrt(call: AtenCall) -> Value:
    return call.cast(call.one("reciprocal", [call.one("sqrt", [wide(call, operand(call))])]), call.out)


@aten("exp2", "special_exp2")
def _exp2(call: AtenCall) -> Value:
    x = wide(call, operand(call))
    return call.cast(call.one("pow", [call.scalar(2.0, x.dtype), x]), call.out)


@aten("expm1", "special_expm1")
def _expm1(call: AtenCall) -> Value:
    """2 tanh(x/2) / (1 - tanh(x/2)) near 0, where e^x - 1 cancels."""
    x = wide(call, operand(call))
    one, two, half = (call.scalar(v, x.dtype) for v in (1.0, 2.0, 0.5))
    t = call.one("tanh", [call.one("mul", [x, half])])
    near = call.one("div", [call.one("mul", [two, t]), call.one("sub", [one, t])])
    far = call.one("sub", [call.one("exp", [x]), one])
    small = call.one("lt", [call.one("abs", [x]), one])
    return call.cast(call.one("select", [small, near, far]), call.out)


@aten("log1p", "special_log1p")
def _log1p(call: AtenCall) -> Value:
    """Near 0 as 2 atanh(x / (2 + x)), which does not cancel."""
    x = wide(call, operand(call))
    one, two = (call.scalar(v, x.dtype) for v in (1.0, 2.0))
    near = call.one("mul", [two, call.one("atanh", [call.one("div", [x, call.one("add", [x, two])])])])
    far = call.one("log", [call.one("add", [x, one])])
    small = call.one("lt", [call.one("abs", [x]), call.scalar(0.5, x.dtype)])
    return call.cast(call.one("select", [small, near, far]), call.out)


@aten("log2", "log10")
def _log(call: AtenCall) -> Value:
    x = wide(call, operand(call))
    factor = 1 / math.log(2.0 if call.name == "log2" else 10.0)
    return call.cast(call.one("mul", [call.one("log", [x]), call.scalar(factor, x.dtype)]), call.out)


@aten("erfc", "special_erfc")
def _erfc(call: AtenCall) -> Value:
    return composite.erfc(call.builder, operand(call))


@aten("sinc", "special_sinc")
def _sinc(call: AtenCall) -> Value:
    x = wide(call, operand(call))
    y = call.one("mul", [x, call.scalar(math.pi, x.dtype)])
    found = call.one("div", [call.one("sin", [y]), y])
    one, zero = call.scalar(1.0, x.dtype), call.scalar(0.0, x.dtype)
    return call.cast(call.one("select", [call.one("eq", [x, zero]), one, found]), call.out)


@aten("logit", "special_logit")
def _logit(call: AtenCall) -> Value:
    x = wide(call, operand(call))
    if call.has("eps"):
        low, high = (call.scalar(v, x.dtype) for v in (call.number("eps"), 1 - call.number("eps")))
        x = composite.clip(call.builder, x, low, high)
    return call.cast(call.one("log", [call.one("div", [x, call.one("sub", [call.scalar(1.0, x.dtype), x])])]), call.out)


@aten("logical_not")
def _logical_not(call: AtenCall) -> Value:
    return call.one("not", [truth(call, call.value())])


@aten("bitwise_not")
def _bitwise_not(call: AtenCall) -> Value:
    x = call.value()
    return call.one("not" if x.dtype is DType.BOOL else "bitnot", [x])


def truth(call: AtenCall, x: Value) -> Value:
    """Whether elements are other than 0."""
    return x if x.dtype is DType.BOOL else call.one("ne", [x, call.scalar(0, x.dtype)])


@aten("isnan")
def _isnan(call: AtenCall) -> Value:
    x = call.value()
    return call.one("isnan", [x]) if x.dtype.is_float else _everywhere(call, x, False)


@aten("isinf", "isposinf", "isneginf")
def _isinf(call: AtenCall) -> Value:
    x = call.value()
    if not x.dtype.is_float:
        return _everywhere(call, x, False)
    kinds = {"detect_positive": call.name != "isneginf", "detect_negative": call.name != "isposinf"}
    return call.one("isinf", [x], **kinds)


@aten("isfinite")
def _isfinite(call: AtenCall) -> Value:
    x = call.value()
    if not x.dtype.is_float:
        return _everywhere(call, x, True)
    return call.one("lt", [call.one("abs", [x]), call.scalar(math.inf, x.dtype)])


@aten("signbit")
def _signbit(call: AtenCall) -> Value:
    x = call.value()
    if x.dtype is DType.BOOL:
        return _everywhere(call, x, False)
    if x.dtype.is_float:
        same = {2: DType.I16, 4: DType.I32, 8: DType.I64}[x.dtype.size]
        x = call.one("bitcast", [x], to=same)
    return call.one("lt", [x, call.scalar(0, x.dtype)])


def _everywhere(call: AtenCall, x: Value, said: bool) -> Value:
    return call.one("full", [], shape=x.shape, value=said, dtype=DType.BOOL)


@aten("nan_to_num")
def _nan_to_num(call: AtenCall) -> Value:
    x = call.value()
    if not x.dtype.is_float:
        return x
    most = float(_limits(x.dtype))
    for name, test, default in (
        ("nan", call.one("isnan", [x]), 0.0),
        ("posinf", call.one("isinf", [x], detect_positive=True, detect_negative=False), most),
        ("neginf", call.one("isinf", [x], detect_positive=False, detect_negative=True), -most),
    ):
        x = call.one("select", [test, call.scalar(call.number(name, default), x.dtype), x])
    return x


def _limits(dtype: DType) -> float:
    import torch

    from mapsto.importers.torch.tensors import torch_dtype

    return float(torch.finfo(torch_dtype(dtype)).max)


# -- activations -------------------------------------------------------------------------------------------------------


def _of_wide(function: Callable[[AtenCall, Value], Value]) -> Callable[[AtenCall], Value]:
    """An activation of several steps: half precision is rounded once."""
    return lambda call: call.cast(function(call, wide(call, call.value())), call.out)


@aten("relu")
def _relu(call: AtenCall) -> Value:
    return call.one("relu", [call.value()])


@aten("relu6")
def _relu6(call: AtenCall) -> Value:
    x = call.value()
    return composite.clip(call.builder, x, call.scalar(0, x.dtype), call.scalar(6, x.dtype))


@aten("hardtanh")
def _hardtanh(call: AtenCall) -> Value:
    x = call.value()
    low, high = (call.operand(name, x.dtype) for name in ("min_val", "max_val"))
    return composite.clip(call.builder, x, low, high)


@aten("leaky_relu")
def _leaky_relu(call: AtenCall) -> Value:
    return call.one("leaky_relu", [call.value()], alpha=call.number("negative_slope"))


@aten("elu")
def _elu(call: AtenCall) -> Value:
    """scale * x where x > 0, else alpha * scale * (e^(input_scale * x) - 1)"""
    x = wide(call, call.value())
    alpha, scale, inner = (call.number(n, 1.0) for n in ("alpha", "scale", "input_scale"))
    if scale == inner == 1.0:
        return call.cast(call.one("elu", [x], alpha=alpha), call.out)
    below = call.one("elu", [call.one("mul", [x, call.scalar(inner, x.dtype)])], alpha=alpha)
    positive = call.one("gt", [x, call.scalar(0.0, x.dtype)])
    return call.cast(call.one("mul", [call.one("select", [positive, x, below]), call.scalar(scale, x.dtype)]), call.out)


@aten("selu")
def _selu(call: AtenCall) -> Value:
    return composite.selu(
        call.builder, call.value(), 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    )


@aten("celu")
def _celu(call: AtenCall) -> Value:
    """x where x > 0, else alpha * (e^(x/alpha) - 1)"""
    x, alpha = wide(call, call.value()), call.number("alpha", 1.0)
    below = call.one("elu", [call.one("mul", [x, call.scalar(1 / alpha, x.dtype)])], alpha=alpha)
    return call.cast(call.one("select", [call.one("gt", [x, call.scalar(0.0, x.dtype)]), x, below]), call.out)


@aten("gelu")
def _gelu(call: AtenCall) -> Value:
    return composite.gelu(call.builder, call.value(), call.text("approximate", "none"))


@aten("silu")
def _silu(call: AtenCall) -> Value:
    return composite.quick_gelu(call.builder, call.value(), 1.0)


@aten("mish")
def _mish(call: AtenCall) -> Value:
    return composite.mish(call.builder, call.value())


@aten("hardsigmoid")
def _hardsigmoid(call: AtenCall) -> Value:
    return composite.hard_sigmoid(call.builder, call.value(), 1 / 6, 0.5)


@aten("hardswish")
def _hardswish(call: AtenCall) -> Value:
    return composite.hard_swish(call.builder, call.value())


@aten("softplus")
def _softplus(call: AtenCall) -> Value:
    """log(1 + e^(beta x)) / beta; x itself where beta x > threshold."""
    x = wide(call, call.value())
    beta, threshold = call.number("beta", 1.0), call.number("threshold", 20.0)
    scaled = x if beta == 1.0 else call.one("mul", [x, call.scalar(beta, x.dtype)])
    y = call.one("softplus", [scaled])
    y = y if beta == 1.0 else call.one("div", [y, call.scalar(beta, x.dtype)])
    return call.cast(call.one("select", [call.one("gt", [scaled, call.scalar(threshold, x.dtype)]), x, y]), call.out)


@aten("log_sigmoid", "log_sigmoid_forward")
def _log_sigmoid(call: AtenCall) -> Value | list[Value]:
    x = wide(call, call.value())
    y = call.cast(call.one("neg", [call.one("softplus", [call.one("neg", [x])])]), call.value().dtype)
    if call.name == "log_sigmoid":
        return y
    if tuple(call.result(1).shape) == (0,):
        return [y, call.one("full", [], shape=(0,), value=0.0, dtype=y.dtype)]
    decay = call.one("exp", [call.one("neg", [call.one("abs", [x])])])  # which the backward pass reads
    return [y, call.cast(decay, y.dtype)]


@aten("hardshrink")
def _hardshrink(call: AtenCall) -> Value:
    x = call.value()
    level = call.scalar(call.number("lambd", 0.5), x.dtype)
    inside = call.one("le", [call.one("abs", [x]), level])
    return call.one("select", [inside, call.scalar(0, x.dtype), x])


@aten("softshrink")
def _softshrink(call: AtenCall) -> Value:
    x = call.value()
    level = call.scalar(call.number("lambd", 0.5), x.dtype)
    zero = call.scalar(0, x.dtype)
    low = call.one("select", [call.one("lt", [x, call.one("neg", [level])]), call.one("add", [x, level]), zero])
    nan = call.one("select", [call.one("isnan", [x]), x, low])
    return call.one("select", [call.one("gt", [x, level]), call.one("sub", [x, level]), nan])


@aten("threshold")
def _threshold(call: AtenCall) -> Value:
    """x where x > threshold or x is NaN, else the value."""
    x = call.value()
    below = call.one("le", [x, call.operand("threshold", x.dtype)])
    return call.one("select", [below, call.operand("value", x.dtype), x])


@aten("prelu", "_prelu_kernel")
def _prelu(call: AtenCall) -> Value:
    from mapsto.ops.arranging import column

    x, slope = call.value(), call.value("weight")
    if slope.rank == 1 and x.rank > 1:
        slope = column(call.builder, slope, 1, x.rank) if slope.shape[0] != 1 else slope
    positive = call.one("gt", [x, call.scalar(0, x.dtype)])
    found = call.one("select", [positive, x, call.one("mul", [x, slope])])
    from mapsto.ops.composite import reshape

    return reshape(call.builder, found, x.shape)


@aten("glu")
def _glu(call: AtenCall) -> Value:
    from mapsto.ops.arranging import slice_axis

    x, axis = call.value(), call.axis()
    half = call.shape[axis]
    first, gate = (slice_axis(call.builder, x, axis, start, half) for start in (0, half))
    gate = call.one("sigmoid", [wide(call, gate)])
    return call.cast(call.one("mul", [wide(call, first), gate]), call.out)


@aten("deg2rad", "rad2deg")
def _angle_units(call: AtenCall) -> Value:
    x = operand(call)
    return call.one("mul", [x, call.scalar(math.pi / 180 if call.name == "deg2rad" else 180 / math.pi, x.dtype)])


@aten("angle")
def _angle(call: AtenCall) -> Value:
    """pi for what is negative, 0 for other numbers."""
    x = operand(call)
    negative = call.one("lt", [x, call.scalar(0, x.dtype)])
    found = call.one("select", [negative, call.scalar(math.pi, x.dtype), call.scalar(0.0, x.dtype)])
    return call.one("select", [call.one("isnan", [x]), x, found])
