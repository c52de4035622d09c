"""Ops of one element and its counterparts, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import helper

from tests.differential.drawing import FLOATS, INTEGERS, Draw, dtype_of, is_float
from tests.differential.form import Form

Maker = Callable[[Draw], Form]

UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Cos Cosh Erf Exp Floor HardSwish Identity IsNaN Log Mish Neg "
    "Not Reciprocal Relu Round Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh"
).split()
EXACT = frozenset("Abs BitwiseNot Ceil Floor Identity IsNaN Neg Not Relu Round Sign".split())
SIGNLESS = frozenset(("Relu", "Sign"))  # which zero comes of a zero is free
FLUSHED = frozenset(("Sigmoid", "Swish"))  # 0 where a sigmoid would be denormal
CANCELLING = frozenset(("HardSwish", "HardSigmoid"))  # near the place where a sum is 0
# Attributes by op, each drawn from a range.
PARAMETRIC: dict[str, dict[str, tuple[float, float]]] = {
    "Celu": {"alpha": (0.3, 3)},
    "Elu": {"alpha": (0, 2)},
    "HardSigmoid": {"alpha": (0, 1), "beta": (0, 1)},
    "LeakyRelu": {"alpha": (-0.5, 1)},
    "Selu": {"alpha": (0.5, 2), "gamma": (0.5, 2)},
    "Shrink": {"bias": (-0.5, 0.5), "lambd": (0, 1)},
    "ThresholdedRelu": {"alpha": (-1, 1)},
}
BINARY = (
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Mod Mul Or Pow "
    "PRelu Sub Xor"
).split()
EXACT_PAIRS = frozenset(
    "And BitShift BitwiseAnd BitwiseOr BitwiseXor Equal Greater GreaterOrEqual Less LessOrEqual Or Xor".split()
)
VARIADIC = ("Max", "Mean", "Min", "Sum")


def _rule(op: str) -> str:
    own = {"equal": SIGNLESS, "exact": EXACT, "whole": CANCELLING, "flushed": FLUSHED}
    return next((rule for rule, ops in own.items() if op in ops), "each")


def unary(op: str) -> Maker:
    def make(d: Draw) -> Form:
        opset = d.opset(op)
        kind, rank = d.kind(op, opset), d.integer(0, 4)
        attributes = {}
        if op in PARAMETRIC and d.chance(0.7):
            # multiples of 1/16, which each type holds
            attributes = {n: round(d.rng.uniform(*ends) * 16) / 16 for n, ends in PARAMETRIC[op].items()}
        return Form(
            op,
            lambda f: {"x": f.values(f.shape(rank), kind)},
            ("x",),
            attributes,
            opset=opset,
            rule=_rule(op),
            wide=op not in EXACT,
        )

    return make


def gelu(d: Draw) -> Form:
    kind, rank = d.kind("Gelu", 20), d.integer(0, 3)
    approximate = {"approximate": "tanh"} if d.chance(0.5) else {}
    return Form("Gelu", lambda f: {"x": f.values(f.shape(rank), kind)}, ("x",), approximate, rule="whole")


def is_inf(d: Draw) -> Form:
    opset = d.opset("IsInf")
    kind, rank = d.kind("IsInf", opset), d.integer(0, 3)
    attributes = {name: d.integer(0, 1) for name in ("detect_negative", "detect_positive") if d.chance(0.5)}
    return Form(
        "IsInf",
        lambda f: {"x": f.values(f.shape(rank), kind)},
        ("x",),
        attributes,
        opset=opset,
        rule="exact",
        wide=False,
    )


def operands(d: Draw, count: int) -> Callable[[Draw], list[tuple[int, ...]]]:
    """Shapes that broadcast to one: axes missing, extents of 1. The ranks stay, other extents are drawn anew."""
    rank = d.integer(0, 4)
    ranks = [rank if k == 0 or d.chance(0.5) else d.integer(0, rank) for k in range(count)]
    ranks = [ranks[k] for k in d.rng.permutation(count)]
    ones = [[d.chance(0.2) for _ in range(r)] for r in ranks]

    def shapes(f: Draw) -> list[tuple[int, ...]]:
        whole = f.shape(rank)
        return [
            tuple(1 if one else extent for one, extent in zip(mine, whole[rank - r :], strict=True))
            for mine, r in zip(ones, ranks, strict=True)
        ]

    return shapes


def binary(op: str) -> Maker:
    def make(d: Draw) -> Form:
        opset = d.opset(op)
        kind, shapes = d.kind(op, opset), operands(d, 2)
        attributes: dict[str, Any] = {}
        if op == "BitShift":
            attributes = {"direction": d.one_of(["LEFT", "RIGHT"])}
        if op == "Mod" and (is_float(dtype_of(kind)) or d.chance(0.4)):
            attributes = {"fmod": 1}
        other = d.kind(op, opset, 1) if op == "Pow" and opset >= 12 else kind

        def feed(f: Draw) -> dict[str, Any]:
            a, b = shapes(f)
            if op == "PRelu":  # its slope broadcasts to x, not the other way
                a = tuple(np.broadcast_shapes(a, b))
            return {"a": _left(f, op, a, kind), "b": _right(f, op, b, other, not is_float(dtype_of(kind)))}

        exact = op in EXACT_PAIRS or not is_float(dtype_of(kind))
        return Form(
            op, feed, ("a", "b"), attributes, opset=opset, rule="exact" if exact else "each",
            wide=op not in EXACT_PAIRS and not (op == "Mod") and other == kind,
        )  # fmt: skip

    return make


def _left(f: Draw, op: str, shape: Sequence[int], kind: str) -> Any:
    if op == "Pow":
        found = f.values(shape, kind, least=-3, most=3)
        return np.abs(found) if is_float(found.dtype) else found
    return f.values(shape, kind)


def _right(f: Draw, op: str, shape: Sequence[int], kind: str, whole: bool) -> Any:
    """Without what nobody defines: integers divided by 0, shifted past their width, to negative powers."""
    if op == "Pow" and whole:
        return f.rng.integers(0, 5, shape).astype(dtype_of(kind))
    if is_float(dtype_of(kind)) or kind == "bool":
        return f.values(shape, kind)
    if op == "BitShift":
        return f.values(shape, kind, least=0, most=8 * dtype_of(kind).itemsize - 1)
    found = f.values(shape, kind)
    if op in ("Div", "Mod"):
        found = np.where((found == 0) | (found == -1), 3, found).astype(found.dtype)
    return found


def variadic(op: str) -> Maker:
    def make(d: Draw) -> Form:
        opset = max(8, d.opset(op))
        count = d.integer(1, 4)
        kind, shapes = d.kind(op, opset), operands(d, count)
        names = tuple(f"x{k}" for k in range(count))
        exact = op in ("Max", "Min")
        return Form(
            op,
            lambda f: {n: f.values(s, kind, tame=not exact) for n, s in zip(names, shapes(f), strict=True)},
            names,
            opset=opset,
            rule="equal" if exact else "whole",
            wide=not exact,
        )

    return make


def where(d: Draw) -> Form:
    opset = d.opset("Where", 9)
    kind, shapes = d.kind("Where", opset, 1), operands(d, 3)

    def feed(f: Draw) -> dict[str, Any]:
        c, a, b = shapes(f)
        return {"c": f.values(c, "bool"), "a": f.values(a, kind), "b": f.values(b, kind)}

    return Form("Where", feed, ("c", "a", "b"), opset=opset, rule="exact", wide=False)


def clip(d: Draw) -> Form:
    opset = d.one_of([11, 12, 13, 24])
    kind, rank = d.kind("Clip", opset), d.integer(0, 4)
    sides = [d.chance(0.7), d.chance(0.7)]
    inputs = ("x", "low" if sides[0] else "", "high" if sides[1] else "")
    ends = {n: d.values((), kind, tame=True, least=0 if n == "high" else None) for n in inputs[1:] if n}
    fixed = dict(ends) if d.chance(0.5) else {}

    def feed(f: Draw) -> dict[str, Any]:
        return {"x": f.values(f.shape(rank), kind), **{n: a for n, a in ends.items() if n not in fixed}}

    return Form("Clip", feed, inputs, constants=fixed, opset=opset, rule="equal", wide=False)


def cast(d: Draw) -> Form:
    """From floats to integers only what the integer holds: else it is not defined."""
    opset = d.one_of([9, 13, 19, 21, 24])
    source, target = (d.one_of(["bool", *INTEGERS, *FLOATS[: 4 if opset >= 13 else 3]]) for _ in range(2))
    rank = d.integer(0, 4)
    bounded = source in FLOATS and target not in FLOATS and target != "bool"

    def feed(f: Draw) -> dict[str, Any]:
        x = f.values(f.shape(rank), source, tame=bounded)
        if bounded:
            x = np.clip(np.abs(x) if target[0] == "u" else x, -100, 100).astype(x.dtype)
        return {"x": x}

    number = int(helper.np_dtype_to_tensor_dtype(dtype_of(target)))
    return Form("Cast", feed, ("x",), {"to": number}, opset=opset, rule="exact", wide=False)


FORMS: dict[str, Maker] = {
    **{op: unary(op) for op in (*UNARY, *PARAMETRIC)},
    **{op: binary(op) for op in BINARY},
    **{op: variadic(op) for op in VARIADIC},
    "Gelu": gelu,
    "IsInf": is_inf,
    "Where": where,
    "Clip": clip,
    "Cast": cast,
}
