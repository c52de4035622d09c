"""Ops that onnx.reference computes otherwise than the standard says, or less exactly: by numpy, in f64."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.differential.form import Form

Feed = Mapping[str, Any]


def _erf(form: Form, feed: Feed) -> list[Any]:
    """The reference's goes through f32."""
    x = feed["x"]
    wide = np.vectorize(math.erf, otypes=[np.float64])(x.astype(np.float64))
    return [wide.astype(x.dtype)]


def _gelu(form: Form, feed: Feed) -> list[Any]:
    """x/2 (1 + erf(x/sqrt 2)) by erf in f64; tanh(sqrt(2/pi) (x + 0.044715 x^3)) in its place."""
    x = feed["x"].astype(np.float64)
    with np.errstate(all="ignore"):
        if form.attributes.get("approximate") == "tanh":
            found = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
        else:
            found = np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2))
        return [(0.5 * x * (1 + found)).astype(feed["x"].dtype)]


def _lp_normalization(form: Form, feed: Feed) -> list[Any]:
    """The reference's L1 norm is of the elements, not of their magnitudes."""
    x, p = feed["x"].astype(np.float64), form.attributes.get("p", 2)
    norm = (np.abs(x) ** p).sum(form.attributes.get("axis", -1), keepdims=True) ** (1 / p)
    return [np.where(norm == 0, 0, x / np.where(norm == 0, 1, norm)).astype(feed["x"].dtype)]


def _lrn(form: Form, feed: Feed) -> list[Any]:
    """The reference looks at as many channels as there are samples."""
    x, size = feed["x"].astype(np.float64), form.attributes["size"]
    first, last = (size - 1) // 2, size - 1 - (size - 1) // 2
    squares = np.zeros_like(x)
    for c in range(x.shape[1]):
        squares[:, c] = (x[:, max(0, c - first) : c + last + 1] ** 2).sum(1)
    a = {name: float(np.float32(form.attributes[name])) for name in ("alpha", "beta", "bias")}
    return [(x / (a["bias"] + a["alpha"] / size * squares) ** a["beta"]).astype(feed["x"].dtype)]


def _one_hot(form: Form, feed: Feed) -> list[Any]:
    """The reference's adds and multiplies the two values, which rounds."""
    depth = int(np.asarray(feed["depth"]).reshape(-1)[0])
    off, on = feed["v"]
    index = feed["i"]
    places = np.arange(depth)
    hot = np.mod(index, depth)[..., None] == places
    inside = (index >= -depth) & (index < depth)
    found = np.where(hot & inside[..., None], on, off).astype(feed["v"].dtype)
    return [np.moveaxis(found, -1, form.attributes.get("axis", -1))]


def _sum_of_squares(form: Form, feed: Feed) -> list[Any]:
    """The reference's widens unsigned integers."""
    x, axes = feed["x"], feed.get("axes", form.attributes.get("axes"))
    axes = None if axes is None else tuple(int(a) for a in axes)
    if not axes:
        if form.attributes.get("noop_with_empty_axes", 0):
            return [x * x]  # "if axes is empty, applies as in element-wise"
        axes = None
    wide = x.astype(np.float64) if x.dtype.kind not in "iu" else x
    with np.errstate(all="ignore"):
        found = (wide * wide).sum(axis=axes, keepdims=bool(form.attributes.get("keepdims", 1)), dtype=wide.dtype)
    return [np.asarray(found).astype(x.dtype)]


def _hard_swish(form: Form, feed: Feed) -> list[Any]:
    """The reference's alpha is an attribute, 1/6 in f32."""
    x = feed["x"].astype(np.float64)
    with np.errstate(all="ignore"):
        return [(x * np.clip(x / 6 + 0.5, 0, 1)).astype(feed["x"].dtype)]


def _global_max_pool(form: Form, feed: Feed) -> list[Any]:
    """The reference loses axes."""
    x = feed["x"]
    return [x.max(axis=tuple(range(2, x.ndim)), keepdims=True)]


def _max_pool(form: Form, feed: Feed) -> list[Any]:
    """The reference loses the pads of a single axis; ONNX Runtime has a window where none fits."""
    x, a = feed["x"], form.attributes
    extents, kernel = x.shape[2:], tuple(a["kernel_shape"])
    windows = [
        _windows(n, k, a.get("strides", [1] * len(kernel))[i], a.get("dilations", [1] * len(kernel))[i], i, a)
        for i, (n, k) in enumerate(zip(extents, kernel, strict=True))
    ]
    flat = x.reshape(*x.shape[:2], math.prod(extents))
    order = np.arange(math.prod(extents)).reshape(extents[::-1] if a.get("storage_order", 0) else extents)
    places = (order.T if a.get("storage_order", 0) else order).reshape(-1)
    shape = (*x.shape[:2], *(len(w) for w in windows))
    found, indices = np.zeros(shape, x.dtype), np.zeros(shape, np.int64)
    first = np.arange(math.prod(x.shape[:2])).reshape(x.shape[:2]) * math.prod(extents)
    for at in np.ndindex(*shape[2:]):
        inside = np.ravel_multi_index(np.ix_(*(w[i] for w, i in zip(windows, at, strict=True))), extents).reshape(-1)
        if inside.size:
            best = flat[:, :, inside].argmax(axis=2)
            found[(..., *at)] = np.take_along_axis(flat[:, :, inside], best[..., None], 2)[..., 0]
            indices[(..., *at)] = first + places[inside[best]]
    return [found, indices][: len(form.results)]


def _windows(n: int, k: int, stride: int, dilation: int, axis: int, a: Any) -> list[np.ndarray]:
    """The places of an axis that each window has, by the standard's formulas."""
    extent = (k - 1) * dilation + 1
    kind = a.get("auto_pad", "NOTSET")
    if kind.startswith("SAME"):
        count = -(-n // stride)
        total = max((count - 1) * stride + extent - n, 0)
        before = total // 2 if kind == "SAME_UPPER" else total - total // 2
    else:
        rank = len(a["kernel_shape"])
        pads = a.get("pads", [0] * 2 * rank) if kind == "NOTSET" else [0] * 2 * rank
        before, after = pads[axis], pads[axis + rank]
        left = n + before + after - extent
        count = -(-left // stride) + 1 if a.get("ceil_mode", 0) else left // stride + 1
        if a.get("ceil_mode", 0) and (count - 1) * stride >= n + before:
            count -= 1  # a window that would begin in the border after the end
    places = [np.arange(k) * dilation + at * stride - before for at in range(max(count, 0))]
    return [p[(p >= 0) & (p < n)] for p in places]


def _shrink(form: Form, feed: Feed) -> list[Any]:
    """Integers exactly: the bias, a float, is added to them, and the sum cut towards zero."""
    x = feed["x"]
    bias, bound = (float(np.float32(form.attributes.get(n, default))) for n, default in (("bias", 0.0), ("lambd", 0.5)))
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        moved = np.where(wide < -bound, wide + bias, np.where(wide > bound, wide - bias, 0))
        return [moved.astype(x.dtype)]


def _prelu(form: Form, feed: Feed) -> list[Any]:
    """The reference multiplies the slope by 0 where x is above it, which is NaN of an infinite one."""
    a, b = np.broadcast_arrays(feed["a"], feed["b"])
    with np.errstate(all="ignore"):
        return [np.where(a < 0, a * b, a).astype(a.dtype)]


def _group_normalization(form: Form, feed: Feed) -> list[Any]:
    """In f64: the function of the standard takes the variance for a difference of two means in f32."""
    x, groups = feed["x"], form.attributes["num_groups"]
    wide = x.astype(np.float64).reshape(x.shape[0], groups, -1)
    centred = wide - wide.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + float(np.float32(form.attributes["epsilon"])))
    scale, bias = (feed[n].astype(np.float64).reshape(-1, *[1] * (x.ndim - 2)) for n in ("s", "b"))
    return [((centred / deviation).reshape(x.shape) * scale + bias).astype(x.dtype)]


def _hardmax(form: Form, feed: Feed) -> list[Any]:
    """The reference knows no opset before 13, where all axes from `axis` on are one."""
    x, axis = feed["x"], form.attributes.get("axis", -1 if form.opset >= 13 else 1)
    flat = x if form.opset >= 13 else x.reshape(int(np.prod(x.shape[: axis % x.ndim if axis < x.ndim else axis])), -1)
    axis = axis if form.opset >= 13 else 1
    found = np.zeros_like(flat)
    np.put_along_axis(found, np.expand_dims(flat.argmax(axis), axis), 1, axis)
    return [found.reshape(x.shape)]


def _slice(form: Form, feed: Feed) -> list[Any]:
    """By the text of the standard: the reference does not clamp as it says, ONNX Runtime takes the largest integer for
    "to the end" downwards too.
    """
    x = feed["x"]
    given = {n: feed.get(n, form.attributes.get(n)) for n in ("starts", "ends", "axes", "steps")}
    starts, ends = ([int(v) for v in given[n]] for n in ("starts", "ends"))
    axes = range(len(starts)) if given["axes"] is None else [int(a) for a in given["axes"]]
    steps = [1] * len(starts) if given["steps"] is None else [int(s) for s in given["steps"]]
    places = [np.arange(n) for n in x.shape]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        n = x.shape[axis]
        start, end = (at + n if at < 0 else at for at in (start, end))
        low, high = (0, n) if step > 0 else (-1, n - 1)
        places[axis] = np.arange(min(max(start, 0), high), min(max(end, low), high), step) if n else np.arange(0)
    return [x[np.ix_(*places)]]


def _shape(form: Form, feed: Feed) -> list[Any]:
    """The reference does not clamp ends that are before the first axis."""
    shape = feed["x"].shape
    start, end = form.attributes.get("start", 0), form.attributes.get("end", len(shape))
    start, end = (min(max(at + len(shape) if at < 0 else at, 0), len(shape)) for at in (start, end))
    return [np.array(shape[start : max(start, end)], np.int64)]


CORRECTED: dict[str, Callable[[Form, Feed], list[Any]]] = {
    "Erf": _erf,
    "Gelu": _gelu,
    "GlobalMaxPool": _global_max_pool,
    "GroupNormalization": _group_normalization,
    "HardSwish": _hard_swish,
    "Hardmax": _hardmax,
    "LpNormalization": _lp_normalization,
    "LRN": _lrn,
    "MaxPool": _max_pool,
    "OneHot": _one_hot,
    "PRelu": _prelu,
    "ReduceSumSquare": _sum_of_squares,
    "Shape": _shape,
    "Shrink": _shrink,
    "Slice": _slice,
}
