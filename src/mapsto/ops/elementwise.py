"""Elementwise ops of one operand, `cast` and `select`: the same scalar function at every element."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import Array, DType, from_numpy
from mapsto.ir.expr import Dim, equality, sym
from mapsto.ir.expr_proofs import known_at_least
from mapsto.ir.graph import Node, Value
from mapsto.kernel.ast import Cast, Const, Op, Scalar, Stmt
from mapsto.kernel.scalar import apply, compute_type, convert, widen
from mapsto.ops.making import Making
from mapsto.ops.registry import Gradient, Inference, Lowering, OpSpec, Shape, register
from mapsto.ops.shapes import (
    BOOLS,
    FLOATS,
    INTEGERS,
    NUMBERS,
    STORAGE,
    broadcast_shape,
    describe,
    require_dtype,
    require_same_dtype,
    static,
)

Content = Callable[[list[Array], Mapping[str, Any], Sequence[Shape]], "Array | None"]

# ---- what all elementwise ops share ----------------------------------------------------------------------------------


def constant_like(value: float | int | bool, like: Scalar) -> Const:
    return Const(value, like.dtype)


def widened(value: Scalar) -> Scalar:
    """Half-precision operands are computed with in f32."""
    wide = compute_type(value.dtype)
    return value if wide is value.dtype else Cast(value, wide)


def converted(value: Scalar, dtype: DType) -> Scalar:
    return value if value.dtype is dtype else Cast(value, dtype)


def lower_pointwise(build: Callable[[Lowering, list[Scalar]], Scalar]) -> Callable[[Lowering], list[Stmt]]:
    """One statement over the output's elements; `build` makes the value from the (widened, broadcast) operands."""

    def lower(low: Lowering) -> list[Stmt]:
        iters = low.iters(low.output.shape)
        index = [sym(i.name) for i in iters]
        operands = [widened(low.load_broadcast(k, index)) for k in range(len(low.inputs))]
        return [low.stmt(iters, converted(build(low, operands), low.output.dtype))]

    return lower


def content_of(rule: Callable[..., Dim | None]) -> Content:
    """A content rule from a rule for one element; None from it means that nothing is known of the whole."""

    def content(inputs: list[Array], attrs: Mapping[str, Any], shapes: Sequence[Shape]) -> Array | None:
        shape = static(shapes[0])
        operands = [np.broadcast_to(a, shape) for a in inputs]
        result: Array = np.empty(shape, dtype=np.dtype(object))
        for at in np.ndindex(*result.shape):
            element = rule(*(o[at] for o in operands))
            if element is None:
                return None
            result[at] = int(element) if isinstance(element, (bool, np.bool_)) else element
        return result

    return content


def sum_to(b: Making, gradient: Value, shape: Shape) -> Value:
    """The gradient of broadcasting: summed over the axes that were repeated, in the operand's shape. Raises ShapeError
    where only a run knows which those are.
    """
    extra = gradient.rank - len(shape)
    for extent, full in zip(shape, gradient.shape[extra:], strict=True):
        if extent not in (1, full) and not b.proves(equality(extent, full)):
            raise ShapeError(
                f"the gradient of an axis of {extent} that is read as one of {full}: whether it is repeated only a run "
                "knows; fix the sizes or give them one name"
            )
    axes = [*range(extra), *(extra + i for i, d in enumerate(shape) if d == 1 and gradient.shape[extra + i] != 1)]
    if axes:
        gradient = b.one("reduce", [gradient], kind="sum", axes=tuple(axes), keepdims=False)
    return gradient if gradient.shape == tuple(shape) else b.one("reshape", [gradient], shape=tuple(shape))


def scalar_like(b: Making, value: float, like: Value) -> Value:
    return b.constant(np.asarray(value, dtype=like.dtype.numpy))


# ---- one operand -----------------------------------------------------------------------------------------------------


def _unary(
    name: str,
    allowed: frozenset[DType],
    *,
    build: Callable[[Lowering, list[Scalar]], Scalar] | None = None,
    reference: Callable[[Array, Mapping[str, Any]], Any] | None = None,
    result: DType | None = None,
    content: Callable[..., Dim | None] | None = None,
    gradient: Gradient | None = None,
) -> None:
    def infer(inference: Inference) -> list[tuple[DType, Shape]]:
        dtype = require_dtype(inference, 0, allowed)
        return [(result or dtype, inference.value(0).shape)]

    def evaluate(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
        (x,) = inputs
        dtype = result or _dtype(x)
        if reference is None:
            return [apply(name, [x], dtype)]
        with np.errstate(all="ignore"):
            return [convert(np.asarray(reference(widen(x), attrs)), dtype)]

    def simple(low: Lowering, operands: list[Scalar]) -> Scalar:
        return Op(name, (operands[0],), result or operands[0].dtype)

    register(OpSpec(
        name, "elementwise", infer, evaluate, lower_pointwise(build or simple),
        content=content_of(content) if content else None, gradient=gradient,
    ))  # fmt: skip


def _dtype(x: Array) -> DType:
    return from_numpy(x.dtype)


def _chain(rule: Callable[[Making, Value, Value], Value]) -> Gradient:
    """gradient = incoming * derivative, where the rule gives the derivative from (input, output)."""

    def gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
        (g,) = incoming
        if g is None:
            return [None]
        return [b.one("mul", [g, rule(b, b.lookup(node.inputs[0]), node.output)])]

    return gradient


def _relu(low: Lowering, operands: list[Scalar]) -> Scalar:
    (x,) = operands
    return Op("max", (x, constant_like(0, x)), x.dtype)


def _softplus(low: Lowering, operands: list[Scalar]) -> Scalar:
    """log(1 + e^x) = max(x, 0) + log1p(e^-|x|), which neither overflows nor cancels."""
    (x,) = operands
    decay = Op("exp", (Op("neg", (Op("abs", (x,), x.dtype),), x.dtype),), x.dtype)
    return Op("add", (Op("max", (x, constant_like(0, x)), x.dtype), Op("log1p", (decay,), x.dtype)), x.dtype)


def _leaky_relu(low: Lowering, operands: list[Scalar]) -> Scalar:
    (x,) = operands
    slope = Op("mul", (constant_like(float(low.attrs["alpha"]), x), x), x.dtype)
    return Op("select", (Op("lt", (x, constant_like(0, x)), DType.BOOL), slope, x), x.dtype)


def _elu(low: Lowering, operands: list[Scalar]) -> Scalar:
    (x,) = operands
    below = Op("mul", (constant_like(float(low.attrs["alpha"]), x), Op("expm1", (x,), x.dtype)), x.dtype)
    return Op("select", (Op("lt", (x, constant_like(0, x)), DType.BOOL), below, x), x.dtype)


def _reciprocal(low: Lowering, operands: list[Scalar]) -> Scalar:
    (x,) = operands
    return Op("div", (constant_like(1, x), x), x.dtype)


def _isinf(low: Lowering, operands: list[Scalar]) -> Scalar:
    (x,) = operands
    found = [Op("eq", (x, constant_like(v, x)), DType.BOOL) for v in _infinities(low.attrs)]
    if not found:
        return Const(False, DType.BOOL)
    return found[0] if len(found) == 1 else Op("or", (found[0], found[1]), DType.BOOL)


def _infinities(attrs: Mapping[str, Any]) -> list[float]:
    return [v for v, on in ((math.inf, attrs["detect_positive"]), (-math.inf, attrs["detect_negative"])) if on]


def _isinf_reference(x: Array, attrs: Mapping[str, Any]) -> Array:
    return np.isin(x, _infinities(attrs)) if _infinities(attrs) else np.zeros(x.shape, dtype=bool)


def _abs_dim(a: Dim) -> Dim | None:
    if isinstance(a, int):
        return abs(a)
    if known_at_least(a, 0):
        return a
    return -a if known_at_least(-a, 0) else None


def _sign_dim(a: Dim) -> Dim | None:
    if isinstance(a, int):
        return (a > 0) - (a < 0)
    if known_at_least(a, 1):
        return 1
    return -1 if known_at_least(-a, 1) else None


def _exp_gradient(b: Making, x: Value, y: Value) -> Value:
    return y


def _one_minus(b: Making, v: Value) -> Value:
    return b.one("sub", [scalar_like(b, 1.0, v), v])


def _with_slope(slope: Callable[[Making, Value, Value, float], Value]) -> Gradient:
    """gradient = incoming where x >= 0, else incoming * slope(x, y, alpha). The sign of x is read off y where that has
    it, so that x itself need not be kept for the backward pass.
    """

    def gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
        (g,) = incoming
        if g is None:
            return [None]
        alpha, x = float(node.attrs["alpha"]), b.lookup(node.inputs[0])  # type: ignore[arg-type]
        signed = node.output if alpha > 0 else x
        below = b.one("mul", [g, slope(b, x, node.output, alpha)])
        return [b.one("select", [b.one("lt", [signed, scalar_like(b, 0.0, x)]), below, g])]

    return gradient


def _elu_slope(b: Making, x: Value, y: Value, alpha: float) -> Value:
    """alpha e^x, which is y + alpha"""
    return b.one("add", [y, scalar_like(b, alpha, y)])


def _relu_gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    """By y, which is positive where x is: x itself need not be kept."""
    (g,) = incoming
    if g is None:
        return [None]
    zero = scalar_like(b, 0.0, g)
    return [b.one("select", [b.one("gt", [node.output, zero]), g, zero])]


def _flat(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    """Of what stays the same between its jumps."""
    return [None]


def _square_and(b: Making, x: Value, more: float) -> Value:
    """x^2 + more"""
    return b.one("add", [b.one("mul", [x, x]), scalar_like(b, more, x)])


def _by_root(square: Callable[[Making, Value], Value], sign: float = 1.0) -> Gradient:
    """The derivative is sign / sqrt(square(x))."""
    return _chain(lambda b, x, y: b.one("div", [scalar_like(b, sign, x), b.one("sqrt", [square(b, x)])]))


_unary("neg", NUMBERS, content=lambda a: -a, gradient=_chain(lambda b, x, y: scalar_like(b, -1.0, x)))
_unary("abs", NUMBERS, content=_abs_dim, gradient=_chain(lambda b, x, y: b.one("sign", [x])))
_unary("sign", NUMBERS, content=_sign_dim, gradient=_flat)
_unary("sqrt", FLOATS, gradient=_chain(lambda b, x, y: b.one("div", [scalar_like(b, 0.5, x), y])))
_unary("exp", FLOATS, gradient=_chain(_exp_gradient))
_unary("log", FLOATS, gradient=_chain(lambda b, x, y: b.one("reciprocal", [x])))
_unary("tanh", FLOATS, gradient=_chain(lambda b, x, y: _one_minus(b, b.one("mul", [y, y]))))
_unary("sigmoid", FLOATS, gradient=_chain(lambda b, x, y: b.one("mul", [y, _one_minus(b, y)])))


def _erf_gradient(b: Making, x: Value, y: Value) -> Value:
    """erf'(x) = 2/sqrt(pi) * e^(-x^2)"""
    e = b.one("exp", [b.one("neg", [b.one("mul", [x, x])])])
    return b.one("mul", [scalar_like(b, 2 / math.sqrt(math.pi), x), e])


_unary("erf", FLOATS, gradient=_chain(_erf_gradient))
_unary(
    "softplus", FLOATS, build=_softplus, gradient=_chain(lambda b, x, y: b.one("sigmoid", [x])),
    reference=lambda x, attrs: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
)  # fmt: skip
_unary(
    "relu", NUMBERS, build=_relu, reference=lambda x, attrs: np.maximum(x, np.zeros((), x.dtype)),
    gradient=_relu_gradient,
)  # fmt: skip
_unary(
    "leaky_relu", FLOATS, build=_leaky_relu,
    reference=lambda x, attrs: np.where(x < 0, x * x.dtype.type(attrs["alpha"]), x),
    gradient=_with_slope(lambda b, x, y, alpha: scalar_like(b, alpha, x)),
)  # fmt: skip
_unary(
    "elu", FLOATS, build=_elu,
    reference=lambda x, attrs: np.where(x < 0, x.dtype.type(attrs["alpha"]) * np.expm1(x), x),
    gradient=_with_slope(_elu_slope),
)  # fmt: skip
_unary("reciprocal", FLOATS, build=_reciprocal, reference=lambda x, attrs: np.ones((), x.dtype) / x,
       gradient=_chain(lambda b, x, y: b.one("neg", [b.one("mul", [y, y])])))  # fmt: skip
_unary("sin", FLOATS, gradient=_chain(lambda b, x, y: b.one("cos", [x])))
_unary("cos", FLOATS, gradient=_chain(lambda b, x, y: b.one("neg", [b.one("sin", [x])])))
_unary("tan", FLOATS, gradient=_chain(lambda b, x, y: b.one("add", [scalar_like(b, 1.0, y), b.one("mul", [y, y])])))
_unary("asin", FLOATS, gradient=_by_root(lambda b, x: _one_minus(b, b.one("mul", [x, x]))))
_unary("acos", FLOATS, gradient=_by_root(lambda b, x: _one_minus(b, b.one("mul", [x, x])), -1.0))
_unary("atan", FLOATS, gradient=_chain(lambda b, x, y: b.one("reciprocal", [_square_and(b, x, 1.0)])))
_unary("sinh", FLOATS, gradient=_chain(lambda b, x, y: b.one("cosh", [x])))
_unary("cosh", FLOATS, gradient=_chain(lambda b, x, y: b.one("sinh", [x])))
_unary("asinh", FLOATS, gradient=_by_root(lambda b, x: _square_and(b, x, 1.0)))
_unary("acosh", FLOATS, gradient=_by_root(lambda b, x: _square_and(b, x, -1.0)))
_unary("atanh", FLOATS, gradient=_chain(
    lambda b, x, y: b.one("reciprocal", [_one_minus(b, b.one("mul", [x, x]))])
))  # fmt: skip
for _name in ("floor", "ceil", "round"):
    _unary(_name, FLOATS, gradient=_flat)
_unary("not", BOOLS, content=lambda a: int(not a) if isinstance(a, int) else None)
_unary("bitnot", INTEGERS, content=lambda a: -1 - a)
_unary("isnan", FLOATS, result=DType.BOOL)
_unary("isinf", FLOATS, build=_isinf, result=DType.BOOL, reference=_isinf_reference)

# ---- cast ------------------------------------------------------------------------------------------------------------


def _infer_cast(inference: Inference) -> list[tuple[DType, Shape]]:
    source, to = require_dtype(inference, 0, NUMBERS | BOOLS), inference.attrs["to"]
    if to.is_storage:
        raise ShapeError(f"{describe(inference)}: {source.value} is encoded as {to.value}, not cast")
    return [(to, inference.value(0).shape)]


def _cast_content(inputs: list[Array], attrs: Mapping[str, Any], shapes: Sequence[Shape]) -> Array | None:
    """Integers stay what they are, as sizes fit in 31 bits; to bool where it is decided."""
    if attrs["to"] is not DType.BOOL:
        return inputs[0]

    def nonzero(a: Dim) -> Dim | None:
        if isinstance(a, int):
            return int(a != 0)
        return 1 if known_at_least(a, 1) or known_at_least(-a, 1) else None

    return content_of(nonzero)(inputs, attrs, shapes)


def _cast_gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    (g,) = incoming
    source = b.lookup(node.inputs[0])
    if g is None or not source.dtype.is_float:
        return [None]
    return [b.one("cast", [g], to=source.dtype)]


def _lower_cast(low: Lowering) -> list[Stmt]:
    iters = low.iters(low.output.shape)
    return [low.stmt(iters, converted(low.load(0, [sym(i.name) for i in iters]), low.output.dtype))]


# ---- bitcast(to: DType): the same bits, read as a type of the same size; no bools ------------------------------------


def _infer_bitcast(inference: Inference) -> list[tuple[DType, Shape]]:
    source, to = require_dtype(inference, 0, NUMBERS | STORAGE), inference.attrs["to"]
    if to is DType.BOOL or to.size != source.size:
        raise ShapeError(f"{describe(inference)}: the bits of {source.value} are none of {to.value}")
    return [(to, inference.value(0).shape)]


def _lower_bitcast(low: Lowering) -> list[Stmt]:
    iters = low.iters(low.output.shape)
    load = low.load(0, [sym(i.name) for i in iters])
    return [low.stmt(iters, Op("bitcast", (load,), low.output.dtype))]


register(OpSpec(
    "bitcast", "elementwise", _infer_bitcast,
    lambda inputs, attrs, shapes: [apply("bitcast", [inputs[0]], attrs["to"])], _lower_bitcast,
))  # fmt: skip

# cast(to: DType): rules of kernel.scalar.convert.
register(OpSpec(
    "cast", "elementwise", _infer_cast, lambda inputs, attrs, shapes: [convert(inputs[0], attrs["to"])], _lower_cast,
    content=_cast_content, gradient=_cast_gradient,
))  # fmt: skip

# ---- select ----------------------------------------------------------------------------------------------------------


def _infer_select(inference: Inference) -> list[tuple[DType, Shape]]:
    require_dtype(inference, 0, BOOLS)
    dtype = require_same_dtype(inference, 1)
    if len(inference.inputs) != 3:
        raise ShapeError(f"{describe(inference)}: select takes (condition, then, else)")
    return [(dtype, broadcast_shape(inference, [inference.value(i).shape for i in range(3)]))]


def _select(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    return [np.where(*inputs)]


def _lower_select(low: Lowering) -> list[Stmt]:
    iters = low.iters(low.output.shape)
    index = [sym(i.name) for i in iters]
    c, a, b = (low.load_broadcast(k, index) for k in range(3))
    return [low.stmt(iters, Op("select", (c, a, b), low.output.dtype))]


def _select_dim(c: Dim, a: Dim, b: Dim) -> Dim | None:
    if isinstance(c, int):
        return a if c else b
    return a if a == b else None


def _select_gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    (g,) = incoming
    c, x, y = (b.lookup(name) for name in node.inputs)
    if g is None or not g.dtype.is_float:
        return [None, None, None]
    zero = scalar_like(b, 0.0, g)
    return [
        None,
        sum_to(b, b.one("select", [c, g, zero]), x.shape),
        sum_to(b, b.one("select", [c, zero, g]), y.shape),
    ]


# select(condition, a, b): a where the condition holds, else b.
register(
    OpSpec("select", "elementwise", _infer_select, _select, _lower_select, content_of(_select_dim), _select_gradient)
)
