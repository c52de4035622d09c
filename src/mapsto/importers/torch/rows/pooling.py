"""Rows of pooling: over windows, and to a number of places (adaptive)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mapsto.importers.torch.rows.contraction import batched
from mapsto.importers.torch.table import AtenCall, aten
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr, ceildiv, floordiv, mod, product
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.arranging import reshape, slice_axis, unsqueeze
from mapsto.ops.window import rounded_up

_RANKS = {f"{kind}_pool{n}d": n for kind in ("max", "avg") for n in (1, 2, 3)}


def window(call: AtenCall, x: Value, rank: int) -> tuple[dict[str, object], tuple[Dim, ...]]:
    """Attributes of our op for [N, C, space...], and how much of each end pad is only there for a ceil_mode."""
    kernel = call.integers("kernel_size", rank)
    strides = call.integers("stride", rank) or kernel
    dilations = call.integers("dilation", rank) or (1,) * rank
    pads = call.integers("padding", rank) or (0,) * rank
    extra: tuple[Dim, ...] = (0,) * rank
    if call.flag("ceil_mode"):
        extra = tuple(
            rounded_up(call.builder, d, p, p, s, (k - 1) * e + 1)
            for d, p, s, k, e in zip(x.shape[2:], pads, strides, kernel, dilations, strict=True)
        )
    ends = tuple(p + e for p, e in zip(pads, extra, strict=True))
    return {"kernel": kernel, "strides": strides, "pads": (*pads, *ends), "dilations": dilations}, extra


@aten("max_pool1d", "max_pool2d", "max_pool3d")
def _max_pool(call: AtenCall) -> Value:
    rank = _RANKS[call.name]
    return batched(call, call.value(), rank, lambda x: call.one("max_pool", [x], **window(call, x, rank)[0]))


@aten("max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d_with_indices")
def _max_pool_indices(call: AtenCall) -> list[Value]:
    rank = int(call.name[8])
    best = batched(call, call.value(), rank, lambda x: call.one("max_pool", [x], **window(call, x, rank)[0]))
    if not call.wants(1):
        return [best, call.one("full", [], shape=best.shape, value=0, dtype=DType.I64)]

    def places(x: Value) -> Value:
        return call.one("max_pool_indices", [x], **window(call, x, rank)[0], of_space=True)

    return [best, batched(call, call.value(), rank, places)]


@aten("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(call: AtenCall) -> Value:
    rank = _RANKS[call.name]

    def step(x: Value) -> Value:
        attrs, extra = window(call, x, rank)
        include = call.flag("count_include_pad", True)
        divisor = call.given.get("divisor_override")
        if divisor is None:
            return call.one("avg_pool", [x], count_include_pad=include, ceil_pads=extra, **attrs)
        total = call.one("avg_pool", [x], count_include_pad=True, ceil_pads=(0,) * rank, **attrs)
        kernel: tuple[int, ...] = attrs["kernel"]  # type: ignore[assignment]
        return call.one("mul", [total, call.scalar(math.prod(kernel) / call.integer("divisor_override"), total.dtype)])

    return batched(call, call.value(), rank, step)


# -- to a number of places ---------------------------------------------------------------------------------------------


@aten("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
@aten("_adaptive_avg_pool2d", "_adaptive_avg_pool3d")
def _adaptive_avg(call: AtenCall) -> Value:
    rank = int(call.name[-2])
    return batched(call, call.value(), rank, lambda x: _adapted(call, x, call.dims("output_size"), "mean"))


@aten("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_max(call: AtenCall) -> list[Value]:
    rank = int(call.name[-2])
    if call.wants(1):
        return _adaptive_places(call, call.value(), rank)
    found = batched(call, call.value(), rank, lambda x: _adapted(call, x, call.dims("output_size"), "max"))
    return [found, call.one("full", [], shape=found.shape, value=0, dtype=DType.I64)]


def _adaptive_places(call: AtenCall, x: Value, rank: int) -> list[Value]:
    """Maxima and their places, by a table of the places in each window; shorter windows repeat their first one."""
    b, space = call.builder, x.shape[x.rank - rank :]
    if any(isinstance(d, Expr) for d in space):
        raise call.unsupported(f"places of maxima over an open space {list(space)} are not supported; fix it")
    extents = [int(d) for d in space if isinstance(d, int)]
    sizes = call.integers("output_size", rank)
    flat = np.arange(math.prod(extents)).reshape(extents)
    windows = []
    for at in np.ndindex(*sizes):
        bounds = [adaptive_bounds(n, m)[i] for n, m, i in zip(extents, sizes, at, strict=True)]
        windows.append(flat[tuple(slice(first, last) for first, last in bounds)].reshape(-1))
    widest = max((len(w) for w in windows), default=1)
    table = np.stack([np.concatenate([w, np.repeat(w[:1], widest - len(w))]) for w in windows]).astype(np.int64)
    lead = x.shape[: x.rank - rank]
    rows = reshape(b, x, (product(lead), len(flat.reshape(-1))))
    spread = call.one("gather", [rows, b.constant(table, "windows")], axis=1)
    best = composite.reduce(b, spread, "max", [2], keepdims=False)
    first = call.one("argmax", [spread], axis=2, keepdims=False, select_last=False)
    start = b.constant(np.arange(len(table), dtype=np.int64) * widest, "starts")
    places = call.one("gather", [b.constant(table.reshape(-1), "windows"), call.one("add", [first, start])], axis=0)
    return [reshape(b, v, (*lead, *sizes)) for v in (best, places)]


def _adapted(call: AtenCall, x: Value, sizes: Sequence[Dim], kind: str) -> Value:
    """Windows from floor(i n / m) to ceil((i + 1) n / m): one window over all, a pool where m divides n, else axis by
    axis, each window cut out.
    """
    space = x.shape[2:]
    if all(m == 1 for m in sizes):
        return composite.reduce(call.builder, x, kind, range(2, x.rank))
    if all(isinstance(m, int) and m and mod(n, m) == 0 for n, m in zip(space, sizes, strict=True)):
        kernel = tuple(floordiv(n, m) for n, m in zip(space, sizes, strict=True))
        if not any(isinstance(k, Expr) for k in kernel):
            rank = len(sizes)
            attrs = {"kernel": kernel, "strides": kernel, "pads": (0,) * (2 * rank), "dilations": (1,) * rank}
            if kind == "max":
                return call.one("max_pool", [x], **attrs)
            return call.one("avg_pool", [x], count_include_pad=True, ceil_pads=(0,) * rank, **attrs)
    for axis, m in enumerate(sizes, 2):
        x = _along(call, x, axis, m, kind)
    return x


def adaptive_bounds(n: int, m: int) -> list[tuple[int, int]]:
    """The first element of each of m windows, and the one behind its last."""
    return [(n * i // m, -(-n * (i + 1) // m)) for i in range(m)]


def _along(call: AtenCall, x: Value, axis: int, m: Dim, kind: str) -> Value:
    n = x.shape[axis]
    if m == n:
        return x
    if not isinstance(m, int):
        raise call.unsupported(f"an open number of places, {m}, is not supported; fix it")
    if isinstance(n, int) and m > 64 and n % m == 0:
        split = reshape(call.builder, x, (*x.shape[:axis], m, n // m, *x.shape[axis + 1 :]))
        return composite.reduce(call.builder, split, kind, [axis + 1], keepdims=False)
    parts = []
    for i in range(m):
        first, last = floordiv(n * i, m), ceildiv(n * (i + 1), m)
        parts.append(
            composite.reduce(call.builder, slice_axis(call.builder, x, axis, first, last - first), kind, [axis])
        )
    return parts[0] if m == 1 else call.one("concat", parts, axis=axis)


@aten("max_unpool2d", "max_unpool3d")
def _max_unpool(call: AtenCall) -> Value:
    """Zeros, with each element at the place in its channel's space that its index says."""
    b, x, at = call.builder, call.value(), call.value("indices")
    shape, rank = call.shape, int(call.name[-2])
    lead, space = product(shape[: len(shape) - rank]), product(shape[len(shape) - rank :])
    zeros = call.one("full", [], shape=(lead, space), value=0.0, dtype=x.dtype)
    rows = [reshape(b, v, (lead, product(v.shape[v.rank - rank :]))) for v in (at, x)]
    return reshape(b, call.one("scatter_elements", [zeros, *rows], axis=1, reduction="none"), shape)


@aten("im2col")
def _im2col(call: AtenCall) -> Value:
    """Windows as columns: [N, C * window, places]. Each tap of the window is a strided slice of the padded input."""
    b, x = call.builder, call.value("self")
    x = unsqueeze(b, x, [0]) if call.value("self").rank == 3 else x
    kernel, dilation, padding, stride = (call.integers(n, 2) for n in ("kernel_size", "dilation", "padding", "stride"))
    pads = (0, 0, *padding)
    x = call.one("pad", [x], before=pads, after=pads, mode="constant", value=0.0) if any(padding) else x
    out = [floordiv(x.shape[2 + k] - dilation[k] * (kernel[k] - 1) - 1, stride[k]) + 1 for k in range(2)]
    taps = [
        unsqueeze(b, call.one(
            "slice", [x], starts=(0, 0, i * dilation[0], j * dilation[1]), steps=(1, 1, *stride),
            shape=(*x.shape[:2], *out),
        ), [2])
        for i in range(kernel[0]) for j in range(kernel[1])
    ]  # fmt: skip
    whole = taps[0] if len(taps) == 1 else call.one("concat", taps, axis=2)
    return reshape(b, whole, call.shape)
