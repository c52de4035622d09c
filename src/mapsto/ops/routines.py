"""Routines: nonzero and topk. Their control flow depends on data, so devices write them in the loop language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import Array, DType
from mapsto.ir.expr import product
from mapsto.ir.graph import Node, Value
from mapsto.kernel.scalar import widen
from mapsto.ops.derivatives import zeros
from mapsto.ops.making import Making
from mapsto.ops.registry import Inference, OpSpec, Shape, register
from mapsto.ops.shapes import NUMBERS, axis_of, describe, require_dtype

# ---- nonzero(x) -> (indices i64[rank, size], count i64[]): the first `count` columns are valid, the rest is zero -----


def _infer_nonzero(inference: Inference) -> list[tuple[DType, Shape]]:
    value = inference.value(0)
    return [(DType.I64, (value.rank, product(value.shape))), (DType.I64, ())]


def _nonzero(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    x = widen(np.asarray(inputs[0]))
    found = np.array(np.nonzero(x.reshape(1) if x.ndim == 0 else x), dtype=np.int64)
    result = np.zeros(shapes[0], dtype=np.int64)
    result[:, : found.shape[1]] = found[: x.ndim]
    return [result, np.asarray(found.shape[1], dtype=np.int64)]


register(OpSpec("nonzero", "routine", _infer_nonzero, _nonzero))

# ---- topk(axis, k: Dim, largest, sorted) -> (values, indices i64) ----------------------------------------------------
# Equal elements come in the order of their places; NaN counts as larger than everything.


def _infer_topk(inference: Inference) -> list[tuple[DType, Shape]]:
    dtype = require_dtype(inference, 0, NUMBERS)
    value, k = inference.value(0), inference.attrs["k"]
    if value.rank == 0:
        raise ShapeError(f"{describe(inference)}: a scalar has no axis")
    axis = axis_of(inference, inference.attrs["axis"], value.rank)
    inference.at_least(k, 0, "topk's k")
    inference.at_least(value.shape[axis], k, f"topk of axis {axis}")
    shape = (*value.shape[:axis], k, *value.shape[axis + 1 :])
    return [(dtype, shape), (DType.I64, shape)]


def _topk(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    (x,) = inputs
    axis = attrs["axis"] % x.ndim
    wide = widen(x)
    if attrs["largest"]:
        # descending, equal elements in order: ascending over the mirrored axis, read backwards
        order = np.flip(np.argsort(np.flip(wide, axis=axis), axis=axis, kind="stable"), axis=axis)
        order = x.shape[axis] - 1 - order
    else:
        order = np.argsort(wide, axis=axis, kind="stable")
    chosen = np.take(order, np.arange(shapes[0][axis]), axis=axis).astype(np.int64)
    return [np.take_along_axis(x, chosen, axis=axis), chosen]



def _topk_gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    """To the elements that were taken."""
    g = incoming[0]
    if g is None or not g.dtype.is_float:
        return [None]
    nothing = zeros(b, b.lookup(node.inputs[0]).shape, g.dtype)
    return [b.one("scatter_elements", [nothing, node.outputs[1], g], axis=node.attrs["axis"], reduction="add")]


register(OpSpec("topk", "routine", _infer_topk, _topk, gradient=_topk_gradient))
