"""Products of two dequantised values as products of their integers: what quantisers write as DequantizeLinear around a
MatMul, Gemm or Conv.

    sum sx (x - px) * sw (w - pw)  ==  sx sw * sum (x - px)(w - pw)

A bias that is quantised by sx sw is added to the sum. It is exact in 32 bits where it cannot overflow; a scale may vary
along the result's channels, not along what is summed. Else the product is one of floats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mapsto.importers.onnx.quantised import Quantised
from mapsto.importers.onnx.rows.common import centred
from mapsto.importers.onnx.table import NodeCall
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Value
from mapsto.ops.arranging import column, reshape, transpose
from mapsto.ops.builder import Builder

_ROUNDED_TWICE = 2.0**-22  # how far a scale of f32 may be from the product of two


@dataclass(frozen=True)
class IntegerFactors:
    """The two factors of a product that may be summed in integers."""

    x: Quantised
    w: Quantised

    def centred(self, b: Builder) -> tuple[Value, Value]:
        """Both less their zero points, in 32 bits."""
        return _centred(b, self.x), _centred(b, self.w)

    def transposed(self, b: Builder, x: bool, w: bool) -> IntegerFactors:
        """Matrices, either with its axes exchanged."""
        return IntegerFactors(_transposed(b, self.x) if x else self.x, _transposed(b, self.w) if w else self.w)

    def whole_bias(self, b: Builder, bias: Quantised | None, depth: Dim) -> Value | None:
        """The integers of a bias that are added to sums of so many products before these are scaled: constant ones,
        quantised by the product of both scales, where no sum leaves 32 bits.
        """
        if bias is None or bias.q.dtype is not DType.I32 or bias.q.rank != 1 or not isinstance(depth, int):
            return None
        whole, zero = b.array(bias.q), None if bias.zero is None else b.array(bias.zero)
        scales = [b.array(v) for v in (bias.scale, self.w.scale, self.x.scale)]
        if whole is None or any(s is None for s in scales) or (bias.zero is not None and (zero is None or zero.any())):
            return None
        own, of_w, of_x = (s.astype(np.float64) for s in scales if s is not None)
        if not np.allclose(own, of_w * of_x, rtol=_ROUNDED_TWICE, atol=0.0):
            return None
        most = depth * self.x.farthest(b) * self.w.farthest(b) + int(np.abs(whole.astype(np.int64)).max(initial=0))
        return bias.q if most < 1 << 31 else None

    def real(self, b: Builder, total: Value, channels: int, by: float = 1.0) -> Value:
        """What integer sums stand for, times `by`. channels: the result's axis along which w's scale may vary."""
        scale = self.w.scale if self.w.axis is not None else _one(b, self.w.scale)
        factor = b.one("mul", [scale, _one(b, self.x.scale)])
        if by != 1.0:
            factor = b.one("mul", [factor, b.constant(by, "by", factor.dtype)])
        if self.w.axis is not None:
            factor = column(b, factor, channels, total.rank)
        return b.one("mul", [b.one("cast", [total], to=factor.dtype), factor])


def integer_factors(call: NodeCall, x: Value, w: Value, channels: int, depth: Dim) -> IntegerFactors | None:
    """The integers of two values, where their product may be one of integers. channels: w's axis that is the result's;
    depth: how many products are summed. None where one is not dequantised from bytes, a scale varies along another
    axis, or the sum may leave 32 bits.
    """
    b, known = call.builder, call.translator.quantised
    left, right = known.of(x), known.of(w)
    if left is None or right is None or not (left.is_bytes and right.is_bytes) or x.dtype is not DType.F32:
        return None
    if left.axis is not None or right.axis not in (None, channels) or w.dtype is not x.dtype:
        return None
    if not isinstance(depth, int) or depth * left.farthest(b) * right.farthest(b) >= 1 << 31:
        return None
    return IntegerFactors(left, right)


def _centred(b: Builder, v: Quantised) -> Value:
    if v.zero is None:
        return centred(b, v.q, None)
    return centred(b, v.q, _one(b, v.zero) if v.axis is None else column(b, v.zero, v.axis, v.q.rank))


def _one(b: Builder, v: Value) -> Value:
    """A value of one element as a scalar."""
    return reshape(b, v, ())


def _transposed(b: Builder, v: Quantised) -> Quantised:
    axis = None if v.axis is None else 1 - v.axis
    return Quantised(transpose(b, v.q, (1, 0)), v.scale, v.zero, axis)
