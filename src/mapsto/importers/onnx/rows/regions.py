"""Rows that read an image at computed places, all channels of one together: RoiAlign, MaxRoiPool, DeformConv.

First the image is laid channels last, x[N, C, space...] as rows [N * space * groups, C / groups]: a place is one row,
and neighbouring channels are neighbours in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as combinations

import numpy as np

from mapsto.importers.onnx.rows.indexing import as_index
from mapsto.importers.onnx.rows.windows import window_of
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.bounds import Allowed
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, equality, floordiv, product
from mapsto.ir.graph import Value
from mapsto.kernel.scalar import compute_type
from mapsto.ops.arranging import positions, reshape, slice_axis, transpose
from mapsto.ops.bounds import check_inside
from mapsto.ops.builder import Builder
from mapsto.ops.composite import cast
from mapsto.ops.contraction import window_extent

# The most samples of a bin along an axis, where the size of a region decides: one for each element of it.
_SAMPLES = 1 << 12


@dataclass(frozen=True)
class _Math:
    """Arithmetic of values with numbers."""

    call: NodeCall

    @property
    def b(self) -> Builder:
        return self.call.builder

    def __call__(self, op: str, a: Value, *others: Value | float) -> Value:
        return self.b.one(op, [a, *(o if isinstance(o, Value) else self.call.scalar(o, a) for o in others)])

    def number(self, dim: Dim, dtype: DType) -> Value:
        return cast(self.b, self.b.known(dim), dtype)

    def clamp(self, x: Value, low: float, high: Value) -> Value:
        return self("min", self("max", x, low), high)


@dataclass(frozen=True)
class _Tap:
    """One of the two neighbours along an axis: its place, its weight, and where it lies inside (None: everywhere)."""

    place: Value
    weight: Value
    inside: Value | None = None


def _channels_last(b: Builder, x: Value, groups: int = 1) -> Value:
    """x[N, C, space...] as rows [N * space * groups, C / groups]."""
    last = transpose(b, x, (0, *range(2, x.rank), 1))
    each = floordiv(x.shape[1], groups)
    return reshape(b, last, (x.shape[0] * product(x.shape[2:]) * groups, each))


def _read(m: _Math, rows: Value, first: Value, space: Sequence[Dim], taps: Sequence[_Tap], groups: int = 1) -> Value:
    """Elements at one tap an axis, [place..., channel]. first: which image; groups: how many rows a place has."""
    at = first
    for extent, tap in zip(space, taps, strict=True):
        at = m("add", m("mul", at, m.b.known(extent)), tap.place)
    if groups > 1:
        group = reshape(m.b, positions(m.b, groups), (groups, *[1] * (at.rank - 2)))
        at = m("add", m("mul", at, groups), group)
    found = m.b.one("gather", [rows, at], axis=0)
    found = cast(m.b, found, compute_type(found.dtype))
    for tap in taps:
        if tap.inside is not None:
            inside = reshape(m.b, tap.inside, (*tap.inside.shape, 1))
            found = m.b.one("select", [inside, found, m.call.scalar(0, found)])
    return found


def _weight(m: _Math, taps: Sequence[_Tap], dtype: DType) -> Value:
    """The product of the taps' weights, for all channels."""
    total = taps[0].weight
    for tap in taps[1:]:
        total = m("mul", total, tap.weight)
    return cast(m.b, reshape(m.b, total, (*total.shape, 1)), dtype)


# -- RoiAlign ----------------------------------------------------------------------------------------------------------


@row("RoiAlign")
def _roi_align(call: NodeCall) -> Result:
    """Regions rois[R, 4] (x1, y1, x2, y2) of images x[N, C, H, W], cut into bins, each the mean (or maximum) of samples
    between elements: [R, C, output_height, output_width].
    """
    b, x, rois = call.builder, call.input(0), call.input(1)
    m = _Math(call)
    bins = (call.integer("output_height", 1), call.integer("output_width", 1))
    if x.rank != 4 or rois.rank != 2 or min(bins) < 1:
        raise call.wrong(f"rois {rois} of {x} in {bins} bins")
    b.require(equality(rois.shape[1], 4), f"the rois have {rois.shape[1]} columns, not 4")
    mode = call.one_of("mode", "avg", ["avg", "max"])
    wide = cast(b, rois, compute_type(rois.dtype))
    along = [_samples(m, wide, axis, bins[axis], x.shape[2 + axis]) for axis in range(2)]
    image = as_index(b, call.input(2))
    check_inside(b, image, Allowed((0,), (x.shape[0],), "place", "batch index"), b.place("roi_align"))
    count = rois.shape[0]
    first = reshape(b, cast(b, image, DType.I64), (count, 1, 1, 1, 1))
    rows = _channels_last(b, x)
    parts = []
    for choice in combinations(range(2), repeat=2):
        chosen = [along[axis].taps[k] for axis, k in enumerate(choice)]
        found = _read(m, rows, first, x.shape[2:], chosen)
        parts.append(m("mul", found, _weight(m, chosen, found.dtype)))
    combine = "add" if mode == "avg" else "max"
    total = m(combine, m(combine, parts[0], parts[1]), m(combine, parts[2], parts[3]))
    counted = m("and", along[0].counted, along[1].counted)
    counted = reshape(b, counted, (*counted.shape, 1))
    samples = reshape(b, m("mul", along[0].count, along[1].count), (count, 1, 1, 1))
    if mode == "avg":
        summed = b.one("select", [counted, total, call.scalar(0, total)])
        summed = b.one("reduce", [summed], kind="sum", axes=(3, 4), keepdims=False)
        result = m("div", summed, cast(b, m("max", samples, 1), summed.dtype))
    else:
        lowest = call.scalar(-np.inf, total)
        best = b.one("reduce", [b.one("select", [counted, total, lowest])], kind="max", axes=(3, 4), keepdims=False)
        result = b.one("select", [m("gt", samples, 0), best, call.scalar(0, best)])
    return cast(b, transpose(b, result, (0, 3, 1, 2)), x.dtype)


@dataclass(frozen=True)
class _Samples:
    """Samples along one axis: [R, bins, 1, samples, 1] for rows, [R, 1, bins, 1, samples] for columns. counted: those
    that a region has; count[R].
    """

    taps: tuple[_Tap, _Tap]
    counted: Value
    count: Value


def _samples(m: _Math, rois: Value, axis: int, bins: int, extent: Dim) -> _Samples:
    """Where the samples of all bins lie along an axis (0: height)."""
    b, call = m.b, m.call
    half = call.opset >= 16 and call.one_of(
        "coordinate_transformation_mode", "half_pixel", ["half_pixel", "output_half_pixel"]
    ) == "half_pixel"  # fmt: skip
    scale, offset = call.number("spatial_scale", 1.0), 0.5 if half else 0.0
    edges = [slice_axis(b, rois, 1, k, 1) for k in (1 - axis, 3 - axis)]
    start, end = (m("sub", m("mul", reshape(b, e, (e.shape[0],)), scale), offset) for e in edges)
    size = m("sub", end, start)
    if not half:
        size = m("max", size, 1.0)
    height = m("div", size, bins)
    ratio = call.integer("sampling_ratio", 0)
    number: Dim = ratio
    if ratio > 0:
        count = b.one("full", [], shape=start.shape, value=ratio, dtype=DType.I64)
    else:
        count = m("max", cast(b, b.one("ceil", [height]), DType.I64), 0)
        none = b.constant(np.zeros(1, np.int64))
        most = b.one("reduce", [b.one("concat", [count, none], axis=0)], kind="max", axes=(0,), keepdims=False)
        number = b.bind(most, "samples")
        b.require(_SAMPLES - number, f"a region has bins of more than {_SAMPLES} samples along an axis")
    along = (1, 2)[axis], (3, 4)[axis]

    def laid(v: Value, *places: int) -> Value:
        """A value with its axes at these places of five."""
        return reshape(b, v, tuple(v.shape[places.index(k)] if k in places else 1 for k in range(5)))

    start, height, each = (laid(v, 0) for v in (start, height, count))
    bin_at = laid(cast(b, positions(b, bins), start.dtype), along[0])
    inside = laid(positions(b, number), along[1])
    middle = m("mul", m("add", cast(b, inside, start.dtype), 0.5), height)
    part = m("div", middle, cast(b, m("max", each, 1), start.dtype))
    at = m("add", m("add", start, m("mul", bin_at, height)), part)
    return _Samples(_clamped_taps(m, at, extent), m("lt", inside, each), count)


def _clamped_taps(m: _Math, at: Value, extent: Dim) -> tuple[_Tap, _Tap]:
    """Neighbours of places, which are moved onto the border where they lie up to one element outside; farther out they
    weigh nothing.
    """
    real = m.number(extent, at.dtype)
    near = m("and", m("ge", at, -1.0), m("le", at, real))
    last = m("sub", m.b.known(extent), 1)
    whole = m.clamp(cast(m.b, at, DType.I64), 0, last)
    following = m("min", m("add", whole, 1), last)
    rest = m("sub", m("max", at, 0.0), cast(m.b, whole, at.dtype))
    rest = m.b.one("select", [m("ge", whole, last), m.call.scalar(0.0, rest), rest])
    rest = m.b.one("select", [near, rest, m.call.scalar(0.0, rest)])
    own = m.b.one("select", [near, m("sub", m.call.scalar(1.0, rest), rest), m.call.scalar(0.0, rest)])
    return _Tap(whole, own), _Tap(following, rest)


# -- MaxRoiPool --------------------------------------------------------------------------------------------------------


@row("MaxRoiPool")
def _max_roi_pool(call: NodeCall) -> Result:
    """The maximum of each bin of regions rois[R, 5] (image, x1, y1, x2, y2), whose edges are rounded to elements; 0 for
    bins without any. First along rows, then along columns.
    """
    b, x, rois = call.builder, call.input(0), call.input(1)
    m = _Math(call)
    bins = call.integers("pooled_shape") or []
    if x.rank != 4 or rois.rank != 2 or len(bins) != 2 or min(bins) < 1:
        raise call.wrong(f"rois {rois} of {x} in bins of pooled_shape {bins}")
    b.require(equality(rois.shape[1], 5), f"the rois have {rois.shape[1]} columns, not 5")
    count = rois.shape[0]
    columns = [reshape(b, slice_axis(b, rois, 1, k, 1), (count,)) for k in range(5)]
    image = cast(b, columns[0], DType.I64)
    check_inside(b, image, Allowed((0,), (x.shape[0],), "place", "batch index"), b.place("max_roi_pool"))
    best = b.one("gather", [x, image], axis=0)
    anything: Value | None = None
    for axis in (1, 0):  # columns first: x[R, C, H, W] -> [R, C, H, bins], -> [R, C, bins, bins]
        inside = _bins_hold(m, columns[2 - axis], columns[4 - axis], bins[axis], x.shape[2 + axis])
        shape = (count, 1, 1, *inside.shape[1:]) if axis == 1 else (count, 1, bins[0], 1, x.shape[2])
        source = best if axis == 1 else transpose(b, best, (0, 1, 3, 2))
        wide = reshape(
            b, source, (*source.shape[:2], *((source.shape[2], 1) if axis == 1 else (1, bins[1])), source.shape[3])
        )
        held = b.one("select", [reshape(b, inside, shape), wide, call.scalar(-np.inf, x)])
        best = b.one("reduce", [held], kind="max", axes=(4,), keepdims=False)
        some = b.one("reduce", [inside], kind="any", axes=(2,), keepdims=False)
        some = reshape(b, some, (count, 1, 1, bins[1]) if axis == 1 else (count, 1, bins[0], 1))
        anything = some if anything is None else m("and", anything, some)
    assert anything is not None
    return b.one("select", [anything, best, call.scalar(0, best)])


def _bins_hold(m: _Math, start: Value, end: Value, bins: int, extent: Dim) -> Value:
    """Whether each bin holds each place of an axis: [R, bins, extent]."""
    b = m.b
    scale, wide = m.call.number("spatial_scale", 1.0), DType.F32 if start.dtype.is_half else start.dtype
    count = start.shape[0]
    # half away from zero, as C rounds
    first, last = (b.one("floor", [m("add", m("mul", cast(b, v, wide), scale), 0.5)]) for v in (start, end))
    size = m("max", m("add", m("sub", last, first), 1.0), 1.0)
    each = reshape(b, m("div", size, bins), (count, 1))
    at = cast(b, positions(b, bins), wide)
    first = reshape(b, first, (count, 1))
    low = m("add", b.one("floor", [m("mul", at, each)]), first)
    high = m("add", b.one("ceil", [m("mul", m("add", at, 1.0), each)]), first)
    low, high = (reshape(b, v, (count, bins, 1)) for v in (low, high))
    place = cast(b, positions(b, extent), wide)
    return m("and", m("ge", place, low), m("lt", place, high))


# -- DeformConv --------------------------------------------------------------------------------------------------------


@row("DeformConv")
def _deform_conv(call: NodeCall) -> Result:
    """A convolution that reads each tap at its own offset from the window, linearly between elements and zeros outside,
    times a mask. Samples as columns first, then a matrix product a group.
    """
    b, x, w, offset = call.builder, call.input(0), call.input(1), call.input(2)
    m = _Math(call)
    rank, group, parts = x.rank - 2, call.integer("group", 1), call.integer("offset_group", 1)
    if rank < 1 or w.rank != x.rank or offset.rank != x.rank or group < 1 or parts < 1:
        raise call.wrong(f"{x}, weights {w} and offsets {offset} do not fit")
    window = window_of(call, x.shape[2:], w.shape[2:])
    taps, out, n = product(window.kernel), offset.shape[2:], x.shape[0]
    for axis in range(rank):
        pads = window.before[axis] + window.after[axis]
        expected = window_extent(
            x.shape[2 + axis], window.kernel[axis], window.strides[axis], window.dilations[axis], pads, 0
        )
        b.require(
            equality(expected, out[axis]), f"the offsets are for {out[axis]} windows along axis {axis}, not {expected}"
        )
    wide = compute_type(offset.dtype)
    moved = reshape(b, cast(b, offset, wide), (n, parts, *window.kernel, rank, *out))
    choices = []
    for axis in range(rank):
        part = reshape(b, slice_axis(b, moved, 2 + rank, axis, 1), (n, parts, *window.kernel, *out))
        places = positions(b, out[axis])
        at = m("sub", m("mul", places, window.strides[axis]), b.known(window.before[axis]))
        at = reshape(b, at, (*[1] * (2 + rank + axis), out[axis], *[1] * (rank - 1 - axis)))
        tap = m("mul", positions(b, window.kernel[axis]), window.dilations[axis])
        tap = reshape(b, tap, (*[1] * (2 + axis), window.kernel[axis], *[1] * (2 * rank - 1 - axis)))
        choices.append(_open_taps(m, m("add", cast(b, m("add", at, tap), wide), part), x.shape[2 + axis]))
    rows = _channels_last(b, x, parts)
    first = reshape(b, positions(b, n), (n, *[1] * (1 + 2 * rank)))
    total: Value | None = None
    for choice in combinations(range(2), repeat=rank):
        chosen = [choices[axis][k] for axis, k in enumerate(choice)]
        found = _read(m, rows, first, x.shape[2:], chosen, parts)
        found = m("mul", found, _weight(m, chosen, found.dtype))
        total = found if total is None else m("add", total, found)
    assert total is not None
    if call.has(4):
        mask = cast(b, call.input(4), total.dtype)
        total = m("mul", total, reshape(b, mask, (n, parts, *window.kernel, *out, 1)))
    return _product(call, cast(b, total, x.dtype), w, (n, parts, taps, out), group)


def _open_taps(m: _Math, at: Value, extent: Dim) -> tuple[_Tap, _Tap]:
    """Neighbours of places; those outside do not count."""
    below = m.b.one("floor", [at])
    rest = m("sub", at, below)
    last = m("sub", m.b.known(extent), 1)
    places = [cast(m.b, below, DType.I64)]
    places.append(m("add", m.clamp(places[0], -2, last), 1))
    held = [m.clamp(p, 0, last) for p in places]
    inside = [m("eq", p, q) for p, q in zip(places, held, strict=True)]
    own = m("sub", m.call.scalar(1.0, rest), rest)
    return _Tap(held[0], own, inside[0]), _Tap(held[1], rest, inside[1])


def _product(call: NodeCall, sampled: Value, w: Value, sizes: tuple[Dim, int, Dim, Sequence[Dim]], group: int) -> Value:
    """sampled[n, parts, window..., out..., channels / parts] times w[outputs, channels / group, window...]; a bias."""
    b = call.builder
    n, parts, taps, out = sizes
    each = sampled.shape[-1]
    channels, outputs = each * parts, w.shape[0]
    flat = reshape(b, sampled, (n, parts, taps, product(out), each))
    columns = transpose(b, flat, (0, 1, 4, 2, 3))  # [n, parts, channel, tap, place]
    columns = reshape(b, columns, (n, group, floordiv(channels, group) * taps, product(out)))
    weights = reshape(b, w, (group, floordiv(outputs, group), floordiv(channels, group) * taps))
    result = reshape(b, b.one("matmul", [weights, columns]), (n, outputs, *out))
    bias = call.optional(3)
    if bias is None:
        return result
    return b.one("add", [result, reshape(b, bias, (outputs, *[1] * len(out)))])
