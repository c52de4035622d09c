"""Rows that read or write at computed places: GridSample, Col2Im, MaxUnpool, TensorScatter, AffineGrid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mapsto.budget import current
from mapsto.importers.onnx.rows.windows import per_axis
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.bounds import Allowed
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, equality, floordiv, product
from mapsto.ir.graph import Value
from mapsto.ops.arranging import column, reshape, slice_axis
from mapsto.ops.bounds import check_inside
from mapsto.ops.builder import Builder
from mapsto.ops.sampling import grid_sample


@row("GridSample")
def _grid_sample(call: NodeCall) -> Result:
    modes = {"bilinear": "linear", "linear": "linear", "nearest": "nearest", "bicubic": "cubic", "cubic": "cubic"}
    mode = modes[call.one_of("mode", "linear", list(modes))]
    padding = call.one_of("padding_mode", "zeros", ["zeros", "border", "reflection"])
    x, grid = call.input(0), call.input(1)
    rank = x.rank - 2
    if rank < 1 or grid.rank != x.rank or grid.shape[-1] != rank:
        raise call.wrong(f"grid {grid} does not fit {x}")
    return grid_sample(call.builder, x, grid, mode, padding, bool(call.integer("align_corners", 0)))


@row("Col2Im")
def _col2im(call: NodeCall) -> Result:
    """Blocks added where they overlap: a transposed convolution with the unit matrix for weights, group by group, where
    the shapes are known.
    """
    b, x = call.builder, call.input(0)
    image, block = call.known_ints(1), call.known_ints(2)
    if x.rank != 3:
        raise call.wrong(f"{x} is not [batch, channels and block, places]")
    if image is None or block is None or not isinstance(x.shape[1], int):
        return _col2im_of_run(call)
    rank = len(image)
    strides, dilations = per_axis(call, "strides", rank, 1), per_axis(call, "dilations", rank, 1)
    pads = tuple(call.integers("pads") or (0,) * (2 * rank))
    size = math.prod(block)
    if min((*block, *strides, *dilations), default=1) < 1 or len(pads) != 2 * rank:
        raise call.wrong(f"blocks {block}, strides {strides}, dilations {dilations} and pads {pads} do not go together")
    channels = x.shape[1]
    if len(block) != rank or not isinstance(channels, int) or channels % size:
        raise call.wrong(f"blocks of {block} do not fit {x}")
    counts = [
        (i + pads[k] + pads[rank + k] - dilations[k] * (n - 1) - 1) // strides[k] + 1
        for k, (i, n) in enumerate(zip(image, block, strict=True))
    ]
    extra = tuple(
        i + pads[k] + pads[rank + k] - (counts[k] - 1) * strides[k] - dilations[k] * (n - 1) - 1
        for k, (i, n) in enumerate(zip(image, block, strict=True))
    )
    current().charge("folded_bytes", 8 * channels * size, f"the unit matrix of blocks {block}")
    unit = np.tile(np.eye(size).reshape(size, 1, *block), (channels // size, *[1] * (rank + 1)))
    return b.one(
        "conv_transpose", [reshape(b, x, (x.shape[0], channels, *counts)), b.constant(unit, "unit", x.dtype)],
        strides=strides, pads=pads, dilations=dilations, group=channels // size, output_padding=extra,
    )  # fmt: skip


def _col2im_of_run(call: NodeCall) -> Value:
    """Each element added to the place that it came from; what came from the padding, to one place more, which goes."""
    b, x = call.builder, call.input(0)
    image, block = call.dims(1, "image"), call.dims(2, "block")
    rank = len(image)
    if len(block) != rank:
        raise call.wrong(f"an image of {rank} axes and a block of {len(block)} do not fit each other")
    strides, dilations = per_axis(call, "strides", rank, 1), per_axis(call, "dilations", rank, 1)
    pads = tuple(call.integers("pads") or (0,) * (2 * rank))
    if x.rank != 3 or min((*strides, *dilations), default=1) < 1 or len(pads) != 2 * rank:
        raise call.wrong(f"{x}, strides {strides}, dilations {dilations} and pads {pads} do not go together")
    channels = floordiv(x.shape[1], product(block))
    counts = [
        (i + pads[k] + pads[rank + k] - dilations[k] * (n - 1) - 1) // strides[k] + 1
        for k, (i, n) in enumerate(zip(image, block, strict=True))
    ]
    for n, count in zip(block, counts, strict=True):
        call.require(n - 1, f"{call.port(2)} has an extent of {n}: it must be at least 1")
        call.require(count, "the image is smaller than a block")
    size = product(image)
    flat: Value | None = None
    inside: Value | None = None
    for k, extent in enumerate(image):
        steps = [b.one("iota", [], shape=(n,), start=0, step=by[k], dtype=DType.I64)
                 for n, by in ((block[k], dilations), (counts[k], strides))]  # fmt: skip
        laid = [column(b, v, axis, 2 * rank) for v, axis in zip(steps, (k, rank + k), strict=True)]
        place = b.one("sub", [b.one("add", laid), call.scalar(pads[k], steps[0])])
        fits = [b.one("ge", [place, call.scalar(0, place)]), b.one("lt", [place, b.known(extent)])]
        ok = b.one("and", fits)
        inside = ok if inside is None else b.one("and", [inside, ok])
        flat = place if flat is None else b.one("add", [b.one("mul", [flat, b.known(extent)]), place])
    assert flat is not None and inside is not None
    number = product((*block, *counts))
    rows = x.shape[0] * channels
    places = reshape(b, b.one("select", [inside, flat, b.known(size)]), (1, number))
    empty = b.one("full", [], shape=(rows, size + 1), value=0.0, dtype=x.dtype)
    operands = [empty, b.one("expand", [places], shape=(rows, number)), reshape(b, x, (rows, number))]
    total = b.one("scatter_elements", operands, axis=1, reduction="add")
    return reshape(b, slice_axis(b, total, 1, 0, size), (x.shape[0], channels, *image))


@row("MaxUnpool")
def _max_unpool(call: NodeCall) -> Result:
    """Values put back where the maxima were found, counted in the flattened input of the pooling; zeros elsewhere."""
    b, x, indices = call.builder, call.input(0), call.input(1)
    kernel = call.integers("kernel_shape") or []
    rank = x.rank - 2
    strides = per_axis(call, "strides", rank, 1)
    pads = call.integers("pads") or [0] * (2 * rank)
    if len(kernel) != rank or len(pads) != 2 * rank:
        raise call.wrong(f"kernel_shape {kernel} and pads {pads} do not fit {x}")
    inner = [(x.shape[2 + k] - 1) * strides[k] - pads[k] - pads[rank + k] + kernel[k] for k in range(rank)]
    pooled: tuple[Dim, ...] = (*x.shape[:2], *inner)
    shape = tuple(call.dims(2, "size")) if call.has(2) else pooled
    if len(shape) != x.rank:
        raise call.wrong(f"{call.port(2)} has {len(shape)} sizes for {x}")
    check_inside(b, indices, Allowed((0,), (product(pooled),), "place"), b.place("max_unpool"))
    if shape != pooled:
        indices = _moved(b, indices, pooled, shape)
    flat = b.one("full", [], shape=(product(shape),), value=0.0, dtype=x.dtype)
    rows = reshape(b, indices, (product(x.shape),))
    values = reshape(b, x, (product(x.shape),))
    return reshape(b, b.one("scatter_elements", [flat, rows, values], axis=0, reduction="none"), shape)


def _moved(b: Builder, indices: Value, old: Sequence[Dim], new: Sequence[Dim]) -> Value:
    """Places in one flattened shape as places in another that is at least as large along each axis."""
    rest = indices
    result: Value | None = None
    stride: Dim = 1
    for k in range(len(old) - 1, -1, -1):
        extent = b.known(old[k])
        at = b.one("mod", [rest, extent], fmod=False)
        rest = b.one("div", [rest, extent])
        part = b.one("mul", [at, b.known(stride)])
        result = part if result is None else b.one("add", [result, part])
        stride = stride * new[k]
    assert result is not None
    return result


@row("TensorScatter")
def _tensor_scatter(call: NodeCall) -> Result:
    """A cache with an update written from each batch entry's place on, turning round at the end if it is circular."""
    b, cache, update = call.builder, call.input(0), call.input(1)
    axis = call.axis(cache.rank, -2)
    if cache.rank < 2 or update.rank != cache.rank:
        raise call.wrong(f"{update} is no update of {cache}, along axis {axis}")
    circular = call.one_of("mode", "linear", ["linear", "circular"]) == "circular"
    steps = b.one("iota", [], shape=(update.shape[axis],), start=0, step=1, dtype=DType.I64)
    places = column(b, steps, axis, cache.rank)
    if call.has(2):
        starts = b.one("cast", [call.input(2)], to=DType.I64)
        places = b.one("add", [places, column(b, starts, 0, cache.rank)])
    if circular:
        places = b.one("mod", [places, b.known(cache.shape[axis])], fmod=False)
    index = b.one("expand", [places], shape=update.shape)
    return b.one("scatter_elements", [cache, index, update], axis=axis, reduction="none")


@row("AffineGrid")
def _affine_grid(call: NodeCall) -> Result:
    """theta[N, rank, rank+1] times each place of the output, counted -1..1 along each axis, the last axis first."""
    b, theta = call.builder, call.input(0)
    size = call.dims(1, "size")
    space, aligned = size[2:], bool(call.integer("align_corners", 0))
    if len(space) not in (2, 3) or theta.rank != 3:
        raise call.wrong(f"a size of {len(size)} axes does not fit {theta}")
    call.require(equality(size[0], theta.shape[0]), f"{call.port(1)} says {size[0]} of what {theta} has")
    columns: list[Value] = []
    for k, extent in reversed(list(enumerate(space))):
        steps = b.one("iota", [], shape=(extent,), start=0, step=1, dtype=theta.dtype)
        count = b.one("cast", [b.known(extent)], to=theta.dtype)
        two, one = call.scalar(2, theta), call.scalar(1, theta)
        span = b.one("max", [b.one("sub", [count, one]), one]) if aligned else count
        shifted = steps if aligned else b.one("add", [steps, call.scalar(0.5, theta)])
        axis = b.one("sub", [b.one("div", [b.one("mul", [shifted, two]), span]), one])
        wide = b.one("expand", [column(b, axis, k, len(space))], shape=tuple(space))
        columns.append(reshape(b, wide, (product(space), 1)))
    columns.append(b.one("full", [], shape=(product(space), 1), value=1.0, dtype=theta.dtype))
    base = b.one("concat", columns, axis=1)
    grid = b.one("matmul", [base, b.one("transpose", [theta], perm=(0, 2, 1))])
    return reshape(b, grid, (theta.shape[0], *space, len(space)))
