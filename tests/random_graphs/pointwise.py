"""Ops that work element by element."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from tests.random_graphs.maker import BOOL, F32, F64, I32, I64, Maker, broadcast

SMOOTH = ("Relu", "Neg", "Abs", "Tanh", "Erf", "Sigmoid", "Softplus", "Sin", "Cos", "LeakyRelu", "Elu", "Selu", "Celu")
SMOOTH += ("HardSigmoid", "HardSwish", "Softsign", "Atan", "Mish", "Gelu", "Identity")
KEEPS_BITS = ("Relu", "Neg", "Abs", "Identity")
JUMPING = ("Floor", "Ceil", "Round", "Sign", "ThresholdedRelu", "IsNaN", "IsInf")


def unary(g: Maker) -> None:
    x = g.pick()
    op = g.choose(SMOOTH)
    attributes: dict[str, Any] = {}
    if op in ("LeakyRelu", "Elu", "Celu") and g.chance(50):
        attributes["alpha"] = g.choose((0.1, 0.5, 1.5))
    if op == "Gelu":
        attributes["approximate"] = g.choose(("none", "tanh"))
    g.node(op, [x.name], F32, x.shape, x.exact and op in KEEPS_BITS, **attributes)


def exponential(g: Maker) -> None:
    """exp of something bounded: its error grows with its argument."""
    x = g.pick()
    (bounded,) = g.node(g.choose(("Tanh", "Sigmoid", "Sin")), [x.name], F32, x.shape, False)
    g.node("Exp", [bounded.name], F32, x.shape, False)


def jumping(g: Maker) -> None:
    x = g.pick(where=lambda v: v.exact)
    op = g.choose(JUMPING)
    g.node(op, [x.name], BOOL if op.startswith("Is") else F32, x.shape, True)


def magnifying(g: Maker) -> None:
    x = g.pick(where=lambda v: v.exact)
    (positive,) = g.node("Abs", [x.name], F32, x.shape, True)
    op = g.choose(("Log", "Sqrt", "Reciprocal"))
    g.node(op, [positive.name], F32, x.shape, False)


def arithmetic(g: Maker) -> None:
    x = g.pick((F32, F32, F32, I64, I32, F64))
    y = g.partner(x)
    shape = broadcast(x.shape, y.shape)
    if shape is None:
        return
    op = g.choose(("Add", "Sub", "Mul", "Max", "Min"))
    names = [x.name, y.name] if g.chance(70) else [y.name, x.name]
    g.node(op, names, x.dtype, shape, x.exact and y.exact and (x.dtype.kind == "i" or op in ("Max", "Min")))


def division(g: Maker) -> None:
    """Only by constants away from zero: a quotient by a small inexact number is noise."""
    x = g.pick((F32, F32, I64, I32))
    shape = g.broadcastable(x.shape)
    random = np.random.default_rng(g.integer(0, 1000))
    divisor = np.asarray(random.choice([-3, -2, 2, 3, 5, 7], shape), x.dtype)
    if broadcast(x.shape, shape) is not None:
        g.node(
            "Div",
            [x.name, g.constant(divisor)],
            x.dtype,
            np.broadcast_shapes(x.shape, shape),
            x.exact and x.dtype.kind == "i",
        )


def power(g: Maker) -> None:
    x = g.pick(where=lambda v: v.exact)
    g.node("Pow", [x.name, g.constant(np.float32(g.choose((2.0, 3.0, 1.0))))], F32, x.shape, False)


def modulo(g: Maker) -> None:
    x = g.pick((I64, I32))
    g.node("Mod", [x.name, g.constant(np.asarray(g.choose((3, -3, 5)), x.dtype))], x.dtype, x.shape, True)


def variadic(g: Maker) -> None:
    x = g.pick()
    y, z = g.partner(x), g.partner(x)
    shape = broadcast(x.shape, y.shape, z.shape)
    if shape is not None:
        op = g.choose(("Sum", "Max", "Min", "Mean"))
        exact = x.exact and y.exact and z.exact and op in ("Max", "Min")
        g.node(op, [x.name, y.name, z.name], F32, shape, exact)


def comparison(g: Maker) -> None:
    x = g.pick((F32, I64), where=lambda v: v.exact)
    y = g.fresh(x.dtype, g.broadcastable(x.shape))
    shape = broadcast(x.shape, y.shape)
    if shape is not None:
        g.node(
            g.choose(("Less", "Greater", "Equal", "LessOrEqual", "GreaterOrEqual")), [x.name, y.name], BOOL, shape, True
        )


def logical(g: Maker) -> None:
    x = g.pick((BOOL,))
    if g.chance(30):
        g.node("Not", [x.name], BOOL, x.shape, True)
        return
    y = g.partner(x)
    shape = broadcast(x.shape, y.shape)
    if shape is not None:
        g.node(g.choose(("And", "Or", "Xor")), [x.name, y.name], BOOL, shape, True)


def where(g: Maker) -> None:
    c = g.pick((BOOL,))
    x = g.partner(c, (F32, I64))
    y = g.partner(x)
    shape = broadcast(c.shape, x.shape, y.shape)
    if shape is not None:
        g.node("Where", [c.name, x.name, y.name], x.dtype, shape, x.exact and y.exact)


def cast(g: Maker) -> None:
    x = g.pick((F32, I64, I32, BOOL, F64), where=lambda v: v.exact)
    to = g.choose([d for d in (F32, F64, I32, I64, BOOL) if d != x.dtype])
    if x.dtype.kind == "f" and to.kind == "i":  # outside the range of integers, and for NaN, the result is not defined
        low, high = g.constant(np.asarray(-1e4, x.dtype)), g.constant(np.asarray(1e4, x.dtype))
        (x,) = g.node("Clip", [x.name, low, high], x.dtype, x.shape, True)
    g.node("Cast", [x.name], to, x.shape, True, to=helper.np_dtype_to_tensor_dtype(to))


def clip(g: Maker) -> None:
    x = g.pick()
    low = g.constant(np.float32(g.choose((-1, 0, 0.25)))) if g.chance(80) else ""
    high = g.constant(np.float32(g.choose((0.5, 1, 6)))) if g.chance(80) else ""
    g.node("Clip", [x.name, low, high], F32, x.shape, x.exact)


def prelu(g: Maker) -> None:
    x = g.pick()
    slope = g.add_constant(F32, tuple(1 if g.chance(40) else extent for extent in x.shape))
    g.node("PRelu", [x.name, slope.name], F32, x.shape, False)


OPS = (
    unary,
    unary,
    exponential,
    jumping,
    magnifying,
    arithmetic,
    arithmetic,
    division,
    power,
    modulo,
    variadic,
    comparison,
    logical,
    where,
    cast,
    clip,
    prelu,
)
