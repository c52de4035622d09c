"""Rows of pooling: max, average, p-norm, over windows or over the whole of space; local response normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mapsto.importers.onnx.rows.windows import Window, window_of, with_fixed_pads
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, product
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.builder import Builder
from mapsto.ops.window import rounded_up


def _window(call: NodeCall) -> tuple[Value, Window, tuple[Dim, ...]]:
    """The operand, its window, and how much of each end pad is only there because the extent was rounded up."""
    x = call.input()
    kernel = call.integers("kernel_shape")
    if x.rank < 3 or kernel is None or len(kernel) != x.rank - 2 or any(k < 1 for k in kernel):
        raise call.wrong(f"kernel_shape {kernel} does not fit {x}")
    window = window_of(call, x.shape[2:], kernel)
    rank = len(kernel)
    if not call.integer("ceil_mode", 0) or call.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return x, window, (0,) * rank
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, window.dilations, strict=True)]
    extra = [
        rounded_up(call.builder, x.shape[2 + k], window.before[k], window.after[k], window.strides[k], reach[k])
        for k in range(rank)
    ]
    pads = (*window.before, *(p + e for p, e in zip(window.after, extra, strict=True)))
    return x, Window(window.kernel, window.strides, window.dilations, pads), tuple(extra)


@row("MaxPool")
def _max_pool(call: NodeCall) -> Result:
    b = call.builder
    x, window, _ = _window(call)
    low = float("-inf") if x.dtype.is_float else float(_lowest(x.dtype))
    padded, fixed = with_fixed_pads(call, x, window, low)
    result = b.one("max_pool", [padded], **_attrs(fixed))
    if not call.wants(1):
        return result
    places = b.one("max_pool_indices", [x], **_attrs(_not_negative(call, window)))
    return [result, _column_major(b, places, x.shape[2:]) if call.integer("storage_order", 0) else places]


def _column_major(b: Builder, places: Value, space: Sequence[Dim]) -> Value:
    """Places in the flattened input, counted with the first spatial axis as the innermost one."""
    size = b.known(product(space))
    rest = b.one("mod", [places, size], fmod=False)
    result = b.one("sub", [places, rest])
    for k in range(len(space) - 1, -1, -1):
        extent = b.known(space[k])
        at = b.one("mod", [rest, extent], fmod=False)
        rest = b.one("div", [rest, extent])
        result = b.one("add", [result, b.one("mul", [at, b.known(product(space[:k]))])])
    return result


def _attrs(window: Window) -> dict[str, tuple[Dim, ...]]:
    return {
        "kernel": window.kernel, "strides": window.strides, "pads": window.pads, "dilations": window.dilations,
    }  # fmt: skip


def _not_negative(call: NodeCall, window: Window) -> Window:
    if any(isinstance(p, int) and p < 0 for p in (*window.pads, *(call.integers("pads") or ()))):
        raise call.unsupported(f"negative pads {list(window.pads)} are not supported; slice before it")
    return window


def _lowest(dtype: DType) -> int:
    return int(np.iinfo(dtype.numpy).min)


@row("AveragePool")
def _average_pool(call: NodeCall) -> Result:
    x, window, extra = _window(call)
    include = bool(call.integer("count_include_pad", 0))
    attrs = _attrs(_not_negative(call, window))
    return call.builder.one("avg_pool", [x], count_include_pad=include, ceil_pads=extra, **attrs)


@row("LpPool")
def _lp_pool(call: NodeCall) -> Result:
    """(sum |x|^p)^(1/p): the average without counting what is padded, times the window's size."""
    b, x, p = call.builder, call.input(), _exponent(call)
    powered = _power(b, b.one("abs", [x]), p)
    _, window, extra = _window(call)
    attrs = _attrs(_not_negative(call, window))
    average = b.one("avg_pool", [powered], count_include_pad=True, ceil_pads=(0,) * len(extra), **attrs)
    size = 1
    for k in window.kernel:
        size *= k
    return _root(b, b.one("mul", [average, call.scalar(size, average)]), p)


def _exponent(call: NodeCall) -> float:
    """Attribute p: a float in opset 1."""
    p = call.number("p", 2.0) if call.opset < 2 else call.integer("p", 2)
    if not 0 < p < math.inf:
        raise call.wrong(f"attribute p={p} is no exponent of a norm; it must be positive")
    return p


def _power(b: Builder, x: Value, p: float) -> Value:
    if p == 1:
        return x
    return b.one("mul", [x, x]) if p == 2 else b.one("pow", [x, b.constant(float(p), "p", x.dtype)])


def _root(b: Builder, x: Value, p: float) -> Value:
    if p == 1:
        return x
    return b.one("sqrt", [x]) if p == 2 else b.one("pow", [x, b.constant(1.0 / p, "p", x.dtype)])


def _whole(call: NodeCall, kind: str, x: Value) -> Value:
    if x.rank < 3:
        raise call.wrong(f"{x} has no spatial axes")
    return call.builder.one("reduce", [x], kind=kind, axes=tuple(range(2, x.rank)), keepdims=True)


@row("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(call: NodeCall) -> Result:
    return _whole(call, "mean" if call.op == "GlobalAveragePool" else "max", call.input())


@row("GlobalLpPool")
def _global_lp_pool(call: NodeCall) -> Result:
    b, p = call.builder, _exponent(call)
    return _root(b, _whole(call, "sum", _power(b, b.one("abs", [call.input()]), p)), p)


@row("LRN")
def _lrn(call: NodeCall) -> Result:
    x, size = call.input(), call.integer("size")
    if x.rank < 2 or size < 1:
        raise call.wrong("it takes a tensor with channels and a positive size")
    alpha, beta, bias = call.number("alpha", 0.0001), call.number("beta", 0.75), call.number("bias", 1.0)
    return composite.local_response_norm(call.builder, x, size, alpha, beta, bias)
