"""Elementwise ops of two operands: arithmetic, comparison, logic, bits. Operands broadcast by numpy's rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import Array, DType, from_numpy
from mapsto.ir.expr import Dim, floordiv, mod
from mapsto.ir.expr_proofs import known_at_least
from mapsto.ir.graph import Node, Value
from mapsto.kernel.ast import Op, Scalar
from mapsto.kernel.scalar import apply
from mapsto.ops.elementwise import content_of, lower_pointwise, scalar_like, sum_to
from mapsto.ops.making import Making
from mapsto.ops.registry import Inference, Lowering, OpSpec, Shape, register
from mapsto.ops.shapes import BOOLS, INTEGERS, NUMBERS, broadcast_shape, describe, dim_max, dim_min, require_dtype

Partial = Callable[["Making", Value, Value, Value, Value], Value | None]


def _binary(
    name: str,
    allowed: frozenset[DType],
    *,
    result: DType | None = None,
    content: Callable[[Dim, Dim], Dim | None] | None = None,
    partials: tuple[Partial, Partial] | None = None,
) -> None:
    """`partials` give the gradients of both operands, before broadcasting is undone, from (builder, incoming, a, b,
    output).
    """

    def infer(inference: Inference) -> list[tuple[DType, Shape]]:
        first, second = require_dtype(inference, 0, allowed), require_dtype(inference, 1, allowed)
        if first is not second:
            raise ShapeError(f"{describe(inference)}: dtypes {first.value} and {second.value} differ; cast one")
        return [(result or first, broadcast_shape(inference, [inference.value(0).shape, inference.value(1).shape]))]

    def reference(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
        return [apply(name, inputs, result or from_numpy(inputs[0].dtype))]

    def build(low: Lowering, operands: list[Scalar]) -> Scalar:
        return Op(name, (operands[0], operands[1]), result or operands[0].dtype)

    register(OpSpec(
        name, "elementwise", infer, reference, lower_pointwise(build),
        content=content_of(content) if content else None, gradient=_gradient(partials) if partials else None,
    ))  # fmt: skip


def _gradient(
    partials: tuple[Partial, Partial],
) -> Callable[[Making, Node, Sequence[Value | None]], list[Value | None]]:
    def gradient(builder: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
        (g,) = incoming
        operands = [builder.lookup(n) for n in node.inputs]
        if g is None or not g.dtype.is_float:
            return [None, None]
        found = [partial(builder, g, operands[0], operands[1], node.output) for partial in partials]
        return [None if f is None else sum_to(builder, f, v.shape) for f, v in zip(found, operands, strict=True)]

    return gradient


# ---- dims through arithmetic -----------------------------------------------------------------------------------------


def _div_dim(a: Dim, b: Dim) -> Dim | None:
    """Truncating division is floor division where nothing is negative."""
    if isinstance(a, int) and isinstance(b, int):
        return None if b == 0 else (abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1)
    if known_at_least(a, 0) and b != 0 and known_at_least(b, 0):
        return floordiv(a, b)
    return None


def _less(a: Dim, b: Dim) -> Dim | None:
    difference = a - b
    if known_at_least(difference, 0):
        return 0
    return 1 if known_at_least(-difference, 1) else None


def _equal(a: Dim, b: Dim) -> Dim | None:
    difference = a - b
    if isinstance(difference, int):
        return int(difference == 0)
    return 0 if known_at_least(difference, 1) or known_at_least(-difference, 1) else None


def _negated(a: Dim | None) -> Dim | None:
    return None if a is None else 1 - a


def _logic(rule: Callable[[bool, bool], bool]) -> Callable[[Dim, Dim], Dim | None]:
    return lambda a, b: int(rule(bool(a), bool(b))) if isinstance(a, int) and isinstance(b, int) else None


# ---- gradients of max and min: a tie goes to the first operand -------------------------------------------------------


def _where_first(compare: str, first: bool) -> Partial:
    def partial(b: Making, g: Value, x: Value, y: Value, out: Value) -> Value | None:
        zero = scalar_like(b, 0.0, g)
        wins = b.one(compare, [x, y])
        return b.one("select", [wins, g, zero] if first else [wins, zero, g])

    return partial


def _div_second(b: Making, g: Value, x: Value, y: Value, out: Value) -> Value | None:
    """d(x/y)/dy = -(x/y)/y"""
    return b.one("neg", [b.one("mul", [g, b.one("div", [out, y])])])


_binary("add", NUMBERS, content=lambda a, b: a + b, partials=(lambda b, g, x, y, o: g, lambda b, g, x, y, o: g))
_binary(
    "sub",
    NUMBERS,
    content=lambda a, b: a - b,
    partials=(lambda b, g, x, y, o: g, lambda b, g, x, y, o: b.one("neg", [g])),
)
_binary("mul", NUMBERS, content=lambda a, b: a * b,
        partials=(lambda b, g, x, y, o: b.one("mul", [g, y]), lambda b, g, x, y, o: b.one("mul", [g, x])))  # fmt: skip
_binary("div", NUMBERS, content=_div_dim, partials=(lambda b, g, x, y, o: b.one("div", [g, y]), _div_second))
_binary("min", NUMBERS, content=dim_min, partials=(_where_first("le", True), _where_first("le", False)))
_binary("max", NUMBERS, content=dim_max, partials=(_where_first("ge", True), _where_first("ge", False)))
_binary("eq", NUMBERS | BOOLS, result=DType.BOOL, content=_equal)
_binary("ne", NUMBERS | BOOLS, result=DType.BOOL, content=lambda a, b: _negated(_equal(a, b)))
_binary("lt", NUMBERS, result=DType.BOOL, content=_less)
_binary("ge", NUMBERS, result=DType.BOOL, content=lambda a, b: _negated(_less(a, b)))
_binary("gt", NUMBERS, result=DType.BOOL, content=lambda a, b: _less(b, a))
_binary("le", NUMBERS, result=DType.BOOL, content=lambda a, b: _negated(_less(b, a)))
_binary("and", BOOLS, content=_logic(lambda a, b: a and b))
_binary("or", BOOLS, content=_logic(lambda a, b: a or b))
_binary("xor", BOOLS, content=_logic(lambda a, b: a != b))
for _name in ("bitand", "bitor", "bitxor", "shl", "shr"):
    _binary(_name, INTEGERS)

# ---- mod(fmod: bool) -------------------------------------------------------------------------------------------------


def _infer_mod(inference: Inference) -> list[tuple[DType, Shape]]:
    first, second = require_dtype(inference, 0, NUMBERS), require_dtype(inference, 1, NUMBERS)
    if first is not second:
        raise ShapeError(f"{describe(inference)}: dtypes {first.value} and {second.value} differ; cast one")
    return [(first, broadcast_shape(inference, [inference.value(0).shape, inference.value(1).shape]))]


def _mod_name(attrs: Mapping[str, Any]) -> str:
    return "fmod" if attrs["fmod"] else "mod"


def _mod(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    return [apply(_mod_name(attrs), inputs, from_numpy(inputs[0].dtype))]


def _lower_mod(low: Lowering, operands: list[Scalar]) -> Scalar:
    return Op(_mod_name(low.attrs), (operands[0], operands[1]), operands[0].dtype)


def _mod_content(inputs: list[Array], attrs: Mapping[str, Any], shapes: Sequence[Shape]) -> Array | None:
    def rule(a: Dim, b: Dim) -> Dim | None:
        if b == 0 or not known_at_least(b, 0) or (attrs["fmod"] and not known_at_least(a, 0)):
            return None
        return mod(a, b)

    return content_of(rule)(inputs, attrs, shapes)


def _mod_gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    """x - n y, where n, the quotient without its fraction, stays the same between its jumps."""
    (g,) = incoming
    x, y = (b.lookup(n) for n in node.inputs)
    if g is None or not g.dtype.is_float:
        return [None, None]
    quotient = b.one("div", [x, y])
    if node.attrs["fmod"]:
        whole = b.one("mul", [b.one("sign", [quotient]), b.one("floor", [b.one("abs", [quotient])])])
    else:
        whole = b.one("floor", [quotient])
    return [sum_to(b, g, x.shape), sum_to(b, b.one("neg", [b.one("mul", [g, whole])]), y.shape)]


# mod(fmod: bool): the divisor's sign (Python), or with fmod the dividend's (C).
register(OpSpec(
    "mod", "elementwise", _infer_mod, _mod, lower_pointwise(_lower_mod), _mod_content, _mod_gradient
))  # fmt: skip
