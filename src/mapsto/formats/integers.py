"""Products of f32 as products of bytes: a value that was quantised by constant weights, quantised here.

    sum x w  ~  sx sw[c] * sum (xq - zero) wq       x = sx (xq - zero), w = sw[c] wq along the result's channels c

The sum is exact in 32 bits. Weights are quantised symmetrically, to -127..127, each channel by its largest magnitude.
"""

from __future__ import annotations

import numpy as np

from mapsto.formats.stored import Stored
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder
from mapsto.passes.sites import Site

MOST_TERMS = (1 << 31) // (255 * 127)  # that 32 bits hold any sum of


def terms_of(op: str, w: np.ndarray) -> int:
    """How many products each sum of a convolution or a matrix product has."""
    return int(np.prod(w.shape[1:])) if op == "conv" else int(w.shape[-2])


def byte_weights(op: str, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integers of f32 weights, and the scale of each of the result's channels (float32)."""
    axis = 0 if op == "conv" else w.ndim - 1
    others = tuple(k for k in range(w.ndim) if k != axis)
    largest = np.abs(w).max(axis=others, keepdims=True, initial=0.0).astype(np.float32)
    scale = np.where(largest > np.finfo(np.float32).tiny * 127, largest / np.float32(127), np.float32(1))
    whole = np.clip(np.rint(w / scale), -127, 127).astype(np.int32)
    return whole, np.asarray(scale, np.float32).reshape(-1)


def byte_product(site: Site, x: Value, by: Stored) -> Value:
    """The node's product; x: its first operand, quantised."""
    b, op = site.builder, site.node.op
    array = b.array(site.input(1))
    assert array is not None and by.by is not None
    whole, scales = byte_weights(op, array)
    name = site.node.output.name
    total = b.one(op, [by.centred(b, x), b.constant(whole, site.input(1).name)], **site.attrs)
    factor = scales * np.float32(by.by.scale)
    bias = site.inputs[2] if len(site.inputs) > 2 else None
    made = b.one("mul", [b.one("cast", [total], to=DType.F32), _column(b, op, factor, total)])
    if bias is None:
        return made
    return b.add("add", [made, _as_column(b, op, bias, total)], {}, (), [name])[0]


def _column(b: Builder, op: str, factor: np.ndarray, like: Value) -> Value:
    return _as_column(b, op, b.constant(factor, "factor"), like)


def _as_column(b: Builder, op: str, value: Value, like: Value) -> Value:
    """A number for each channel of the result, or for each column of a matrix."""
    after = like.rank - 2 if op == "conv" else 0
    return value if not after else b.one("reshape", [value], shape=(*value.shape, *(1,) * after))
