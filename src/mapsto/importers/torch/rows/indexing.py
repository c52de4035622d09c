"""Rows that read elements by indices: gather, index, index_select; and places of non-zero elements."""

from __future__ import annotations

from collections.abc import Sequence

from mapsto.importers.torch.table import AtenCall, aten
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, product
from mapsto.ir.graph import Value
from mapsto.ops.arranging import reshape, slice_axis, transpose, unsqueeze


@aten("index_select")
def _index_select(call: AtenCall) -> Value:
    x, at = call.value(), call.value("index")
    if x.rank == 0:
        return x
    at = reshape(call.builder, at, (1,)) if at.rank == 0 else at
    return call.one("gather", [x, at], axis=call.axis())


@aten("gather")
def _gather(call: AtenCall) -> Value:
    x, at = call.value(), as_index(call, call.value("index"))
    if x.rank == 0:
        return reshape(call.builder, x, at.shape)
    shape = at.shape
    if at.rank == 0:
        at = reshape(call.builder, at, (1,))
    axis = call.axis()
    for k, (own, wanted) in enumerate(zip(x.shape, at.shape, strict=True)):
        if k != axis and own != wanted:  # fewer rows are asked for than there are
            x = slice_axis(call.builder, x, k, 0, wanted)
    return reshape(call.builder, call.one("gather_elements", [x, at], axis=axis), shape)


def as_index(call: AtenCall, at: Value) -> Value:
    """Indices in a type that ops take."""
    return at if at.dtype in (DType.I32, DType.I64) else call.cast(at, DType.I64)


@aten("take")
def _take(call: AtenCall) -> Value:
    x = call.value()
    return call.one("gather", [reshape(call.builder, x, (product(x.shape),)), call.value("index")], axis=0)


@aten("index", "_unsafe_index", "_unsafe_masked_index")
def _index(call: AtenCall) -> Value:
    """x[i, :, j]: tensors of indices broadcast against each other; their axes stand where the first of them does if
    they are neighbours, else in front.
    """
    x = call.value()
    given: list[Value | None] = list(call.given["indices"])
    if any(v is not None and v.dtype is DType.BOOL for v in given):
        return _by_mask(call, x, given)
    if call.name == "_unsafe_masked_index":  # where the mask does not hold, indices may be anything
        mask = call.value("mask")
        given = [v if v is None else call.one("select", [mask, v, call.scalar(0, v.dtype)]) for v in given]
    found = indexed(call, x, given)
    if call.name == "_unsafe_masked_index":
        return call.one("select", [call.value("mask"), found, call.operand("fill", x.dtype)])
    return found


def arranged(call: AtenCall, x: Value, given: Sequence[Value | None]) -> tuple[list[int], list[Value], bool]:
    """(the axes that are indexed, their indices broadcast to one shape, whether these axes are neighbours)"""
    b = call.builder
    axes = [k for k, v in enumerate(given) if v is not None]
    indices = [call.cast(v, DType.I64) for v in given if v is not None]
    rank = max(v.rank for v in indices)
    shape: list[Dim] = [1] * rank
    for v in indices:
        for k, d in enumerate(v.shape):
            at = rank - v.rank + k
            shape[at] = b.broadcast(shape[at], d, call.name)
    wide = [v if v.shape == tuple(shape) else call.one("expand", [v], shape=tuple(shape)) for v in indices]
    return axes, wide, axes == list(range(axes[0], axes[0] + len(axes)))


def indexed(call: AtenCall, x: Value, given: Sequence[Value | None]) -> Value:
    b = call.builder
    axes, indices, neighbours = arranged(call, x, given)
    if len(axes) == 1:
        return call.one("gather", [x, indices[0]], axis=axes[0])
    rest = [k for k in range(x.rank) if k not in axes]
    turned = transpose(b, x, (*axes, *rest))
    at = call.one("concat", [unsqueeze(b, v, [v.rank]) for v in indices], axis=indices[0].rank)
    found = call.one("gather_nd", [turned, at], batch_dims=0)
    if not neighbours or axes[0] == 0:
        return found
    rank, before = indices[0].rank, axes[0]
    return transpose(b, found, (*range(rank, rank + before), *range(rank), *range(rank + before, found.rank)))


def _by_mask(call: AtenCall, x: Value, given: Sequence[Value | None]) -> Value:
    """A mask alone: the elements where it holds, as many as a run finds."""
    masks = [(k, v) for k, v in enumerate(given) if v is not None]
    if len(masks) != 1:
        raise call.unsupported("a mask beside other indices is not supported; use nonzero and indices")
    (axis, mask), b = masks[0], call.builder
    lead = transpose(b, x, (*range(axis, axis + mask.rank), *range(axis), *range(axis + mask.rank, x.rank)))
    flat = reshape(b, lead, (product(mask.shape), *lead.shape[mask.rank :]))
    places = _places(call, reshape(b, mask, (product(mask.shape),)))
    found = call.one("gather", [flat, reshape(b, places, (places.shape[1],))], axis=0)
    return transpose(b, found, (*range(1, axis + 1), 0, *range(axis + 1, found.rank)))


def _places(call: AtenCall, x: Value) -> Value:
    """i64[rank, count]: where elements are not zero; the count is a size of the run."""
    b = call.builder
    places, count = b.add("nonzero", [x])
    n = b.bind(count, "found")
    b.require(places.shape[1] - n, "more elements than there are")
    return slice_axis(b, places, 1, 0, n)


@aten("nonzero", "argwhere")
def _nonzero(call: AtenCall) -> Value:
    return transpose(call.builder, _places(call, call.value()), (1, 0))


@aten("masked_select")
def _masked_select(call: AtenCall) -> Value:
    b, x, mask = call.builder, call.value(), call.value("mask")
    rank = max(x.rank, mask.rank)
    shape: list[Dim] = [1] * rank
    for v in (x, mask):
        for k, d in enumerate(v.shape):
            at = rank - v.rank + k
            shape[at] = b.broadcast(shape[at], d, call.name)
    flat = [
        reshape(b, v if v.shape == tuple(shape) else call.one("expand", [v], shape=tuple(shape)), (product(shape),))
        for v in (x, mask)
    ]
    places = _places(call, flat[1])
    return call.one("gather", [flat[0], reshape(b, places, (places.shape[1],))], axis=0)
