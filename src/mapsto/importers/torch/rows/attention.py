"""Rows of attention: scaled dot products, in whichever form torch calls them."""

from __future__ import annotations

import math

from mapsto.importers.torch.table import AtenCall, aten
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, floordiv
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.arranging import column, positions, reshape


@aten("scaled_dot_product_attention")
def _attention(call: AtenCall) -> Value:
    if call.number("dropout_p") > 0.0 and call.run is None:
        raise call.unsupported("dropout inside of attention is not supported; set `dropout_p` to 0 (call `.eval()`)")
    return attended(call, call.optional("attn_mask"))[0]


@aten("_scaled_dot_product_flash_attention_for_cpu")
def _flash(call: AtenCall) -> list[Value]:
    y, level = attended(call, call.optional("attn_mask"))
    return [y, level]


def attended(call: AtenCall, mask: Value | None) -> tuple[Value, Value]:
    """softmax(q k^T * scale + mask) v, and the logarithm of each row's sum. A row that sees nothing is 0."""
    b, q, k, v = call.builder, call.value("query"), call.value("key"), call.value("value")
    scale = _scale(call, q)
    q, k, v, shape = grouped(call, q, k, v)
    wide = DType.F64 if q.dtype is DType.F64 else DType.F32
    product = call.one("matmul", [q, composite.transpose_last(b, k)])
    scores = call.one("mul", [call.cast(product, wide), scale])
    if call.flag("is_causal"):
        mask = causal_mask(call, scores.shape[-2], scores.shape[-1])
    safe = mask is not None and not call.flag("is_causal")
    if mask is not None:
        scores = masked(call, scores, mask, shape)
    weights, level = composite.softmax_and_level(b, scores, -1)
    if safe:
        top = composite.reduce(b, scores, "max", [-1])
        none = call.one("eq", [top, call.scalar(-math.inf, wide)])
        weights = call.one("select", [none, call.scalar(0.0, wide), weights])
    if call.run is not None and "dropout_p" in call.given and call.number("dropout_p") > 0.0:
        weights, _ = composite.dropout(b, weights, call.number("dropout_p"), call.run(), call.stream())
    y = call.one("matmul", [call.cast(weights, v.dtype), v])
    y = reshape(b, y, (*shape[:-1], v.shape[-1]))
    return y, reshape(b, level, shape[:-1])


def _scale(call: AtenCall, q: Value) -> Value:
    wide = DType.F64 if q.dtype is DType.F64 else DType.F32
    if call.has("scale"):
        return call.scalar(call.given["scale"], wide)
    width = q.shape[-1]
    if isinstance(width, int):
        return call.scalar(1 / math.sqrt(width) if width else math.inf, wide)
    return call.one("reciprocal", [call.one("sqrt", [call.scalar(width, wide)])])


def grouped(call: AtenCall, q: Value, k: Value, v: Value) -> tuple[Value, Value, Value, tuple[Dim, ...]]:
    """Several heads of queries for one of keys and values, seen as an axis of their own; and q's own shape."""
    shape = q.shape
    if q.rank < 3 or q.shape[-3] == k.shape[-3] or 1 in (q.shape[-3], k.shape[-3]):
        return q, k, v, shape
    b, heads, groups = call.builder, q.shape[-3], k.shape[-3]
    each = floordiv(heads, groups)
    q = reshape(b, q, (*q.shape[:-3], groups, each, *q.shape[-2:]))
    k, v = (reshape(b, x, (*x.shape[:-2], 1, *x.shape[-2:])) for x in (k, v))
    return q, k, v, shape


def masked(call: AtenCall, scores: Value, mask: Value, shape: tuple[Dim, ...]) -> Value:
    """The mask is added, or says by truth values which scores count."""
    if scores.rank > len(shape) and mask.rank >= 3:  # heads in groups: the mask's heads too
        heads = mask.shape[-3]
        split: tuple[Dim, ...] = (1, 1) if heads == 1 else (scores.shape[-4], scores.shape[-3])
        mask = reshape(call.builder, mask, (*mask.shape[:-3], *split, *mask.shape[-2:]))
    if mask.dtype is DType.BOOL:
        return call.one("select", [mask, scores, call.scalar(-math.inf, scores.dtype)])
    return call.one("add", [scores, call.cast(mask, scores.dtype)])


def causal_mask(call: AtenCall, rows: Dim, columns: Dim) -> Value:
    """Query i sees keys 0..i."""
    b = call.builder
    down = column(b, positions(b, rows), 0, 2)
    return call.one("le", [positions(b, columns), down])
