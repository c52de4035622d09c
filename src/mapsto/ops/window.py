"""Pooling windows: max_pool(kernel, strides, pads, dilations), avg_pool(.., count_include_pad, ceil_pads).

A ceil_mode is resolved into the end pads by who makes the node. avg_pool's `ceil_pads` says how much of each end pad is
only there for that, and is never counted. max_pool_indices gives the place of each maximum in the flattened input, as
ONNX counts it (storage order: row major), or in the space of its channel.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import Array, DType, from_numpy
from mapsto.ir.expr import Dim, ceildiv, floordiv, maximum, minimum, product, sym
from mapsto.ir.expr_proofs import known_at_least
from mapsto.ir.expr_rewrite import simplify
from mapsto.ir.graph import Node, Value
from mapsto.kernel.ast import Cast, Const, Index, Iter, Load, Op, Reduce, Scalar, Stmt, Where, ranges_of
from mapsto.kernel.scalar import convert, lowest, widen
from mapsto.ops.contraction import pad_space, window_extent, window_guards, windows
from mapsto.ops.derivatives import zeros
from mapsto.ops.elementwise import converted, scalar_like, widened
from mapsto.ops.making import Making
from mapsto.ops.registry import Inference, Lowering, OpSpec, Shape, register
from mapsto.ops.shapes import FLOATS, NUMBERS, describe, dim_max, dim_min, require_dtype, require_same_dtype

# Windows of more places than this are cut to those that meet the input: no image's border asks for more, a file may.
_MANY_PLACES = 256


def rounded_up(b: Making, extent: Dim, before: Dim, after: Dim, stride: int, reach: int) -> Dim:
    """Elements to add at the end of an axis for a last, partial window (a ceil_mode); one that would start in the end
    pad does not count. reach: how far a window goes over the axis.
    """
    last = ceildiv(extent + before + after - reach, stride)
    late = last * stride - extent - before  # where it starts, counted from where the end pad does
    if not b.proves(-late - 1):
        last = last - dim_min(dim_max(late + 1, 0), 1)
    return dim_max(last * stride + reach - extent - before - after, 0)


def _pooled(inference: Inference) -> Shape:
    x, attrs = inference.value(0), inference.attrs
    rank = x.rank - 2
    if rank < 1 or len(attrs["kernel"]) != rank or len(attrs["strides"]) != rank or len(attrs["pads"]) != 2 * rank:
        raise ShapeError(f"{describe(inference)}: kernel, strides and pads must fit x[N, C, space...]")
    space = []
    for k in range(rank):
        window, stride, dilation = attrs["kernel"][k], attrs["strides"][k], attrs["dilations"][k]
        extent = window_extent(x.shape[2 + k], window, stride, dilation, attrs["pads"][k], attrs["pads"][rank + k])
        if isinstance(extent, int) and extent < 0:
            raise ShapeError(f"{describe(inference)}: the window is larger than the padded axis {k}")
        space.append(extent)
    return (x.shape[0], x.shape[1], *space)


def _view(x: Array, attrs: Mapping[str, Any], out: Sequence[int], fill: Any) -> Array:
    """The padded input as [N, C, *out, *window]."""
    padded = pad_space(x, attrs["pads"], fill)
    return windows(padded, attrs["kernel"], attrs["strides"], attrs["dilations"], out)


def _place(low: Lowering) -> tuple[list[Iter], list[Iter], list[Dim], tuple[Dim, ...]]:
    """(outer iterators, window iterators, input index, guards)"""
    attrs, shape = low.attrs, low.value(0).shape
    rank = len(shape) - 2
    met = [_met(attrs, k, shape[2 + k], low.output.shape[2 + k]) for k in range(rank)]
    outer, window = list(low.iters(low.output.shape, "y")), list(low.iters([count for _, count in met], "k"))
    index: list[Dim] = [sym(i.name) for i in outer[:2]]
    conds: list[Dim] = []
    for k, (y, i) in enumerate(zip(outer[2:], window, strict=True)):
        first, _ = met[k]
        at = attrs["strides"][k] * sym(y.name) + attrs["dilations"][k] * (sym(i.name) + first) - attrs["pads"][k]
        index.append(at)
        conds.extend(window_guards(at, shape[2 + k], (y, i), attrs["pads"][k], attrs["pads"][rank + k]))
    return outer, window, index, tuple(conds)


def _met(attrs: Mapping[str, Any], k: int, extent: Dim, windows: Dim) -> tuple[Dim, Dim]:
    """(first, count) of a window's places along axis k that a loop goes through: all, or, where they are many, those
    that meet the input in one of the windows at least.
    """
    kernel, before, dilation = attrs["kernel"][k], attrs["pads"][k], attrs["dilations"][k]
    if isinstance(kernel, int) and kernel <= _MANY_PLACES:
        return 0, kernel
    first = maximum(0, ceildiv(before - attrs["strides"][k] * (windows - 1), dilation))
    past = minimum(kernel, floordiv(before + extent - 1, dilation) + 1)
    return first, maximum(past - first, 0)


def _may_miss(attrs: Mapping[str, Any], rank: int, k: int, counted: tuple[Dim, Dim]) -> bool:
    """Whether a window may lie, along axis k, with all its places beside the input and the border that counts."""
    reach = attrs["dilations"][k] * (attrs["kernel"][k] - 1) + 1
    beyond = maximum(attrs["pads"][k] - counted[0], attrs["pads"][rank + k] - counted[1]) - reach
    return not isinstance(beyond, int) or beyond >= 0


def _guarded(value: Scalar, conds: tuple[Dim, ...], otherwise: float | int | bool) -> Scalar:
    return Where(conds, value, Const(otherwise, value.dtype)) if conds else value


# ---- max_pool --------------------------------------------------------------------------------------------------------


def _infer_max(inference: Inference) -> list[tuple[DType, Shape]]:
    return [(require_dtype(inference, 0, NUMBERS), _pooled(inference))]


def _max_pool(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    dtype, x = from_numpy(inputs[0].dtype), widen(inputs[0])
    out = shapes[0][2:]
    if 0 in shapes[0]:
        return [np.zeros(shapes[0], dtype=inputs[0].dtype)]
    view = _view(x, attrs, out, lowest(from_numpy(x.dtype)))
    return [convert(view.max(axis=tuple(range(2 + len(out), view.ndim))), dtype)]


def _lower_max(low: Lowering) -> list[Stmt]:
    outer, window, index, conds = _place(low)
    value = widened(low.load(0, index))
    best = Reduce("max", tuple(window), _guarded(value, conds, lowest(value.dtype)))
    return [low.stmt(outer, converted(best, low.output.dtype))]


def _max_gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    """Each window's gradient goes to the first place of its maximum."""
    (g,) = incoming
    if g is None:
        return [None]
    x = b.lookup(node.inputs[0])
    if windows_are_apart(node.attrs, x.shape, g.shape):
        kernel: tuple[int, ...] = node.attrs["kernel"]  # type: ignore[assignment]
        covered = (*x.shape[:2], *(n * k for n, k in zip(g.shape[2:], kernel, strict=True)))
        inside = x if covered == x.shape else _first(b, x, covered)
        return [_with_rest(b, b.one("max_pool_gradient", [inside, g], kernel=kernel), x.shape)]
    places = b.one("max_pool_indices", [x], **dict(node.attrs))
    count, size = product(g.shape), product(x.shape)
    at, updates = (b.one("reshape", [v], shape=(count,)) for v in (places, g))
    rank = len(x.shape) - 2
    if any(_may_miss(node.attrs, rank, k, (0, 0)) for k in range(rank)):  # a window beside the input has no place
        zero = b.one("full", [], shape=(), value=0, dtype=DType.I64)
        none = b.one("full", [], shape=(), value=0.0, dtype=g.dtype)
        updates = b.one("select", [b.one("lt", [at, zero]), none, updates])
    total = b.one(
        "scatter_nd", [zeros(b, (size,), x.dtype), b.one("reshape", [at], shape=(count, 1)), updates], reduction="add"
    )
    return [b.one("reshape", [total], shape=x.shape)]


def windows_are_apart(attrs: Mapping[str, Any], shape: Shape, pooled: Shape) -> bool:
    """Whether windows of N, C, space... lie one beside the other, all of them inside."""
    kernel = attrs["kernel"]
    if tuple(attrs["strides"]) != tuple(kernel) or any(d != 1 for d in attrs["dilations"]):
        return False
    covered = zip(shape[2:], pooled[2:], kernel, strict=True)
    return all(p == 0 for p in attrs["pads"]) and all(known_at_least(d - n * k, 0) for d, n, k in covered)


def chosen_in_windows(b: Making, g: Value, at: Value, shape: Shape, kernel: Sequence[int]) -> Value:
    """What each place of a tensor gets of its window's gradient, where it is the one that the window chose: `at` counts
    places in the space of a channel. No two windows meet, so each place looks itself, and nothing is scattered.
    """
    rank, axes = len(shape), len(kernel)
    space, counts = shape[rank - axes :], g.shape[rank - axes :]
    covered = tuple(n * k for n, k in zip(counts, kernel, strict=True))
    place = None  # of each element, counted as `at` does
    for axis, extent in enumerate(covered):
        along = b.one("iota", [], shape=(extent,), start=0, step=product(space[axis + 1 :]), dtype=at.dtype)
        laid = tuple(extent if k == rank - axes + axis else 1 for k in range(rank))
        along = b.one("reshape", [along], shape=laid)
        place = along if place is None else b.one("add", [place, along])
    assert place is not None
    chosen = b.one("eq", [_repeated(b, at, covered, kernel), place])
    made = b.one("select", [chosen, _repeated(b, g, covered, kernel), scalar_like(b, 0.0, g)])
    return _with_rest(b, made, shape)


def _repeated(b: Making, v: Value, covered: Shape, kernel: Sequence[int]) -> Value:
    """Each element at all places of its window."""
    lead = v.shape[: v.rank - len(kernel)]
    return b.one(
        "resize", [v], sizes=(*lead, *covered), scales=(*(1.0 for _ in lead), *(float(k) for k in kernel)),
        mode="nearest", coordinate_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip


def _first(b: Making, x: Value, shape: Shape) -> Value:
    """The first elements along each axis."""
    return b.one("slice", [x], starts=(0,) * x.rank, steps=(1,) * x.rank, shape=shape)


def _with_rest(b: Making, made: Value, shape: Shape) -> Value:
    """Windows in the shape of what they lie in, with zeros behind the last one."""
    after = tuple(d - c for d, c in zip(shape, made.shape, strict=True))
    if all(d == 0 for d in after):
        return made
    return b.one("pad", [made], before=(0,) * len(shape), after=after, mode="constant", value=0.0)


register(OpSpec("max_pool", "window", _infer_max, _max_pool, _lower_max, gradient=_max_gradient))


def _infer_indices(inference: Inference) -> list[tuple[DType, Shape]]:
    require_dtype(inference, 0, NUMBERS)
    return [(inference.attrs.get("dtype", DType.I64), _pooled(inference))]


def _flat_places(shape: Sequence[int]) -> Array:
    return np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)


def _max_pool_indices(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    x, out = widen(inputs[0]), shapes[0][2:]
    if 0 in shapes[0]:
        return [np.zeros(shapes[0], dtype=np.int64)]
    values = _view(x, attrs, out, lowest(from_numpy(x.dtype))).reshape(*shapes[0], -1)
    places = _view(_flat_places(x.shape), attrs, out, -1).reshape(*shapes[0], -1)
    inside = places >= 0
    best = np.max(np.where(inside, values, lowest(from_numpy(x.dtype))), axis=-1, keepdims=True)
    hit = inside & ((values == best) | (values != values))
    first = np.argmax(hit, axis=-1)[..., None]
    found = np.take_along_axis(places, first, axis=-1)[..., 0]
    if attrs.get("of_space", False):
        found = np.where(found < 0, found, found % max(math.prod(x.shape[2:]), 1))
    return [found.astype(attrs.get("dtype", DType.I64).numpy)]


def _lower_indices(low: Lowering) -> list[Stmt]:
    """The maximum first, into a temporary; then the first place that holds it, or that is NaN."""
    outer, window, index, conds = _place(low)
    value = widened(low.load(0, index))
    best = low.temp("best")
    found = Stmt(
        best, value.dtype, tuple(outer), Reduce("max", tuple(window), _guarded(value, conds, lowest(value.dtype)))
    )

    outer, window, index, conds = _place(low)
    value = widened(low.load(0, index))
    hit: Scalar = Op("eq", (value, Load(best, tuple(sym(i.name) for i in outer), value.dtype)), DType.BOOL)
    if value.dtype.is_float:
        hit = Op("or", (hit, Op("isnan", (value,), DType.BOOL)), DType.BOOL)
    flat: Dim = 0
    skip, kind = 2 if low.attrs.get("of_space", False) else 0, low.output.dtype
    for at, extent in zip(index[skip:], low.value(0).shape[skip:], strict=True):
        flat = flat * extent + at
    far = Const(np.iinfo(kind.numpy).max, kind)
    place = Op("select", (hit, converted(Index(flat), kind), far), kind)
    lowest_place = Reduce("min", tuple(window), Where(conds, place, far) if conds else place)
    rank = len(low.value(0).shape) - 2
    if not any(_may_miss(low.attrs, rank, k, (0, 0)) for k in range(rank)):
        return [found, low.stmt(outer, lowest_place)]
    first = low.temp("first")  # of a window that lies beside the input, there is no place
    placed = Stmt(first, kind, tuple(outer), lowest_place)
    outer = list(low.iters(low.output.shape, "y"))
    at_first = Load(first, tuple(sym(i.name) for i in outer), kind)
    none = Op("eq", (at_first, far), DType.BOOL)
    return [found, placed, low.stmt(outer, Op("select", (none, Const(-1, kind), at_first), kind))]


# of_space: places are counted in the space of their channel, in the type `dtype` (i64 where neither is said).
register(OpSpec("max_pool_indices", "window", _infer_indices, _max_pool_indices, _lower_indices))

# ---- max_pool_gradient(kernel): x[N, C, *space], g[N, C, *space / kernel]; windows lie side by side ------------------


def _infer_max_gradient(inference: Inference) -> list[tuple[DType, Shape]]:
    dtype = require_dtype(inference, 0, FLOATS)
    require_same_dtype(inference)
    x, g, kernel = inference.value(0), inference.value(1), inference.attrs["kernel"]
    if x.rank < 3 or g.rank != x.rank or len(kernel) != x.rank - 2:
        raise ShapeError(f"{describe(inference)}: kernel and gradient must fit x[N, C, space...]")
    for k, d in enumerate(x.shape):
        inference.same(d, g.shape[k] * (kernel[k - 2] if k > 1 else 1))
    return [(dtype, x.shape)]


def _max_pool_gradient(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    x, g, kernel = inputs[0], inputs[1], attrs["kernel"]
    made = np.zeros(shapes[0], g.dtype)
    if 0 in shapes[0]:
        return [made]
    taken = np.zeros(g.shape, bool)
    parts: list[Any] = [
        (..., *(slice(i, None, k) for i, k in zip(at, kernel, strict=True))) for at in np.ndindex(*kernel)
    ]
    best = functools.reduce(np.maximum, (x[part] for part in parts))
    for part in parts:
        hit = ((x[part] == best) | np.isnan(x[part])) & ~taken
        made[part] = np.where(hit, g, 0)
        taken |= hit
    return [made]


def _lower_max_gradient(low: Lowering) -> list[Stmt]:
    """The maximum of a window, the first place that holds it (or NaN), then each place of the window."""
    kernel, kind = low.attrs["kernel"], DType.I32

    def iters() -> tuple[list[Iter], list[Iter], list[Dim]]:
        outer, window = list(low.iters(low.value(1).shape, "y")), list(low.iters(kernel, "k"))
        places = (sym(y.name) * k + sym(i.name) for y, i, k in zip(outer[2:], window, kernel, strict=True))
        return outer, window, [*(sym(i.name) for i in outer[:2]), *places]

    def counted(window: Sequence[Iter]) -> Scalar:
        place: Dim = 0
        for i, k in zip(window, kernel, strict=True):
            place = place * k + sym(i.name)
        return converted(Index(place), kind)

    def at(outer: Sequence[Iter]) -> tuple[Dim, ...]:
        return tuple(sym(i.name) for i in outer)

    best, first = low.temp("best"), low.temp("first")
    outer, window, index = iters()
    value = widened(low.load(0, index))
    largest = Stmt(best, value.dtype, tuple(outer), Reduce("max", tuple(window), value))
    outer, window, index = iters()
    value = widened(low.load(0, index))
    hit: Scalar = Op("eq", (value, Load(best, at(outer), value.dtype)), DType.BOOL)
    hit = Op("or", (hit, Op("isnan", (value,), DType.BOOL)), DType.BOOL)
    far = Const(np.iinfo(kind.numpy).max, kind)
    earliest = Reduce("min", tuple(window), Op("select", (hit, counted(window), far), kind))
    chosen = Stmt(first, kind, tuple(outer), earliest)
    outer, window, index = iters()
    taken = Op("eq", (Load(first, at(outer), kind), counted(window)), DType.BOOL)
    g = low.load(1, list(at(outer)))
    given = Op("select", (taken, g, Const(0.0, g.dtype)), g.dtype)
    return [largest, chosen, low.stmt((*outer, *window), given, index=tuple(index))]


def _max_gradient_gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    """It is linear in g: what comes in, where each window's maximum is. Maxima move by no
    small step of x.
    """
    (h,) = incoming
    if h is None:
        return [None, None]
    x, g = (b.lookup(n) for n in node.inputs)
    kernel: tuple[int, ...] = node.attrs["kernel"]  # type: ignore[assignment]
    ones = b.one("full", [], shape=g.shape, value=1.0, dtype=g.dtype)
    there = b.one("mul", [h, b.one("max_pool_gradient", [x, ones], kernel=kernel)])
    windowed = {"strides": kernel, "pads": (0,) * 2 * len(kernel), "dilations": (1,) * len(kernel)}
    mean = b.one("avg_pool", [there], kernel=kernel, **windowed, count_include_pad=True, ceil_pads=(0,) * len(kernel))
    return [zeros(b, x.shape, x.dtype), b.one("mul", [mean, scalar_like(b, float(math.prod(kernel)), g)])]


register(OpSpec(
    "max_pool_gradient", "window", _infer_max_gradient, _max_pool_gradient, _lower_max_gradient,
    gradient=_max_gradient_gradient,
))  # fmt: skip

# ---- avg_pool --------------------------------------------------------------------------------------------------------


def _infer_avg(inference: Inference) -> list[tuple[DType, Shape]]:
    return [(require_dtype(inference, 0, FLOATS), _pooled(inference))]


def _counted(attrs: Mapping[str, Any], rank: int, k: int) -> tuple[Dim, Dim]:
    """How far the places that count reach beyond axis k, at the front and at the end."""
    if not attrs["count_include_pad"]:
        return 0, 0
    return attrs["pads"][k], attrs["pads"][rank + k] - attrs.get("ceil_pads", (0,) * rank)[k]


def _avg_pool(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    dtype, x = from_numpy(inputs[0].dtype), widen(inputs[0])
    out = shapes[0][2:]
    if 0 in shapes[0]:
        return [np.zeros(shapes[0], dtype=inputs[0].dtype)]
    rank = len(out)
    axes = tuple(range(2 + rank, 2 + 2 * rank))
    total = _view(x, attrs, out, 0).sum(axis=axes, dtype=np.float64)
    # what counts: ones over the input and the counted border, zeros beyond
    reach = [_counted(attrs, rank, k) for k in range(rank)]
    ones = np.ones((1, 1, *(d + b + a for d, (b, a) in zip(x.shape[2:], reach, strict=True))))
    rest = [attrs["pads"][k] - reach[k][0] for k in range(rank)] + [
        attrs["pads"][rank + k] - reach[k][1] for k in range(rank)
    ]
    count = _view(ones, {**attrs, "pads": rest}, out, 0).sum(axis=axes)
    with np.errstate(all="ignore"):
        return [
            convert(total / count, dtype) if dtype is DType.F64 else convert((total / count).astype(np.float32), dtype)
        ]


def _lower_avg(low: Lowering) -> list[Stmt]:
    outer, window, index, conds = _place(low)
    value = widened(low.load(0, index))
    total = Reduce("sum", tuple(window), _guarded(value, conds, 0.0))
    count = simplify(_count(low, outer), ranges_of(tuple(outer)))
    divisor: Scalar = Const(float(count), value.dtype) if isinstance(count, int) else Cast(Index(count), value.dtype)
    return [low.stmt(outer, converted(Op("div", (total, divisor), value.dtype), low.output.dtype))]


def _count(low: Lowering, outer: Sequence[Iter]) -> Dim:
    """How many places of the window count: on each axis those i in 0..kernel-1 with -before <= start + dilation*i <
    extent + after.
    """
    attrs, shape = low.attrs, low.value(0).shape
    rank = len(shape) - 2
    total: Dim = 1
    for k, y in enumerate(outer[2:]):
        before, after = _counted(attrs, rank, k)
        start = attrs["strides"][k] * sym(y.name) - attrs["pads"][k]
        dilation = attrs["dilations"][k]
        last = minimum(attrs["kernel"][k], ceildiv(shape[2 + k] + after - start, dilation))
        places = last - maximum(0, ceildiv(-before - start, dilation))
        total = total * (maximum(places, 0) if _may_miss(attrs, rank, k, (before, after)) else places)
    return total


def _avg_gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    """Each gradient, divided by what its window counts, over all places of the window."""
    (g,) = incoming
    if g is None:
        return [None]
    shape = b.lookup(node.inputs[0]).shape
    attrs: dict[str, Any] = dict(node.attrs)
    ones = b.one("full", [], shape=(1, 1, *shape[2:]), value=1.0, dtype=g.dtype)
    if windows_are_apart(attrs, shape, g.shape):
        count = scalar_like(b, float(math.prod(attrs["kernel"])), g)
    else:  # the mean of ones is what lies inside, divided by what counts
        windowed = {k: attrs[k] for k in ("strides", "pads", "dilations")}
        inside = b.one("conv", [ones, _ones(b, attrs, g)], **windowed, group=1)
        count = b.one("div", [inside, b.one("avg_pool", [ones], **attrs)])
    return [spread_over_windows(b, b.one("div", [g, count]), shape, attrs)]


def spread_over_windows(b: Making, g: Value, shape: Shape, attrs: Mapping[str, Any]) -> Value:
    """Each element at all places of its window, added up: the gradient of a pool of sums."""
    kernel = attrs["kernel"]
    rank = len(kernel)
    counts, lead = g.shape[g.rank - rank :], product(shape[: len(shape) - rank])
    if windows_are_apart(attrs, shape, g.shape):
        covered = tuple(n * k for n, k in zip(counts, kernel, strict=True))
        return _with_rest(b, _repeated(b, g, covered, kernel), shape)
    pads, strides, dilations = attrs["pads"], attrs["strides"], attrs["dilations"]
    unread = tuple(  # elements behind the last window, which no result reads
        d + pads[k] + pads[rank + k] - dilations[k] * (kernel[k] - 1) - 1 - (counts[k] - 1) * strides[k]
        for k, d in enumerate(shape[len(shape) - rank :])
    )
    made = b.one(
        "conv_transpose", [b.one("reshape", [g], shape=(lead, 1, *counts)), _ones(b, attrs, g)], strides=strides,
        pads=pads, dilations=dilations, group=1, output_padding=unread,
    )  # fmt: skip
    return b.one("reshape", [made], shape=shape)


def _ones(b: Making, attrs: Mapping[str, Any], like: Value) -> Value:
    return b.constant(np.ones((1, 1, *attrs["kernel"]), like.dtype.numpy), "ones")


register(OpSpec("avg_pool", "window", _infer_avg, _avg_pool, _lower_avg, gradient=_avg_gradient))
