"""Replaces operations by cheaper ones that give the same numbers. One line of algebra a rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mapsto.ir.graph import Graph, Value
from mapsto.ir.rewrite import Constant, Match, OpPattern, RewriteRule, RuleTable, Wildcard
from mapsto.ops.builder import Builder
from mapsto.passes.identities import all_are, reshaped, spans
from mapsto.passes.looking import may_look, may_make
from mapsto.passes.retrace import by_table, rewritten
from mapsto.passes.sites import Site


def _power_of_two(array: np.ndarray) -> bool:
    """Whether 1/c is exact and normal for every element, and may be made. The first element tells of most."""
    return _is_exact(array.flat[:1]) and may_make(array) and _is_exact(array)


def _is_exact(array: np.ndarray) -> bool:
    if array.dtype.kind != "f" or array.size == 0 or not np.all(np.isfinite(array)):
        return False
    mantissa, _ = np.frexp(np.abs(array.astype(np.float64)))
    with np.errstate(all="ignore"):
        inverse = (1 / array.astype(np.float64)).astype(array.dtype)
    return bool(
        np.all(mantissa == 0.5)
        and np.all(np.abs(inverse) >= np.finfo(array.dtype).tiny)
        and np.all(np.isfinite(inverse))
    )


def _by_inverse(b: Builder, m: Match) -> Value:
    return b.one("mul", [m["x"], b.constant(1 / m.arrays["c"])])


def nonnegative(b: Builder, value: Value, depth: int = 8) -> bool:
    """Whether no element is below zero (-0 and NaN may be among them), as far as the nodes that made it tell."""
    array = b.array(value)
    if array is not None:
        return may_look(array) and bool(np.all(array >= 0))
    node = b.producer(value)
    if node is None or depth == 0:
        return False
    operands = [b.lookup(n) for n in node.inputs if n]
    if node.op in ("exp", "sigmoid", "softplus", "relu", "abs", "sqrt"):
        return True
    if node.op == "mul" and node.inputs[0] == node.inputs[1]:
        return True
    if node.op == "div" and not without_minus_zero(b, operands[1], depth - 1):
        return False  # 1 / -0 is -inf
    if node.op in ("add", "mul", "min", "div"):
        return all(nonnegative(b, v, depth - 1) for v in operands)
    if node.op == "max":
        return any(nonnegative(b, v, depth - 1) for v in operands)
    if node.op in ("reshape", "transpose", "slice", "expand", "gather", "copy", "avg_pool") or (
        node.op == "reduce" and node.attrs["kind"] in ("sum", "mean", "max", "min")
    ):
        return nonnegative(b, operands[0], depth - 1)
    return False


def without_minus_zero(b: Builder, value: Value, depth: int = 8) -> bool:
    """Of a value that is nowhere below zero: whether its zeros are all +0, as far as the nodes that made it tell."""
    array = b.array(value)
    if array is not None:
        return may_look(array) and not np.any(np.signbit(array))
    node = b.producer(value)
    if node is None or depth == 0:
        return False
    operands = [b.lookup(n) for n in node.inputs if n]
    if node.op in ("exp", "sigmoid", "softplus", "abs") or (node.op == "mul" and node.inputs[0] == node.inputs[1]):
        return True
    if node.op == "add":  # +0 + -0 is +0
        return any(without_minus_zero(b, v, depth - 1) for v in operands)
    if node.op in (
        "mul", "div", "min", "max", "sqrt", "reshape", "transpose", "slice", "expand", "copy", "avg_pool"
    ) or (  # fmt: skip
        node.op == "reduce" and node.attrs["kind"] in ("sum", "mean", "max", "min")
    ):
        return all(without_minus_zero(b, v, depth - 1) for v in operands)
    return False


def _root(b: Builder, m: Match) -> Value | None:
    """pow(-inf, 1/2) is inf, sqrt(-inf) is NaN: only where nothing is negative. pow(-0, 1/2) is +0, sqrt(-0) is -0: a
    zero is added where one may come.
    """
    x = m["x"]
    if not x.dtype.is_float or not spans(x, m["c"].shape) or not nonnegative(b, x):
        return None
    root = b.one("sqrt", [x])
    if without_minus_zero(b, x):
        return root
    return b.one("add", [root, b.constant(np.zeros((), root.dtype.numpy))])


def _three_quarters(b: Builder, m: Match) -> Value | None:
    """As the norm of a local response has it. Two roots and a product, where a power takes 160 instructions: it may be
    another one of the two nearest floats. sqrt(-0) is -0, and the product of two is +0, as pow(-0, 3/4) is.
    """
    x = m["x"]
    if not x.dtype.is_float or not spans(x, m["c"].shape) or not nonnegative(b, x):
        return None
    root = b.one("sqrt", [x])
    return b.one("mul", [root, b.one("sqrt", [root])])


def _square(b: Builder, m: Match) -> Value | None:
    return b.one("mul", [m["x"], m["x"]]) if spans(m["x"], m["c"].shape) else None


def _cube(b: Builder, m: Match) -> Value | None:
    if not spans(m["x"], m["c"].shape):
        return None
    return b.one("mul", [b.one("mul", [m["x"], m["x"]]), m["x"]])


TABLE = RuleTable([
    RewriteRule("x ^ 2 == x * x", OpPattern("pow", Wildcard("x"), Constant("c", all_are(2))), _square),
    RewriteRule("x ^ 3 == x * x * x", OpPattern("pow", Wildcard("x"), Constant("c", all_are(3))), _cube),
    RewriteRule("x ^ (1/2) == sqrt(x), x >= 0", OpPattern("pow", Wildcard("x"), Constant("c", all_are(0.5))), _root),
    RewriteRule("x ^ (3/4) == sqrt(x) * sqrt(sqrt(x)), x >= 0",
        OpPattern("pow", Wildcard("x"), Constant("c", all_are(0.75))), _three_quarters),
    RewriteRule("x ^ -1 == 1 / x", OpPattern("pow", Wildcard("x"), Constant("c", all_are(-1))),
        lambda b, m: b.one("reciprocal", [m["x"]]) if m["x"].dtype.is_float and spans(m["x"], m["c"].shape) else None),
    RewriteRule("x / 2^k == x * 2^-k", OpPattern("div", Wildcard("x"), Constant("c", _power_of_two)), _by_inverse),
    RewriteRule("1 / x == reciprocal(x)", OpPattern("div", Constant("c", all_are(1)), Wildcard("x")),
        lambda b, m: b.one("reciprocal", [m["x"]]) if m["x"].dtype.is_float and spans(m["x"], m["c"].shape) else None),
    RewriteRule("x * -1 == -x", OpPattern("mul", Wildcard("x"), Constant("c", all_are(-1)), either=True),
        lambda b, m: b.one("neg", [m["x"]]) if spans(m["x"], m["c"].shape) else None),
    RewriteRule("x + (-y) == x - y", OpPattern("add", Wildcard("x"), OpPattern("neg", Wildcard("y")), either=True),
        lambda b, m: b.one("sub", [m["x"], m["y"]])),
    RewriteRule("x - (-y) == x + y", OpPattern("sub", Wildcard("x"), OpPattern("neg", Wildcard("y"))),
        lambda b, m: b.one("add", [m["x"], m["y"]])),
])  # fmt: skip


def _gather_one(site: Site) -> Sequence[Value] | None:
    """gather(x, c) == slice of x where the constant indices are one after the other: a view instead of a copy."""
    if site.node.op != "gather":
        return None
    b, x = site.builder, site.input()
    axis = site.attrs["axis"] % x.rank
    indices, extent = b.array(site.inputs[1]), x.shape[axis]
    if indices is None or indices.size == 0 or b.array(x) is not None:
        return None
    flat = [int(i) for i in indices.reshape(-1)]
    if min(flat) < 0 and not isinstance(extent, int):
        return None
    places = [i if i >= 0 or not isinstance(extent, int) else i + extent for i in flat]
    step = places[1] - places[0] if len(places) > 1 else 1
    if (
        step < 1
        or any(q - p != step for p, q in zip(places, places[1:], strict=False))
        or not b.proves(extent - 1 - places[-1])
    ):
        return None
    starts = tuple(places[0] if k == axis else 0 for k in range(x.rank))
    steps = tuple(step if k == axis else 1 for k in range(x.rank))
    shape = tuple(len(places) if k == axis else d for k, d in enumerate(x.shape))
    part = b.one("slice", [x], starts=starts, steps=steps, shape=shape)
    return (reshaped(b, part, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])),)


_RULES = by_table(TABLE)
_OPS = TABLE.ops | {"gather"}


@dataclass(frozen=True)
class Strength:
    name: str = "strength"

    def __call__(self, graph: Graph) -> Graph:
        return rewritten(graph, lambda site: _RULES(site) or _gather_one(site), _OPS)
