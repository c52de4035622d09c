"""Removes what changes nothing, makes one step of two that undo or continue each other. One line of algebra a rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ir.rewrite import Constant, Match, OpPattern, RewriteRule, RuleTable, Wildcard
from mapsto.ops.builder import Builder
from mapsto.passes.looking import may_look
from mapsto.passes.retrace import by_table, rewritten
from mapsto.passes.sites import Site


def all_are(number: float) -> Callable[[np.ndarray], bool]:
    """Whether every element of a constant is this number (there is at least one). The first tells of most."""
    return lambda array: (
        array.size > 0
        and array.dtype != np.bool_
        and bool(array.flat[0] == number)
        and may_look(array)
        and bool(np.all(array == number))
    )


def all_are_zero(negative: bool) -> Callable[[np.ndarray], bool]:
    """Whether every element is a zero of this sign; integers have one zero. -0 + 0 is +0, so only -0 changes nothing
    when it is added, and only +0 when it is subtracted.
    """

    def holds(array: np.ndarray) -> bool:
        if not all_are(0)(array):
            return False
        floats = array.dtype.kind not in "iu"
        return not floats or bool(np.all(np.signbit(array) == negative))

    return holds


def spans(x: Value, other: Sequence[Dim]) -> bool:
    """Whether broadcasting x with this shape gives x's own shape."""
    tail = x.shape[x.rank - len(other) :] if len(other) <= x.rank else None
    return tail is not None and all(o == 1 or o == d for o, d in zip(other, tail, strict=True))


def _keep(b: Builder, m: Match) -> Value | None:
    """x itself, where the constant does not broadcast it to something larger."""
    return m["x"] if spans(m["x"], m["c"].shape) else None


def _twice(op: str) -> RewriteRule:
    return RewriteRule(f"{op}({op}(x)) == x", OpPattern(op, OpPattern(op, Wildcard("x"))), lambda b, m: m["x"])


def _idempotent(op: str) -> RewriteRule:
    return RewriteRule(
        f"{op}({op}(x)) == {op}(x)", OpPattern(op, OpPattern(op, Wildcard("x"), name="y")), lambda b, m: m["y"]
    )


ARITHMETIC = RuleTable([
    RewriteRule("x + -0 == x", OpPattern("add", Wildcard("x"), Constant("c", all_are_zero(True)), either=True), _keep),
    RewriteRule("x - 0 == x", OpPattern("sub", Wildcard("x"), Constant("c", all_are_zero(False))), _keep),
    RewriteRule("x * 1 == x", OpPattern("mul", Wildcard("x"), Constant("c", all_are(1)), either=True), _keep),
    RewriteRule("x / 1 == x", OpPattern("div", Wildcard("x"), Constant("c", all_are(1))), _keep),
    RewriteRule("x ^ 1 == x", OpPattern("pow", Wildcard("x"), Constant("c", all_are(1))), _keep),
    RewriteRule("max(x, -inf) == x",
        OpPattern("max", Wildcard("x"), Constant("c", all_are(-np.inf)), either=True), _keep),
    RewriteRule("min(x, inf) == x",
        OpPattern("min", Wildcard("x"), Constant("c", all_are(np.inf)), either=True), _keep),
    RewriteRule("max(x, x) == x", OpPattern("max", Wildcard("x"), Wildcard("x")), lambda b, m: m["x"]),
    RewriteRule("min(x, x) == x", OpPattern("min", Wildcard("x"), Wildcard("x")), lambda b, m: m["x"]),
    RewriteRule("x and x == x", OpPattern("and", Wildcard("x"), Wildcard("x")), lambda b, m: m["x"]),
    RewriteRule("x or x == x", OpPattern("or", Wildcard("x"), Wildcard("x")), lambda b, m: m["x"]),
    RewriteRule("select(c, x, x) == x", OpPattern("select", Wildcard("c"), Wildcard("x"), Wildcard("x")),
        lambda b, m: m["x"] if spans(m["x"], m["c"].shape) else None),
    _twice("neg"), _twice("not"), _twice("bitnot"),
    _idempotent("relu"), _idempotent("abs"), _idempotent("floor"), _idempotent("ceil"), _idempotent("round"),
    RewriteRule("copy(x) == x", OpPattern("copy", Wildcard("x")), lambda b, m: m["x"]),
    RewriteRule("detach(x) == x", OpPattern("detach", Wildcard("x")), lambda b, m: m["x"]),
])  # fmt: skip


# -- casts -------------------------------------------------------------------------------------------------------------

# Types whose values another type holds exactly.
_MANTISSA = {DType.BF16: 8, DType.F16: 11, DType.F32: 24, DType.F64: 53}
_EXPONENT = {DType.BF16: 8, DType.F16: 5, DType.F32: 8, DType.F64: 11}


def represents(wide: DType, narrow: DType) -> bool:
    """Whether every value of `narrow` is one of `wide`; of storage types, to which no cast leads, only themselves."""
    if wide is narrow:
        return True
    if wide.is_storage or narrow.is_storage:
        return False
    if narrow is DType.BOOL:
        return True
    if wide.is_float and narrow.is_float:
        return _MANTISSA[wide] >= _MANTISSA[narrow] and _EXPONENT[wide] >= _EXPONENT[narrow]
    if wide is DType.BOOL or narrow.is_float:
        return False
    bits = 8 * narrow.size - narrow.is_signed
    if wide.is_float:
        return _MANTISSA[wide] >= bits and _EXPONENT[wide] >= 8
    return 8 * wide.size - wide.is_signed >= bits and (wide.is_signed or not narrow.is_signed)


def _cast_of_cast(b: Builder, m: Match) -> Value | None:
    x, through, to = m["x"].dtype, m["y"].dtype, m.attrs["to"]
    assert isinstance(to, DType)
    if not represents(through, x):
        return None
    if x.is_integer and through.is_float and to.is_integer and not represents(to, x):
        return None  # a float saturates where an integer wraps
    return m["x"] if to is x else b.one("cast", [m["x"]], to=to)


CASTS = RuleTable([
    RewriteRule("cast(x, own type) == x", OpPattern("cast", Wildcard("x")),
        lambda b, m: m["x"] if m.attrs["to"] is m["x"].dtype else None),
    RewriteRule("cast(cast(x, wider), t) == cast(x, t)",
        OpPattern("cast", OpPattern("cast", Wildcard("x"), name="y")), _cast_of_cast),
])  # fmt: skip


# -- movement ----------------------------------------------------------------------------------------------------------


def reshaped(b: Builder, x: Value, shape: Sequence[Dim]) -> Value:
    return x if x.shape == tuple(shape) else b.one("reshape", [x], shape=tuple(shape))


def _transpose(b: Builder, m: Match) -> Value | None:
    """Nothing, where the order stays; a reshape, where only axes of extent 1 change places."""
    x, perm = m["x"], list(m.attrs["perm"])
    if perm == list(range(x.rank)):
        return x
    moved = [p for p in perm if x.shape[p] != 1]
    return reshaped(b, x, [x.shape[p] for p in perm]) if moved == sorted(moved) else None


def _transpose_twice(b: Builder, m: Match) -> Value | None:
    inner, outer = m.nodes["y"].attrs["perm"], m.attrs["perm"]
    assert isinstance(inner, tuple)
    perm = tuple(inner[p] for p in outer)
    return m["x"] if perm == tuple(range(len(perm))) else b.one("transpose", [m["x"]], perm=perm)


def _slice_all(b: Builder, m: Match) -> Value | None:
    x, a = m["x"], m.attrs
    whole = tuple(a["shape"]) == x.shape and all(s == 0 for s in a["starts"]) and all(s == 1 for s in a["steps"])
    return x if whole else None


def _slice_twice(b: Builder, m: Match) -> Value | None:
    """start + step * (start' + step' * i)"""
    inner, outer = m.nodes["y"].attrs, m.attrs
    starts = tuple(s + t * o for s, t, o in zip(inner["starts"], inner["steps"], outer["starts"], strict=True))  # type: ignore[arg-type]
    steps = tuple(s * t for s, t in zip(inner["steps"], outer["steps"], strict=True))  # type: ignore[arg-type]
    whole = outer["shape"] == m["x"].shape and all(at == 0 for at in starts) and all(step == 1 for step in steps)
    return m["x"] if whole else b.one("slice", [m["x"]], starts=starts, steps=steps, shape=outer["shape"])


def _pad_nothing(b: Builder, m: Match) -> Value | None:
    return m["x"] if all(d == 0 for d in (*m.attrs["before"], *m.attrs["after"])) else None


def _reduce_nothing(b: Builder, m: Match) -> Value | None:
    """Over no axis, or axes of extent 1."""
    x, axes = m["x"], {a % m["x"].rank for a in m.attrs["axes"]} if m["x"].rank else set()
    if any(x.shape[a] != 1 for a in axes):
        return None
    return x if m.attrs["keepdims"] else reshaped(b, x, [d for k, d in enumerate(x.shape) if k not in axes])


MOVEMENT = RuleTable([
    RewriteRule("transpose(x, in order) == x", OpPattern("transpose", Wildcard("x")), _transpose),
    RewriteRule("transpose(transpose(x, p), q) == transpose(x, p o q)",
        OpPattern("transpose", OpPattern("transpose", Wildcard("x"), name="y")), _transpose_twice),
    RewriteRule("reshape(x, own shape) == x", OpPattern("reshape", Wildcard("x")),
        lambda b, m: m["x"] if tuple(m.attrs["shape"]) == m["x"].shape else None),
    RewriteRule("reshape(reshape(x, s), t) == reshape(x, t)", OpPattern("reshape", OpPattern("reshape", Wildcard("x"))),
        lambda b, m: reshaped(b, m["x"], m.attrs["shape"])),
    RewriteRule("expand(x, own shape) == x", OpPattern("expand", Wildcard("x")),
        lambda b, m: m["x"] if tuple(m.attrs["shape"]) == m["x"].shape else None),
    RewriteRule("expand(expand(x, s), t) == expand(x, t)", OpPattern("expand", OpPattern("expand", Wildcard("x"))),
        lambda b, m: b.one("expand", [m["x"]], shape=m.attrs["shape"])),
    RewriteRule("slice(x, all) == x", OpPattern("slice", Wildcard("x")), _slice_all),
    RewriteRule("slice(slice(x)) == slice(x)",
        OpPattern("slice", OpPattern("slice", Wildcard("x"), name="y")), _slice_twice),
    RewriteRule("pad(x, 0) == x", OpPattern("pad", Wildcard("x")), _pad_nothing),
    RewriteRule("tile(x, 1) == x", OpPattern("tile", Wildcard("x")),
        lambda b, m: m["x"] if all(r == 1 for r in m.attrs["repeats"]) else None),
    RewriteRule("reduce(x, nothing) == x", OpPattern("reduce", Wildcard("x")), _reduce_nothing),
])  # fmt: skip


# -- broadcasting that the reader does by itself -----------------------------------------------------------------------

_BROADCASTING = frozenset({
    "add", "sub", "mul", "div", "pow", "min", "max", "mod", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor",
    "select", "bitand", "bitor", "bitxor", "shl", "shr",
})  # fmt: skip


def _without_expand(site: Site) -> Sequence[Value] | None:
    """op(expand(x), y) == op(x, y), where y or another operand has the whole shape."""
    if site.node.op not in _BROADCASTING:
        return None
    b = site.builder
    for i, value in enumerate(site.inputs):
        node = b.producer(value) if value is not None else None
        if value is None or node is None or node.op != "expand":
            continue
        others = [v for k, v in enumerate(site.inputs) if k != i and v is not None]
        if any(v.shape == value.shape for v in others):
            source = b.lookup(node.inputs[0])
            with b.source(*site.node.provenance, *node.provenance):
                return b.add(site.node.op, [source if k == i else v for k, v in enumerate(site.inputs)], site.attrs)
    return None


# -- concat ------------------------------------------------------------------------------------------------------------


def concat_axis(node: Node) -> int:
    axis = node.attrs["axis"]
    assert isinstance(axis, int)
    return axis % node.output.rank


def _concat(site: Site) -> Sequence[Value] | None:
    """concat(x) == x; parts without elements are left out; concat(concat(x, y), z) == concat(x, y, z)."""
    if site.node.op != "concat":
        return None
    b, axis = site.builder, site.attrs["axis"] % site.input().rank
    parts: list[Value] = []
    sources = list(site.node.provenance)
    for value in site.inputs:
        assert value is not None
        node = b.producer(value)
        joined = node is not None and node.op == "concat" and concat_axis(node) == axis
        if node is not None and joined and site.readers(value) == 1:
            parts.extend(b.lookup(n) for n in node.inputs)
            sources.extend(node.provenance)
        elif value.shape[axis] != 0:
            parts.append(value)
    if not parts:
        return None
    if (
        len(parts) == len(site.inputs)
        and all(p is v for p, v in zip(parts, site.inputs, strict=True))
        and len(parts) > 1
    ):
        return None
    with b.source(*sources):
        return (parts[0],) if len(parts) == 1 else (b.one("concat", parts, axis=axis),)


TABLE = ARITHMETIC + CASTS + MOVEMENT
_RULES = by_table(TABLE)
_OPS = TABLE.ops | _BROADCASTING | {"concat"}


def rewrite(site: Site) -> Sequence[Value] | None:
    for part in (_RULES, _without_expand, _concat):
        made = part(site)
        if made is not None:
            return made
    return None


@dataclass(frozen=True)
class Identities:
    name: str = "identities"

    def __call__(self, graph: Graph) -> Graph:
        return rewritten(graph, rewrite, _OPS)
