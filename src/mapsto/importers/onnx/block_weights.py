"""Constant matrices that a model stores in blocks, as small integers with a scale for each block along an axis: what a
quantiser of weights alone writes. A product by one is a product by its integers (the op `block_matmul`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mapsto.ir.dtypes import Array, DType
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder
from mapsto.ops.composite import cast

_SMALLEST, _LARGEST = -128, 127  # of integers that are multiplied


@dataclass(frozen=True)
class BlockWeights:
    """Integers (int8) of a matrix, less their zero points; scales (float32), one for `block` of them along `axis`, of
    which the last block may have fewer.
    """

    q: Array
    scale: Array
    axis: int
    block: int

    @property
    def turned(self) -> BlockWeights:
        """The transpose."""
        return replace(self, q=self.q.T, scale=self.scale.T, axis=1 - self.axis)

    def product(self, b: Builder, x: Value) -> Value | None:
        """x[.., k] times this matrix [k, n]; None where its blocks do not lie along k, or x is neither f32 nor f16. A
        product of f16 is summed in f32.
        """
        if self.axis != 0 or x.dtype not in (DType.F32, DType.F16):
            return None
        halves = DType.I4.bits - 1
        small = bool(((self.q >= -(1 << halves)) & (self.q < 1 << halves)).all())
        q = b.constant(self.q.astype((DType.I4 if small else DType.I8).numpy), "weights")
        made = b.one("block_matmul", [cast(b, x, DType.F32), q, b.constant(self.scale, "scales")], block=self.block)
        return cast(b, made, x.dtype)


def block_weights_of(q: Array, zero: Array | None, scale: Array, axis: int, block: int) -> BlockWeights | None:
    """Of integers of any type and their zero points, which lie as the scales do; None where 8 bits do not hold the
    differences, or it is no matrix with a scale for each block.
    """
    if q.ndim != 2 or scale.shape != tuple(-(-n // block) if d == axis else n for d, n in enumerate(q.shape)):
        return None
    if zero is not None and zero.shape != scale.shape:
        return None
    whole = q.astype(np.int32)
    if zero is not None:
        whole = whole - np.repeat(zero.astype(np.int32), block, axis=axis)[: q.shape[0], : q.shape[1]]
    if whole.min(initial=0) < _SMALLEST or whole.max(initial=0) > _LARGEST:
        return None
    return BlockWeights(whole.astype(np.int8), scale.astype(np.float32), axis, block)
