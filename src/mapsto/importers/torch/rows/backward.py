"""Rows of the operators that torch's own rules of differentiation are made of, where torch does not take them apart:
convolutions, pools, resampling, attention.
"""

from __future__ import annotations

import numpy as np

from mapsto.importers.torch.rows.attention import causal_mask, grouped, masked
from mapsto.importers.torch.rows.embedding import bag_numbers
from mapsto.importers.torch.rows.pooling import adaptive_bounds, window
from mapsto.importers.torch.table import AtenCall, aten
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr, product
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.arranging import reshape, unsqueeze
from mapsto.ops.derivatives import along
from mapsto.ops.registry import op
from mapsto.ops.resize import axis_matrix
from mapsto.ops.window import chosen_in_windows, spread_over_windows, windows_are_apart

# -- convolutions ------------------------------------------------------------------------------------------------------


@aten("convolution_backward")
def _convolution(call: AtenCall) -> list[Value | None]:
    g, x, w = call.value("grad_output"), call.value("input"), call.value("weight")
    rank = w.rank - 2
    pads = call.integers("padding", rank)
    attrs: dict[str, object] = {
        "strides": call.integers("stride", rank),
        "dilations": call.integers("dilation", rank),
        "pads": (*pads, *pads),
        "group": call.integer("groups"),
    }
    wanted = call.given["output_mask"]
    dx, dw = _transposed(call, g, x, w, attrs) if call.flag("transposed") else _plain(call, g, x, w, attrs)
    db = composite.reduce(call.builder, g, "sum", (0, *range(2, g.rank)), keepdims=False) if wanted[2] else None
    return [dx if wanted[0] else None, dw if wanted[1] else None, db]


def _plain(call: AtenCall, g: Value, x: Value, w: Value, attrs: dict[str, object]) -> list[Value | None]:
    """By the gradient of our own op: the node that it asks for is read by nobody, and goes."""
    return _by_rule(call, call.one("conv", [x, w], **attrs), g)[:2]


def _transposed(call: AtenCall, g: Value, x: Value, w: Value, attrs: dict[str, object]) -> list[Value | None]:
    more = call.integers("output_padding", x.rank - 2)
    return _by_rule(call, call.one("conv_transpose", [x, w], **attrs, output_padding=more), g)[:2]


def _by_rule(call: AtenCall, y: Value, g: Value) -> list[Value | None]:
    """What the gradient rule of the op that made y gives."""
    node = call.builder.producer(y)
    assert node is not None
    rule = op(node.op).gradient
    assert rule is not None
    return rule(call.builder, node, [reshape(call.builder, g, y.shape)])


# -- pools -------------------------------------------------------------------------------------------------------------


@aten("max_pool2d_with_indices_backward", "max_pool3d_with_indices_backward")
def _max_pool(call: AtenCall) -> Value:
    """Each gradient is added where its maximum stood."""
    b, rank = call.builder, int(call.name[8])
    g, at, x = call.value("grad_output"), call.value("indices"), call.value("self")
    kernel, lead = call.integers("kernel_size", rank), x.rank - rank
    strides = call.integers("stride", rank) or kernel
    attrs = {
        "kernel": kernel, "strides": strides, "pads": call.integers("padding", rank),
        "dilations": call.integers("dilation", rank),
    }  # fmt: skip
    if not windows_are_apart(attrs, (1, 1, *x.shape[lead:]), (1, 1, *g.shape[lead:])):
        return spread(call, g, at, x, rank)
    return chosen_in_windows(b, g, call.cast(at, DType.I64), x.shape, kernel)


@aten("adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward")
def _adaptive_max_pool(call: AtenCall) -> Value:
    return spread(call, call.value("grad_output"), call.value("indices"), call.value("self"), int(call.name[17]))


def spread(call: AtenCall, g: Value, at: Value, x: Value, rank: int) -> Value:
    b, space = call.builder, x.shape[x.rank - rank :]
    lead = product(x.shape[: x.rank - rank])
    zeros = call.one("full", [], shape=(lead, product(space)), value=0.0, dtype=g.dtype)
    rows = [reshape(b, v, (lead, product(g.shape[g.rank - rank :]))) for v in (at, g)]
    return reshape(b, call.one("scatter_elements", [zeros, *rows], axis=1, reduction="add"), x.shape)


@aten("avg_pool2d_backward", "avg_pool3d_backward")
def _avg_pool(call: AtenCall) -> Value:
    """Each gradient, divided by what its window counts, over all places of the window: a transposed convolution."""
    b, rank, x, g = call.builder, int(call.name[8]), call.value("self"), call.value("grad_output")
    lead, space = product(x.shape[: x.rank - rank]), x.shape[x.rank - rank :]
    flat = reshape(b, x, (lead, 1, *space))
    rows = reshape(b, g, (lead, 1, *g.shape[g.rank - rank :]))
    attrs, extra = window(call, flat, rank)
    if call.given.get("divisor_override") is not None:
        share = call.one("div", [rows, call.scalar(call.integer("divisor_override"), g.dtype)])
        return reshape(b, spread_over_windows(b, share, flat.shape, attrs), x.shape)
    y = call.one("avg_pool", [flat], count_include_pad=call.flag("count_include_pad"), ceil_pads=extra, **attrs)
    (made,) = _by_rule(call, y, rows)
    assert made is not None
    return reshape(b, made, x.shape)


@aten("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward")
def _adaptive(call: AtenCall) -> Value:
    rank, x, g = int(call.name[-11]), call.value("self"), call.value("grad_output")
    extents, sizes = x.shape[x.rank - rank :], g.shape[g.rank - rank :]
    if all(m == 1 for m in sizes):
        count = call.scalar(product(extents), g.dtype)
        return call.one("expand", [call.one("div", [g, count])], shape=x.shape)
    for k, (n, m) in enumerate(zip(extents, sizes, strict=True)):
        table = np.zeros((_fixed(call, m), _fixed(call, n)), np.float64)
        for i, (first, last) in enumerate(adaptive_bounds(_fixed(call, n), _fixed(call, m))):
            table[i, first:last] = 1 / (last - first)
        g = along(call.builder, g, x.rank - rank + k, table)
    return g


def _fixed(call: AtenCall, extent: Dim) -> int:
    if isinstance(extent, Expr):
        raise call.unsupported(f"an open extent {extent} is not supported in this backward pass; fix it")
    return int(extent)


# -- resampling --------------------------------------------------------------------------------------------------------

_MODES = {"nearest": ("nearest", "asymmetric", "floor"), "exact": ("nearest", "half_pixel", "round_prefer_ceil")}


@aten("upsample_nearest1d_backward", "upsample_nearest2d_backward", "upsample_nearest3d_backward")
@aten("_upsample_nearest_exact1d_backward", "_upsample_nearest_exact2d_backward", "_upsample_nearest_exact3d_backward")
@aten("upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_trilinear3d_backward")
@aten("upsample_bicubic2d_backward", "_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward")
def _resized(call: AtenCall) -> Value:
    """Resampling is a matrix along each axis: the gradient goes through its transpose."""
    g = call.value("grad_output")
    rank = len(call.given["output_size"])
    named = [a.name for a in call.target._schema.arguments if a.name.startswith("scales")]
    scales = [None if call.given[n] is None else call.number(n) for n in named] or [None] * rank
    attrs = _attrs(call)
    extents = call.shape[-rank:]
    for k, (n, scale) in enumerate(zip(extents, scales, strict=True)):
        axis = g.rank - rank + k
        extent, size = _fixed(call, n), _fixed(call, g.shape[axis])
        scale = None if attrs["coordinate_mode"] == "align_corners" else scale
        if extent == size and scale in (None, 1.0):
            continue
        table = axis_matrix(attrs, extent, size, scale)
        g = along(call.builder, g, axis, table)
    return g


def _attrs(call: AtenCall) -> dict[str, object]:
    name = call.name
    if "nearest" in name:
        mode, coordinates, nearest = _MODES["exact" if "exact" in name else "nearest"]
    else:
        mode, nearest = ("cubic" if "bicubic" in name else "linear"), "floor"
        coordinates = "align_corners" if call.flag("align_corners") else "half_pixel"
    return {
        "mode": mode, "coordinate_mode": coordinates, "nearest_mode": nearest,
        "cubic_coeff_a": -0.5 if "_aa_" in name else -0.75, "exclude_outside": "_aa_" in name,
        "antialias": "_aa_" in name,
    }  # fmt: skip


# -- attention ---------------------------------------------------------------------------------------------------------


@aten("_scaled_dot_product_flash_attention_for_cpu_backward")
def _attention(call: AtenCall) -> list[Value]:
    """P = e^(scores - level); dV = P^T g; dS = P (g V^T - sum g y); dQ = dS K scale; dK = dS^T Q scale; of several
    heads of queries for one of keys the gradients add up.
    """
    b = call.builder
    own = [call.value(n) for n in ("query", "key", "value")]
    q, k, v, shape = grouped(call, *own)
    g, y = (reshape(b, call.value(n), q.shape) for n in ("grad_out", "out"))
    level = reshape(b, call.cast(call.value("logsumexp"), q.dtype), (*q.shape[:-1], 1))
    width = _fixed(call, q.shape[-1])
    scale = call.scalar(call.given["scale"] if call.has("scale") else width**-0.5, q.dtype)
    scores = call.one("mul", [call.one("matmul", [q, composite.transpose_last(b, k)]), scale])
    mask = call.optional("attn_mask")
    if call.flag("is_causal"):
        mask = causal_mask(call, scores.shape[-2], scores.shape[-1])
    if mask is not None:
        scores = masked(call, scores, mask, shape)
    shares = call.one("exp", [call.one("sub", [scores, level])])
    if mask is not None and mask.dtype is DType.BOOL:  # also of rows that see nothing, whose level is infinite
        shares = call.one("select", [call.one("isnan", [shares]), call.scalar(0.0, shares.dtype), shares])
    dv = call.one("matmul", [composite.transpose_last(b, shares), g])
    inner = composite.reduce(b, call.one("mul", [g, y]), "sum", [g.rank - 1])
    gap = call.one("sub", [call.one("matmul", [g, composite.transpose_last(b, v)]), inner])
    ds = call.one("mul", [call.one("mul", [shares, gap]), scale])
    found = [call.one("matmul", [ds, k]), call.one("matmul", [composite.transpose_last(b, ds), q]), dv]
    if q.rank > len(shape):
        found[1:] = [composite.reduce(b, d, "sum", [d.rank - 3]) for d in found[1:]]
    return [reshape(b, d, o.shape) for d, o in zip(found, own, strict=True)]


# -- others ------------------------------------------------------------------------------------------------------------


@aten("hardshrink_backward", "softshrink_backward")
def _shrink(call: AtenCall) -> Value:
    g = call.value("grad_out" if call.name.startswith("hard") else "grad_output")
    x = call.value("self")
    outside = call.one("gt", [call.one("abs", [x]), call.scalar(call.number("lambd"), x.dtype)])
    return call.one("select", [outside, g, call.scalar(0.0, g.dtype)])


@aten("value_selecting_reduction_backward")
def _selected(call: AtenCall) -> Value:
    """Each gradient goes to the element that was selected."""
    b, g, at = call.builder, call.value("grad"), call.value("indices")
    shape = call.shape
    if not shape:
        return g
    axis = call.integer("dim") % len(shape)
    if not call.flag("keepdim"):
        g, at = (unsqueeze(b, v, [axis]) for v in (g, at))
    zeros = call.one("full", [], shape=shape, value=0.0, dtype=g.dtype)
    return call.one("scatter_elements", [zeros, at, g], axis=axis, reduction="add")


@aten("reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward")
@aten("replication_pad1d_backward", "replication_pad2d_backward", "replication_pad3d_backward")
def _padded(call: AtenCall) -> Value:
    """Padding repeats elements: along each axis their gradients are summed, by a matrix."""
    g, x, widths = call.value("grad_output"), call.value("self"), call.integers("padding")
    rank = len(widths) // 2
    mode = "reflect" if call.name.startswith("reflection") else "edge"
    for k in range(rank):
        axis = x.rank - 1 - k
        n = _fixed(call, x.shape[axis])
        low, high = widths[2 * k], widths[2 * k + 1]
        places = np.pad(np.arange(n), (max(low, 0), max(high, 0)), mode=mode)  # type: ignore[call-overload]
        places = places[max(-low, 0) : len(places) - max(-high, 0)]
        g = along(call.builder, g, axis, np.eye(n)[places])
    return g


@aten("_embedding_bag_backward")
def _embedding_bag(call: AtenCall) -> Value:
    """Each index adds its bag's gradient to its row."""
    b, g, at = call.builder, call.value("grad"), call.value("indices")
    mode = call.integer("mode")
    if mode == 2 or call.flag("scale_grad_by_freq") or call.flag("sparse") or call.number("padding_idx", -1) != -1:
        raise call.unsupported("gradients of bags are supported as sums and means, dense, without a padding index")
    bag = call.cast(call.value("offset2bag"), DType.I64)
    if bag.shape[0] == 0:  # torch's own fast way leaves it out
        bag = bag_numbers(call, at, call.value("offsets"), g.shape[0])
    rows = call.one("gather", [g, bag], axis=0)
    if mode == 1:
        count = call.one("gather", [call.cast(call.value("bag_size"), g.dtype), bag], axis=0)
        rows = call.one("div", [rows, reshape(b, count, (count.shape[0], 1))])
    if call.has("per_sample_weights"):
        weights = call.value("per_sample_weights")
        rows = call.one("mul", [rows, reshape(b, weights, (weights.shape[0], 1))])
    zeros = call.one("full", [], shape=(call.dim("num_weights"), g.shape[1]), value=0.0, dtype=g.dtype)
    return call.one("scatter_nd", [zeros, unsqueeze(b, at, [1]), rows], reduction="add")
