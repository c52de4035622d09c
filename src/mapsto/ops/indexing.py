"""Indices that are data: gather, gather_elements, gather_nd, scatter_elements, scatter_nd.

An index counts from the end where it is negative. One that is out of range is an error: the builder has indices
checked (`ops.bounds`), and an axis without elements refused where there are indices. Kernels take an index modulo the
extent all the same, so none leaves its tensor, even where another thread changes the caller's array after the check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapsto.errors import ExecutionError, ShapeError, UnsupportedError
from mapsto.ir.bounds import Allowed
from mapsto.ir.dtypes import Array, DType
from mapsto.ir.expr import Dim, load, mod, sym
from mapsto.ir.graph import Node, Value
from mapsto.kernel.ast import Load, Op, Scalar, Stmt
from mapsto.ops.derivatives import of_product, zeros
from mapsto.ops.elementwise import converted, scalar_like, widened
from mapsto.ops.making import Making
from mapsto.ops.registry import Inference, Lowering, OpSpec, Shape, register
from mapsto.ops.shapes import axis_of, describe, require_dtype

INDEX_TYPES = frozenset({DType.I32, DType.I64})
REDUCTIONS = ("none", "add", "mul", "min", "max")


def _at(low: Lowering, i: int, index: Sequence[Dim], extent: Dim) -> Dim:
    """The element of integer input i at `index`, as an index into an axis of `extent`."""
    return mod(load(low.value(i).name, index), extent) if extent != 0 else 0


def _integers(a: Array) -> Array | None:
    """Known content as numpy indices, where all of it is ints."""
    if not all(isinstance(e, (int, np.integer)) for e in a.flat):
        return None
    return a.astype(np.int64)


def _along(inputs: Sequence[Value | None], attrs: Mapping[str, Any]) -> dict[int, Allowed]:
    """Operand 1 indexes the axis of operand 0."""
    data = inputs[0]
    assert data is not None
    axis = attrs["axis"] % data.rank
    return {1: Allowed((axis,), (data.shape[axis],))}


def _by_columns(inputs: Sequence[Value | None], first: int) -> dict[int, Allowed]:
    """The columns of operand 1 index the axes of operand 0 from `first` on."""
    data, indices = inputs[0], inputs[1]
    assert data is not None and indices is not None
    axes = tuple(range(first, first + int(indices.shape[-1])))  # type: ignore[arg-type]
    columns = (-1,) if len(axes) == 1 else tuple(range(len(axes)))
    return {1: Allowed(axes, tuple(data.shape[axis] for axis in axes), columns=columns)}


def _inside(index: Array, extent: int, where: str) -> Array:
    wrong = index[(index < -extent) | (index >= extent)]
    if wrong.size:
        raise ExecutionError(f"{where}: index {wrong.flat[0]} is outside of an axis of {extent}")
    return np.where(index < 0, index + extent, index)


# ---- gather(axis): out[.., j.., ..] = data[.., indices[j..], ..] -----------------------------------------------------


def _infer_gather(inference: Inference) -> list[tuple[DType, Shape]]:
    require_dtype(inference, 1, INDEX_TYPES)
    data, indices = inference.value(0), inference.value(1)
    axis = axis_of(inference, inference.attrs["axis"], data.rank)
    return [(data.dtype, (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]))]


def _gather(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    data, indices = inputs
    axis = attrs["axis"] % data.ndim
    return [np.take(data, _inside(indices, data.shape[axis], "gather"), axis=axis)]


def _lower_gather(low: Lowering) -> list[Stmt]:
    iters = low.iters(low.output.shape)
    index = [sym(i.name) for i in iters]
    data, rank = low.value(0), low.value(1).rank
    axis = low.attrs["axis"] % data.rank
    chosen = _at(low, 1, index[axis : axis + rank], data.shape[axis])
    return [low.stmt(iters, low.load(0, [*index[:axis], chosen, *index[axis + rank :]]))]


def _gather_content(inputs: list[Array], attrs: Mapping[str, Any], shapes: Sequence[Shape]) -> Array | None:
    indices = _integers(inputs[1])
    if indices is None:
        return None
    return np.asarray(np.take(inputs[0], indices, axis=attrs["axis"]), dtype=object)


def _gather_gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    """Each row's gradient is added where the row came from."""
    (g,) = incoming
    if g is None:
        return [None, None]
    data, indices = (b.lookup(n) for n in node.inputs)
    axis = int(node.attrs["axis"]) % data.rank  # type: ignore[arg-type]
    # the gathered axes to the front, so that one index a row remains
    order = [*range(axis, axis + indices.rank), *range(axis), *range(axis + indices.rank, g.rank)]
    rows = b.one("transpose", [g], perm=tuple(order))
    rest = (*data.shape[:axis], *data.shape[axis + 1 :])
    zeros = b.one("full", [], shape=(data.shape[axis], *rest), value=0.0, dtype=data.dtype)
    at = b.one("reshape", [indices], shape=(*indices.shape, 1))
    total = b.one("scatter_nd", [zeros, at, rows], reduction="add")
    back = [*range(1, axis + 1), 0, *range(axis + 1, data.rank)]
    return [b.one("transpose", [total], perm=tuple(back)), None]


register(OpSpec(
    "gather", "movement", _infer_gather, _gather, _lower_gather, _gather_content, _gather_gradient, indices=_along
))  # fmt: skip

# ---- gather_elements(axis): out[i, j, k] = data[indices[i, j, k], j, k] for axis 0 -----------------------------------


def _infer_gather_elements(inference: Inference) -> list[tuple[DType, Shape]]:
    require_dtype(inference, 1, INDEX_TYPES)
    data, indices = inference.value(0), inference.value(1)
    axis = axis_of(inference, inference.attrs["axis"], data.rank)
    _fits(inference, data, indices, axis)
    return [(data.dtype, indices.shape)]


def _fits(inference: Inference, data: Value, indices: Value, axis: int) -> None:
    if data.rank != indices.rank:
        raise ShapeError(f"{describe(inference)}: data and indices have different ranks")
    for k, (dim, extent) in enumerate(zip(data.shape, indices.shape, strict=True)):
        if k != axis:
            inference.at_least(dim, extent, f"axis {k} of the data under that of the indices")


def _own_axes(indices: Array, axis: int, extent: int, where: str) -> tuple[Array, ...]:
    """The index arrays of data that gather_elements and scatter_elements address."""
    own: list[Array] = list(np.indices(indices.shape))
    own[axis] = _inside(indices, extent, where)
    return tuple(own)


def _gather_elements(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    data, indices = inputs
    axis = attrs["axis"] % data.ndim
    return [data[_own_axes(indices, axis, data.shape[axis], "gather_elements")]]


def _lower_gather_elements(low: Lowering) -> list[Stmt]:
    iters = low.iters(low.output.shape)
    index: list[Dim] = [sym(i.name) for i in iters]
    data = low.value(0)
    axis = low.attrs["axis"] % data.rank
    chosen = _at(low, 1, index, data.shape[axis])
    return [low.stmt(iters, low.load(0, [*index[:axis], chosen, *index[axis + 1 :]]))]


def _gather_elements_gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    (g,) = incoming
    if g is None:
        return [None, None]
    data, indices = (b.lookup(n) for n in node.inputs)
    nothing = zeros(b, data.shape, g.dtype)
    return [b.one("scatter_elements", [nothing, indices, g], axis=node.attrs["axis"], reduction="add"), None]


register(OpSpec(
    "gather_elements", "movement", _infer_gather_elements, _gather_elements, _lower_gather_elements,
    gradient=_gather_elements_gradient, indices=_along,
))  # fmt: skip

# ---- gather_nd(batch_dims): the last axis of the indices addresses the axes of data after the batch ones -------------


def _infer_gather_nd(inference: Inference) -> list[tuple[DType, Shape]]:
    require_dtype(inference, 1, INDEX_TYPES)
    data, indices = inference.value(0), inference.value(1)
    batch, depth = inference.attrs["batch_dims"], _depth(inference, indices)
    if batch >= indices.rank or batch + depth > data.rank:
        raise ShapeError(f"{describe(inference)}: {batch} batch axes and {depth} indices do not fit rank {data.rank}")
    shared = tuple(inference.same(a, b) for a, b in zip(data.shape[:batch], indices.shape[:batch], strict=True))
    return [(data.dtype, (*shared, *indices.shape[batch:-1], *data.shape[batch + depth :]))]


def _depth(inference: Inference, indices: Value) -> int:
    if indices.rank == 0 or not isinstance(indices.shape[-1], int):
        raise ShapeError(f"{describe(inference)}: the last axis of the indices must have a fixed extent")
    return int(indices.shape[-1])


def _gather_nd(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    data, indices = inputs
    batch = attrs["batch_dims"]
    lead = indices.shape[:-1]
    own = [np.indices(lead)[k] for k in range(batch)]
    chosen = [_inside(indices[..., k], data.shape[batch + k], "gather_nd") for k in range(indices.shape[-1])]
    if not own and not chosen:
        return [np.broadcast_to(data, shapes[0])]
    return [data[tuple(own + chosen)].reshape(shapes[0])]


def _lower_gather_nd(low: Lowering) -> list[Stmt]:
    iters = low.iters(low.output.shape)
    index: list[Dim] = [sym(i.name) for i in iters]
    data, indices, batch = low.value(0), low.value(1), low.attrs["batch_dims"]
    lead = indices.rank - 1
    depth = int(indices.shape[-1])  # type: ignore[arg-type]
    chosen = [_at(low, 1, [*index[:lead], k], data.shape[batch + k]) for k in range(depth)]
    return [low.stmt(iters, low.load(0, [*index[:batch], *chosen, *index[lead:]]))]


def _gather_nd_indices(inputs: Sequence[Value | None], attrs: Mapping[str, Any]) -> dict[int, Allowed]:
    return _by_columns(inputs, attrs["batch_dims"])


def _gather_nd_gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    """Scattered by indices that say the batch axes as well."""
    (g,) = incoming
    if g is None:
        return [None, None]
    data, indices = (b.lookup(n) for n in node.inputs)
    columns = []
    for axis in range(int(node.attrs["batch_dims"])):  # type: ignore[arg-type]
        places = b.one("iota", [], start=0, step=1, shape=(indices.shape[axis],), dtype=indices.dtype)
        laid = tuple(d if k == axis else 1 for k, d in enumerate(indices.shape))
        columns.append(b.one("expand", [b.one("reshape", [places], shape=laid)], shape=(*indices.shape[:-1], 1)))
    at = b.one("concat", [*columns, indices], axis=indices.rank - 1) if columns else indices
    return [b.one("scatter_nd", [zeros(b, data.shape, g.dtype), at, g], reduction="add"), None]


register(OpSpec(
    "gather_nd", "movement", _infer_gather_nd, _gather_nd, _lower_gather_nd, gradient=_gather_nd_gradient,
    indices=_gather_nd_indices,
))  # fmt: skip

# ---- scatters: a copy of the data, then updates in the order of their elements ---------------------------------------


def _check_scatter(inference: Inference) -> tuple[Value, Value, Value]:
    require_dtype(inference, 1, INDEX_TYPES)
    data, indices, updates = (inference.value(i) for i in range(3))
    if data.dtype is not updates.dtype:
        raise ShapeError(f"{describe(inference)}: data and updates have different dtypes")
    if inference.attrs["reduction"] not in REDUCTIONS:
        raise UnsupportedError(
            f"{inference.op}: no reduction {inference.attrs['reduction']!r}; known: {', '.join(REDUCTIONS)}"
        )
    return data, indices, updates


def _scatter_into(data: Array, at: tuple[Array, ...], updates: Array, reduction: str) -> Array:
    result = np.array(data, order="C")  # else a transposed operand would stay so, and `reshape` below would copy
    if reduction == "none":
        flat = np.ravel_multi_index(at, result.shape) if result.size else np.zeros(0, np.int64)
        for place, element in zip(
            np.ravel(flat), np.ravel(updates), strict=False
        ):  # in order: the last of equal indices wins
            result.reshape(-1)[place] = element
        return result
    function = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}[reduction]
    function.at(result, at, updates)
    return result


def _copy(low: Lowering) -> Stmt:
    iters = low.iters(low.output.shape)
    return low.stmt(iters, low.load(0, [sym(i.name) for i in iters]))


def _update(low: Lowering, place: Sequence[Dim], update: Load) -> Scalar:
    """The update itself, or what it makes of the element that is there (read from the output)."""
    fn = low.attrs["reduction"]
    if fn == "none":
        return update
    there, new = widened(Load(low.output.name, tuple(place), low.output.dtype)), widened(update)
    return converted(Op(fn, (there, new), new.dtype), low.output.dtype)


def _scatter_gradient(
    b: Making, node: Node, incoming: Sequence[Value | None], pick: str, more: Mapping[str, Any]
) -> list[Value | None]:
    """pick: the op that reads where this one writes. Of several updates of one place none counts as overwritten; equal
    extremes share a gradient.
    """
    (g,) = incoming
    if g is None or not g.dtype.is_float:
        return [None, None, None]
    (data, indices, updates), reduction = (b.lookup(n) for n in node.inputs), node.attrs["reduction"]

    def picked(v: Value) -> Value:
        return b.one(pick, [v, indices], **more)

    def put(onto: Value, v: Value, how: str) -> Value:
        return b.one(node.op, [onto, indices, v], **{**node.attrs, "reduction": how})

    nothing = zeros(b, data.shape, g.dtype)
    if reduction == "add":
        return [g, None, picked(g)]
    if reduction == "none":
        return [put(g, zeros(b, updates.shape, g.dtype), "none"), None, picked(g)]
    if reduction == "mul":
        ones = b.one("full", [], shape=data.shape, value=1.0, dtype=g.dtype)
        others = of_product(
            b, updates, node.output, lambda v: put(ones, v, "mul"), lambda v: put(nothing, v, "add"), picked, data
        )
        return [b.one("mul", [g, put(ones, updates, "mul")]), None, b.one("mul", [picked(g), others])]
    hits, wins = (
        b.one("cast", [b.one("eq", pair)], to=g.dtype)
        for pair in ([data, node.output], [updates, picked(node.output)])
    )
    share = b.one("div", [g, put(hits, wins, "add")])
    untouched = b.one("eq", [put(nothing, b.one("full", [], shape=updates.shape, value=1.0, dtype=g.dtype), "add"),
                             scalar_like(b, 0.0, g)])  # fmt: skip
    return [b.one("select", [untouched, g, b.one("mul", [share, hits])]), None, b.one("mul", [picked(share), wins])]


def _infer_scatter_elements(inference: Inference) -> list[tuple[DType, Shape]]:
    data, indices, updates = _check_scatter(inference)
    axis = axis_of(inference, inference.attrs["axis"], data.rank)
    if indices.rank != updates.rank:
        raise ShapeError(f"{describe(inference)}: indices and updates have different ranks")
    for a, b in zip(indices.shape, updates.shape, strict=True):
        inference.same(a, b)
    _fits(inference, data, indices, axis)
    return [(data.dtype, data.shape)]


def _scatter_elements(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    data, indices, updates = inputs
    axis = attrs["axis"] % data.ndim
    at = _own_axes(indices, axis, data.shape[axis], "scatter_elements")
    return [_scatter_into(data, at, updates, attrs["reduction"])]


def _lower_scatter_elements(low: Lowering) -> list[Stmt]:
    iters = low.iters(low.value(2).shape)
    index: list[Dim] = [sym(i.name) for i in iters]
    axis = low.attrs["axis"] % low.output.rank
    place = [*index[:axis], _at(low, 1, index, low.output.shape[axis]), *index[axis + 1 :]]
    return [_copy(low), low.stmt(iters, _update(low, place, low.load(2, index)), index=place)]


def _scatter_elements_gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    return _scatter_gradient(b, node, incoming, "gather_elements", {"axis": node.attrs["axis"]})


register(OpSpec(
    "scatter_elements", "movement", _infer_scatter_elements, _scatter_elements, _lower_scatter_elements,
    gradient=_scatter_elements_gradient, indices=_along,
))  # fmt: skip


def _infer_scatter_nd(inference: Inference) -> list[tuple[DType, Shape]]:
    data, indices, updates = _check_scatter(inference)
    depth = _depth(inference, indices)
    expected = (*indices.shape[:-1], *data.shape[depth:])
    if depth > data.rank or len(expected) != updates.rank:
        raise ShapeError(f"{describe(inference)}: updates should have the shape {list(expected)}")
    for a, b in zip(expected, updates.shape, strict=True):
        inference.same(a, b)
    return [(data.dtype, data.shape)]


def _scatter_nd(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    data, indices, updates = inputs
    depth = indices.shape[-1]
    rest = data.shape[depth:]
    lead = indices.shape[:-1]
    grid = np.indices((*lead, *rest))
    chosen = [
        _inside(indices[..., k], data.shape[k], "scatter_nd").reshape((*lead, *(1 for _ in rest))) for k in range(depth)
    ]
    at = [np.broadcast_to(c, (*lead, *rest)) for c in chosen] + [grid[len(lead) + k] for k in range(len(rest))]
    return [_scatter_into(data, tuple(at), updates.reshape((*lead, *rest)), attrs["reduction"])]


def _lower_scatter_nd(low: Lowering) -> list[Stmt]:
    iters = low.iters(low.value(2).shape)
    index: list[Dim] = [sym(i.name) for i in iters]
    indices, shape = low.value(1), low.output.shape
    lead = indices.rank - 1
    depth = int(indices.shape[-1])  # type: ignore[arg-type]
    place = [*(_at(low, 1, [*index[:lead], k], shape[k]) for k in range(depth)), *index[lead:]]
    return [_copy(low), low.stmt(iters, _update(low, place, low.load(2, index)), index=place)]


register(OpSpec(
    "scatter_nd", "movement", _infer_scatter_nd, _scatter_nd, _lower_scatter_nd,
    gradient=lambda b, node, incoming: _scatter_gradient(b, node, incoming, "gather_nd", {"batch_dims": 0}),
    indices=lambda inputs, attrs: _by_columns(inputs, 0),
))  # fmt: skip
