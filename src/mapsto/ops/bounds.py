"""Checks of indices that are data: who asks for one, when it is decided at once, and the nodes that do it in a run.

    farthest(indices; columns, lowest)
        u64[k]: the largest distance of an element from the lowest allowed, modulo 2^64 (`ir.bounds`); of all elements
        (column -1) or of a column of the last axis
    bounds_check(indices, farthest; kind, what, columns, axes, extents, where)
        no outputs; the run stops where an element is not allowed

A check stands before what was built for it, and nothing is ever moved from behind it to before it. Building a graph
anew asks again at each reader, so a pass may change indices as it likes; a check that nothing asks for any more goes
when nothing reads its indices (`passes.dead_code`).

That an axis has an element to index at all is a condition on sizes alone, which a run checks before anything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mapsto.errors import ExecutionError, ShapeError
from mapsto.ir import bounds
from mapsto.ir.bounds import ALL, Allowed
from mapsto.ir.dtypes import Array, DType
from mapsto.ir.expr import Dim, maximum, product, sym
from mapsto.ir.expr_proofs import known_at_least
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Cast, Index, Iter, Op, Reduce, Scalar, Stmt
from mapsto.ops.making import Making
from mapsto.ops.ranges import Noted, interval, is_proved
from mapsto.ops.registry import Inference, Lowering, OpSpec, Shape, register
from mapsto.ops.shapes import INTEGERS, describe, require_dtype

_U64 = DType.U64


# ---- asking ----------------------------------------------------------------------------------------------------------


def check_inside(b: Making, values: Value, allowed: Allowed, where: str) -> None:
    """Has a run checked that values are allowed, before whatever is built after this. where: the node as a user knows
    it.

    Raises ShapeError where what is known already is not allowed.
    """
    number = product(values.shape)
    if number == 0:
        return
    asked = [
        each
        for each in zip(allowed.columns, allowed.axes, allowed.extents, strict=True)
        if not _settled(b, values, number, allowed, each, where)
    ]
    if not asked:
        return
    columns, axes, extents = zip(*asked, strict=True)
    source = _source(b, values, columns)
    lowest = tuple(bounds.lowest_allowed(allowed.kind, extent) for extent in extents)
    word = b.one("farthest", [source], columns=columns, lowest=lowest)
    attrs = {"columns": columns, "axes": axes, "extents": extents, "where": where}
    b.add("bounds_check", [values, word], {"kind": allowed.kind, "what": allowed.what, **attrs})
    for value in {values.name, source.name}:
        b.note_bounds(value, Noted(allowed.kind, columns, extents))


def _settled(b: Making, values: Value, number: Dim, allowed: Allowed, asked: tuple[int, int, Dim], where: str) -> bool:
    """Whether nothing is left for a run to look at but sizes; asks for what must hold of those."""
    column, axis, extent = asked
    if allowed.kind != "length":
        some = extent - 1 if b.proves(number - 1) else maximum(extent - 1, -number)
        b.require(some, f"axis {axis} has no element to index", where=where)
    part = None if column == ALL else (values.rank - 1, column)
    known = _known(b, values, part)
    if known is not None:
        for element in known:
            _require_allowed(b, element, allowed, axis, extent, where)
        return True
    low, high = interval(b, values, part)
    if low is None or high is None:
        return False
    least = bounds.lowest_allowed(allowed.kind, extent)
    last = least + bounds.count(allowed.kind, extent) - 1
    positive = [number] if allowed.kind == "length" else [extent, number]
    return is_proved(b, low - least, positive) and is_proved(b, last - high, positive)


def _known(b: Making, values: Value, part: tuple[int, int] | None) -> list[Dim] | None:
    """The elements that decide: the extremes of constants, each of those that are known as dims."""
    array = b.array(values)
    content = b.content(values) if array is None else None
    chosen = array if array is not None else content
    if chosen is None:
        return None
    flat = (chosen if part is None else np.take(chosen, part[1], axis=part[0])).reshape(-1)
    return list(dict.fromkeys(flat if array is None else (int(flat.min()), int(flat.max())) if flat.size else ()))


def _require_allowed(b: Making, element: Dim, allowed: Allowed, axis: int, extent: Dim, where: str) -> None:
    least = bounds.lowest_allowed(allowed.kind, extent)
    last = least + bounds.count(allowed.kind, extent) - 1
    if isinstance(element, int) and isinstance(extent, int):
        if not bounds.is_allowed(element, allowed.kind, extent):
            said = bounds.message("", allowed.what, element, allowed.kind, axis, extent)
            raise ShapeError(said if b.is_placed else f"{where}: {said}")
        return
    said = f"{allowed.what} {element} is outside of axis {axis}"
    for condition in (element - least, last - element):
        if not b.proves(condition):
            b.require(condition, said, where=where)


# Ops whose result has all elements of their operand and no others.
_REARRANGING = ("reshape", "transpose", "copy")


def _source(b: Making, values: Value, columns: tuple[int, ...]) -> Value:
    """A smaller or earlier tensor with the same elements, to look at in place of `values`."""
    while columns == (ALL,):
        node = b.producer(values)
        if node is None:
            return values
        source = b.lookup(node.inputs[0]) if node.inputs and node.inputs[0] else None
        if source is None or not (
            node.op in _REARRANGING
            or (node.op == "cast" and _keeps(source.dtype, values.dtype))
            or (node.op == "expand" and _repeats(source, values))
        ):
            return values
        values = source
    return values


def _keeps(narrow: DType, wide: DType) -> bool:
    """Whether every integer of the one type is one of the other."""
    if not narrow.is_integer or not wide.is_integer:
        return False
    a, c = np.iinfo(narrow.numpy), np.iinfo(wide.numpy)
    return bool(c.min <= a.min and a.max <= c.max)


def _repeats(source: Value, result: Value) -> bool:
    """Whether an expanded tensor has an element wherever its source has one."""
    before = (*(1 for _ in range(result.rank - source.rank)), *source.shape)
    return all(d == e or known_at_least(e, 1) for d, e in zip(before, result.shape, strict=True))


# ---- farthest --------------------------------------------------------------------------------------------------------


def _infer_farthest(inference: Inference) -> list[tuple[DType, Shape]]:
    require_dtype(inference, 0, INTEGERS)
    columns = inference.attrs["columns"]
    if len(inference.attrs["lowest"]) != len(columns):
        raise ShapeError(f"{describe(inference)}: one lowest integer for each of {len(columns)} columns")
    return [(_U64, (len(columns),))]


def _column(x: Array, column: int) -> Array:
    return x if column == ALL else x[..., column]


def _farthest(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    (x,) = inputs
    with np.errstate(all="ignore"):
        distances = [
            _column(x, column).astype(np.int64).astype(np.uint64) - np.int64(lowest).astype(np.uint64)
            for column, lowest in zip(attrs["columns"], attrs["lowest"], strict=True)
        ]
    return [np.array([d.max(initial=0) for d in distances], np.uint64)]


def _lower_farthest(low: Lowering) -> list[Stmt]:
    shape = low.value(0).shape
    found = []
    for k, (column, lowest) in enumerate(zip(low.attrs["columns"], low.attrs["lowest"], strict=True)):
        iters = tuple(Iter(low.fresh("r"), d) for d in (shape if column == ALL else shape[:-1]))
        at: list[Dim] = [sym(i.name) for i in iters]
        value: Scalar = Cast(low.load(0, at if column == ALL else [*at, column]), _U64)
        value = Op("sub", (value, Cast(Index(lowest), _U64)), _U64)
        found.append(low.stmt((), Reduce("max", iters, value) if iters else value, index=(k,)))
    return found


register(OpSpec("farthest", "reduction", _infer_farthest, _farthest, _lower_farthest))

# ---- bounds_check ----------------------------------------------------------------------------------------------------


def _infer_check(inference: Inference) -> list[tuple[DType, Shape]]:
    require_dtype(inference, 0, INTEGERS)
    require_dtype(inference, 1, frozenset({_U64}))
    attrs = inference.attrs
    if (
        not len(attrs["columns"]) == len(attrs["axes"]) == len(attrs["extents"])
        or attrs["kind"] not in bounds.BOUND_KINDS
    ):
        raise ShapeError(f"{describe(inference)}: no check of {attrs['kind']!r} for {len(attrs['columns'])} columns")
    if inference.value(1).shape != (len(attrs["columns"]),):
        raise ShapeError(f"{describe(inference)}: one word for each of {len(attrs['columns'])} columns")
    return []


def _check(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    kind = attrs["kind"]
    for word, axis, extent in zip(inputs[1], attrs["axes"], attrs["extents"], strict=True):
        if int(word) > 0 and not bounds.is_within(int(word), kind, extent):
            value = bounds.value_at(int(word), kind, extent)
            raise ExecutionError(bounds.message(attrs["where"], attrs["what"], value, kind, axis, extent))
    return []


register(OpSpec("bounds_check", "control", _infer_check, _check, foldable=False))


def check_again(b: Making, values: Value, attrs: Mapping[str, Any]) -> None:
    """A check of a graph that is built anew: only where it is still needed."""
    check_inside(
        b, values, Allowed(*(attrs[k] for k in ("axes", "extents", "kind", "what", "columns"))), attrs["where"]
    )
