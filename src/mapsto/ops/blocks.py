"""block_matmul: a matrix product by weights that lie in blocks, as small integers with a scale for each block.

    y[.., n] = sum over k of x[.., k] * f32(q[k, n]) * scale[k // block, n]

x is f32, and so are the sums: only weights are narrow, as what takes long of a product of one row is reading them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import Array, DType
from mapsto.ir.expr import ceildiv, floordiv, sym
from mapsto.kernel.ast import Iter, Op, Reduce, Stmt
from mapsto.kernel.blocks import BLOCK_INTEGERS, real_of
from mapsto.ops.registry import Inference, Lowering, OpSpec, Shape, register
from mapsto.ops.shapes import describe, require_dtype, require_rank

_F32 = frozenset({DType.F32})


def _infer(inference: Inference) -> list[tuple[DType, Shape]]:
    for i, allowed in enumerate((_F32, BLOCK_INTEGERS, _F32)):
        require_dtype(inference, i, allowed)
    x, (depth, columns) = inference.value(0).shape, require_rank(inference, 1, 2).shape
    blocks, wide = require_rank(inference, 2, 2).shape
    size = inference.attrs["block"]
    if not isinstance(size, int) or size < 1:
        raise ShapeError(f"{describe(inference)}: block={size}: a block has 1 element or more")
    if not x:
        raise ShapeError(f"{describe(inference)}: a scalar is no operand of a matrix product")
    for found, wanted, what in (
        (x[-1], depth, "inner extents"), (blocks, ceildiv(depth, size), f"numbers of blocks of {size}"),
        (wide, columns, "numbers of columns"),
    ):  # fmt: skip
        try:
            inference.same(found, wanted)
        except ShapeError:
            raise ShapeError(f"{describe(inference)}: the {what} {found} and {wanted} differ") from None
    return [(DType.F32, (*x[:-1], columns))]


def _block_matmul(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    x, q, scale = inputs
    with np.errstate(all="ignore"):
        return [np.asarray(np.matmul(x.astype(np.float64), dequantised_blocks(q, scale, attrs["block"])), x.dtype)]


def dequantised_blocks(q: Array, scale: Array, block: int) -> Array:
    """The real numbers that integers [k, n] with scales [k / block, n] are, in f64."""
    whole = q.astype(np.int8).astype(np.float64)
    real: Array = whole * np.repeat(scale.astype(np.float64), block, axis=0)[: len(whole)]
    return real


def _lower(low: Lowering) -> list[Stmt]:
    iters = low.iters(low.output.shape)
    inner = Iter(low.fresh("k"), low.value(1).shape[0])
    k, n = sym(inner.name), sym(iters[-1].name)
    x = low.load(0, [*(sym(i.name) for i in iters[:-1]), k])
    scale = low.load(2, [floordiv(k, low.attrs["block"]), n])
    w = Op("mul", (real_of(low.load(1, [k, n])), scale), DType.F32)
    return [low.stmt(iters, Reduce("sum", (inner,), Op("mul", (x, w), DType.F32)))]


register(OpSpec("block_matmul", "contraction", _infer, _block_matmul, _lower))
