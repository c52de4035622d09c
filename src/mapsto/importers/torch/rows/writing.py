"""Rows of writes, which in a functional graph make a new tensor: into slices, by indices, by masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mapsto.importers.torch.rows.arithmetic import floor_divided
from mapsto.importers.torch.rows.indexing import arranged, as_index
from mapsto.importers.torch.rows.movement import cut, from_front
from mapsto.importers.torch.table import AtenCall, aten
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, product
from mapsto.ir.graph import Value
from mapsto.ops.arranging import column, positions, reshape, slice_axis, transpose, unsqueeze

_REDUCTIONS = {"sum": "add", "add": "add", "prod": "mul", "multiply": "mul", "amax": "max", "amin": "min"}


def _spread(call: AtenCall, x: Value, shape: tuple[Dim, ...]) -> Value:
    return x if x.shape == tuple(shape) else call.one("expand", [x], shape=tuple(shape))


@aten("copy", "set_data")
def _copy(call: AtenCall) -> Value:
    x = call.value()
    return _spread(call, call.cast(call.value("src"), x.dtype), x.shape)


@aten("slice_scatter")
def _slice_scatter(call: AtenCall) -> Value:
    """What lies before, the new part, what lies behind; with a step by a choice at each place."""
    b, x, axis = call.builder, call.value(), call.axis()
    first, extent, step = cut(call, x, axis)
    part = _spread(
        call, call.cast(call.value("src"), x.dtype), tuple(extent if k == axis else d for k, d in enumerate(x.shape))
    )
    if step == 1:
        return _put(call, x, part, axis, first, extent)
    at = positions(b, x.shape[axis])
    along = call.one("sub", [at, call.scalar(first, DType.I64)])
    steps = call.scalar(step, DType.I64)
    zero = call.scalar(0, DType.I64)
    number = call.one("div", [along, steps])
    last = call.scalar(extent, DType.I64)
    chosen = call.one("and", [
        call.one("eq", [call.one("mod", [along, steps], fmod=False), zero]),
        call.one("and", [call.one("ge", [along, zero]), call.one("lt", [number, last])]),
    ])  # fmt: skip
    if extent == 0:
        return x
    inside = call.one("max", [call.one("min", [number, call.one("sub", [last, call.scalar(1, DType.I64)])]), zero])
    spread = call.one("gather", [part, inside], axis=axis)
    return call.one("select", [column(b, chosen, axis, x.rank), spread, x])


def _put(call: AtenCall, x: Value, part: Value, axis: int, first: Dim, extent: Dim) -> Value:
    if first == 0 and extent == x.shape[axis]:
        return part
    b, parts = call.builder, [part]
    if first != 0:
        parts.insert(0, slice_axis(b, x, axis, 0, first))
    behind = x.shape[axis] - first - extent
    if behind != 0:
        parts.append(slice_axis(b, x, axis, first + extent, behind))
    return parts[0] if len(parts) == 1 else call.one("concat", parts, axis=axis)


@aten("select_scatter")
def _select_scatter(call: AtenCall) -> Value:
    x, axis = call.value(), call.axis()
    part = unsqueeze(call.builder, call.cast(call.value("src"), x.dtype), [axis])
    part = _spread(call, part, tuple(1 if k == axis else d for k, d in enumerate(x.shape)))
    return _put(call, x, part, axis, from_front(call.dim("index"), x.shape[axis]), 1)


@aten("diagonal_scatter")
def _diagonal_scatter(call: AtenCall) -> Value:
    b, x, offset = call.builder, call.value(), call.integer("offset")
    first, second = (call.integer(n) % x.rank for n in ("dim1", "dim2"))
    rest = [k for k in range(x.rank) if k not in (first, second)]
    perm = (*rest, first, second)
    turned = transpose(b, x, perm)
    rows, columns = turned.shape[-2:]
    down, across = column(b, positions(b, rows), 0, 2), positions(b, columns)
    on = call.one("eq", [call.one("add", [down, call.scalar(offset, DType.I64)]), across])
    source = call.cast(call.value("src"), x.dtype)
    length = source.shape[-1]
    if length == 0:
        return x
    place = down if offset >= 0 else call.one("add", [down, call.scalar(offset, DType.I64)])
    last = call.one("sub", [call.scalar(length, DType.I64), call.scalar(1, DType.I64)])
    place = call.one("max", [call.one("min", [place, last]), call.scalar(0, DType.I64)])
    spread = call.one("gather", [source, reshape(b, place, (rows,))], axis=source.rank - 1)
    made = call.one("select", [on, unsqueeze(b, spread, [spread.rank]), turned])
    return transpose(b, made, [perm.index(k) for k in range(x.rank)])


@aten("as_strided_scatter")
def _as_strided_scatter(call: AtenCall) -> Value:
    x, base = call.value(), call.node.args[0].meta["val"]
    size, stride = call.integers("size"), call.integers("stride")
    if not base.is_contiguous() or not all(isinstance(d, int) for d in x.shape):
        raise call.unsupported("`as_strided` of a tensor that is not contiguous is not supported; use views and slices")
    at = np.full((), call.integer("storage_offset") if call.has("storage_offset") else 0, np.int64)
    for axis, (n, s) in enumerate(zip(size, stride, strict=True)):
        at = at + (np.arange(n, dtype=np.int64) * s).reshape([n if k == axis else 1 for k in range(len(size))])
    places = call.builder.constant(np.broadcast_to(at, size).reshape(-1, 1), "places")
    flat = reshape(call.builder, x, (product(x.shape),))
    updates = reshape(call.builder, call.cast(call.value("src"), x.dtype), (product(size),))
    return reshape(call.builder, call.one("scatter_nd", [flat, places, updates], reduction="none"), x.shape)


# -- by indices --------------------------------------------------------------------------------------------------------


@aten("index_put", "_unsafe_index_put", "_index_put_impl")
def _index_put(call: AtenCall) -> Value:
    b, x = call.builder, call.value()
    given: list[Value | None] = list(call.given["indices"])
    values = call.cast(call.value("values"), x.dtype)
    adds = call.flag("accumulate")
    masks = [v for v in given if v is not None and v.dtype is DType.BOOL]
    if masks:
        if len([v for v in given if v is not None]) != 1 or given[0] is None:
            raise call.unsupported("writing by a mask beside other indices is not supported; use torch.where")
        return _put_by_mask(call, x, masks[0], values, adds)
    axes, indices, neighbours = arranged(call, x, given)
    rest = [k for k in range(x.rank) if k not in axes]
    perm = (*axes, *rest)
    turned = transpose(b, x, perm)
    rank, before = indices[0].rank, axes[0] if neighbours else 0
    shape = [*indices[0].shape, *(x.shape[k] for k in rest)]
    own = [*shape[rank : rank + before], *shape[:rank], *shape[rank + before :]]  # as x[...] has its axes
    values = _spread(call, values, tuple(own))
    values = transpose(b, values, (*range(before, before + rank), *range(before), *range(before + rank, values.rank)))
    at = (
        call.one("concat", [unsqueeze(b, v, [rank]) for v in indices], axis=rank)
        if len(indices) > 1
        else unsqueeze(b, indices[0], [rank])
    )
    kind = x.dtype
    if adds and kind is DType.BOOL:
        raise call.unsupported("adding truth values by indices is not supported; use integers")
    made = call.one("scatter_nd", [turned, at, values], reduction="add" if adds else "none")
    return transpose(b, made, [perm.index(k) for k in range(x.rank)])


def _put_by_mask(call: AtenCall, x: Value, mask: Value, values: Value, adds: bool) -> Value:
    """One value everywhere where the mask of the first axes holds, or its values in order."""
    b, rest = call.builder, x.shape[mask.rank :]
    chosen = reshape(b, mask, (*mask.shape, *[1] * len(rest)))
    if values.rank <= len(rest) or values.shape[0] == 1:
        new = values if values.rank <= len(rest) else reshape(b, values, values.shape[1:])
    else:
        flat = reshape(b, call.cast(mask, DType.I64), (product(mask.shape),))
        number = call.one("cumsum", [flat], axis=0, exclusive=True, reverse=False)
        values = _spread(call, values, (values.shape[0], *rest))
        new = reshape(b, _in_order(call, values, number), (*mask.shape, *rest))
    return call.one("select", [chosen, call.one("add", [x, new]) if adds else new, x])


def _in_order(call: AtenCall, values: Value, number: Value) -> Value:
    """Rows by their numbers; behind the last row, where nobody looks, the last row."""
    last = call.one("sub", [call.scalar(values.shape[0], DType.I64), call.scalar(1, DType.I64)])
    return call.one("gather", [values, call.one("min", [number, last])], axis=0)


def _combined(
    call: AtenCall, put: Callable[[Value, Value, str], Value], x: Value, updates: Value, reduction: str
) -> Value:
    """Updates put into a tensor by a reduction. put: the same of any tensor and updates. Without `include_self` what is
    there does not count where an update comes.
    """
    included = call.flag("include_self", True)
    if reduction != "mean" and included:
        return put(x, updates, _REDUCTIONS[reduction])
    ones = call.one("full", [], shape=updates.shape, value=1, dtype=DType.I32)
    none = call.one("full", [], shape=x.shape, value=0, dtype=DType.I32)
    count = put(none, ones, "add")
    touched = call.one("gt", [count, call.scalar(0, DType.I32)])
    start = x if included else call.one("select", [touched, _neutral(call, x.dtype, reduction), x])
    if reduction != "mean":
        return put(start, updates, _REDUCTIONS[reduction])
    total = put(start, updates, "add")
    number = call.one("add", [count, call.scalar(1, DType.I32)]) if included else count
    number = call.cast(call.one("max", [number, call.scalar(1, DType.I32)]), x.dtype)
    return floor_divided(call, total, number) if x.dtype.is_integer else call.one("div", [total, number])


def _neutral(call: AtenCall, dtype: DType, reduction: str) -> Value:
    """What a reduction begins with."""
    if reduction in ("sum", "mean", "prod"):
        return call.scalar(1 if reduction == "prod" else 0, dtype)
    if dtype.is_float:
        return call.scalar(float("-inf") if reduction == "amax" else float("inf"), dtype)
    limits = np.iinfo(dtype.numpy)
    return call.scalar(limits.min if reduction == "amax" else limits.max, dtype)


@aten("scatter", "scatter_add", "scatter_reduce")
def _scatter(call: AtenCall) -> Value:
    b, x, at = call.builder, call.value(), call.value("index")
    if "reduce" in call.given:
        reduction = call.text("reduce")
    else:
        reduction = "sum" if call.name == "scatter_add" else "none"
    source = call.value("src") if call.has("src") else None
    lead = x
    if x.rank == 0:
        lead, at = reshape(b, x, (1,)), reshape(b, at, (1,)) if at.rank == 0 else at
    at = reshape(b, at, (1,)) if at.rank == 0 else at
    if source is None:
        updates = call.one("expand", [call.operand("value", x.dtype)], shape=at.shape)
    else:
        updates = call.cast(source, x.dtype)
        updates = reshape(b, updates, (1,)) if updates.rank == 0 else updates
        for k, (own, wanted) in enumerate(zip(updates.shape, at.shape, strict=True)):
            updates = updates if own == wanted else slice_axis(b, updates, k, 0, wanted)
    axis, places = call.integer("dim") % max(x.rank, 1), as_index(call, at)

    def put(data: Value, new: Value, how: str) -> Value:
        return call.one("scatter_elements", [data, places, new], axis=axis, reduction=how)

    if call.name == "scatter_reduce":
        return reshape(b, _combined(call, put, lead, updates, reduction), x.shape)
    return reshape(b, put(lead, updates, _REDUCTIONS.get(reduction, "none")), x.shape)


@aten("index_add", "index_copy", "index_fill", "index_reduce")
def _index_write(call: AtenCall) -> Value:
    b, x, at = call.builder, call.value(), call.value("index")
    lead = reshape(b, x, (1,)) if x.rank == 0 else x
    axis = call.integer("dim") % lead.rank
    at = reshape(b, at, (product(at.shape),))
    rows = (*lead.shape[:axis], at.shape[0], *lead.shape[axis + 1 :])
    if call.name == "index_fill":
        updates = call.one("expand", [call.operand("value", x.dtype)], shape=rows)
    else:
        updates = reshape(b, call.cast(call.value("source"), x.dtype), rows)
    alpha = call.given.get("alpha", 1)
    if not (isinstance(alpha, (int, float)) and alpha == 1):
        updates = call.one("mul", [updates, call.scalar(alpha, x.dtype)])
    perm = (axis, *(k for k in range(lead.rank) if k != axis))
    turned, rows_of = transpose(b, lead, perm), transpose(b, updates, perm)
    places = unsqueeze(b, as_index(call, at), [1])

    def put(data: Value, new: Value, how: str) -> Value:
        return call.one("scatter_nd", [data, places, new], reduction=how)

    if call.name == "index_reduce":
        made = _combined(call, put, turned, rows_of, call.text("reduce"))
    else:
        made = put(turned, rows_of, "add" if call.name == "index_add" else "none")
    return reshape(b, transpose(b, made, [perm.index(k) for k in range(lead.rank)]), x.shape)


@aten("masked_scatter")
def _masked_scatter(call: AtenCall) -> Value:
    """Where the mask holds, the source's elements in order."""
    b, mask = call.builder, call.value("mask")
    x = _spread(call, call.value(), call.shape)
    mask = _spread(call, mask, x.shape)
    source = call.value("source")
    flat = reshape(b, call.cast(mask, DType.I64), (product(x.shape),))
    number = call.one("cumsum", [flat], axis=0, exclusive=True, reverse=False)
    values = reshape(b, source, (product(source.shape),))
    found = reshape(b, _in_order(call, values, number), x.shape) if values.shape[0] != 0 else x
    return call.one("select", [mask, found, x])


@aten("put")
def _put_flat(call: AtenCall) -> Value:
    b, x, at = call.builder, call.value(), call.value("index")
    flat, places = reshape(b, x, (product(x.shape),)), reshape(b, at, (product(at.shape), 1))
    updates = reshape(b, call.value("source"), (product(at.shape),))
    made = call.one("scatter_nd", [flat, places, updates], reduction="add" if call.flag("accumulate") else "none")
    return reshape(b, made, x.shape)
