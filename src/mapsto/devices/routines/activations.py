"""The activations of recurrent cells in the loop language, lane by lane."""

from __future__ import annotations

from mapsto.devices.routines.writer import Writer
from mapsto.loop import ast as loop
from mapsto.ops.activations import Activation


def activated(w: Writer, f: Activation, x: loop.Value) -> loop.Value:
    """f(x)"""
    if f.name in ("sigmoid", "tanh"):
        return w.math(f.name, x)
    x = w.let("x", x)
    zero, one = number(0.0, x), number(1.0, x)
    alpha, beta = number(f.alpha, x), number(f.beta, x)
    if f.name == "relu":
        return loop.Binary("max", x, zero)
    if f.name == "affine":
        return w.multiply_add(alpha, x, beta)
    if f.name == "hardsigmoid":
        return loop.Binary("min", loop.Binary("max", w.multiply_add(alpha, x, beta), zero), one)
    if f.name == "leakyrelu":
        return loop.Select(loop.Compare("lt", x, zero), loop.Binary("mul", alpha, x), x)
    if f.name == "thresholdedrelu":
        return loop.Select(loop.Compare("ge", x, alpha), x, zero)
    if f.name == "scaledtanh":
        return loop.Binary("mul", alpha, w.math("tanh", w.let("x", loop.Binary("mul", beta, x))))
    if f.name == "elu":
        below = loop.Binary("mul", alpha, w.math("expm1", x))
        return loop.Select(loop.Compare("lt", x, zero), below, x)
    size = w.let("size", loop.Unary("abs", x))
    if f.name == "softsign":
        return loop.Binary("div", x, loop.Binary("add", one, size))
    assert f.name == "softplus", f.name
    decay = w.let("decay", w.math("exp", w.let("x", loop.Unary("neg", size))))
    return loop.Binary("add", loop.Binary("max", x, zero), w.math("log1p", decay))


def number(value: float, like: loop.Value) -> loop.Const:
    return loop.Const(value, like.type)


def clipped(w: Writer, bound: float | None, x: loop.Value) -> loop.Value:
    """min(max(x, -bound), bound); x where there is no bound."""
    if bound is None:
        return x
    return w.let("clipped", loop.Binary("min", loop.Binary("max", x, number(-bound, x)), number(bound, x)))
