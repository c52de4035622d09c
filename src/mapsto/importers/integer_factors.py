"""Products of two dequantised values as products of their integers: what quantisers write as DequantizeLinear around a
MatMul, Gemm or Conv.

    sum sx (x - px) * sw (w - pw)  ==  sx sw * sum (x - px)(w - pw)

A bias that is quantised by sx sw is added to the sum. It is exact in 32 bits where it cannot overflow; a scale may vary
along the result's channels, not along what is summed: that of a depthwise convolution's input along its channels too,
each of which is summed by itself (NNCF quantises it so). Else the product is one of floats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mapsto.importers.quantised import Quantised, QuantisedValues
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Value
from mapsto.ops.arranging import column, reshape, transpose
from mapsto.ops.builder import Builder

_ROUNDED_TWICE = 2.0**-22  # how far a scale of f32 may be from the product of two


@dataclass(frozen=True)
class IntegerFactors:
    """The two factors of a product that may be summed in integers. scale: x's, one or one for each of the result's
    channels.
    """

    x: Quantised
    w: Quantised
    scale: Value

    def centred(self, b: Builder) -> tuple[Value, Value]:
        """Both less their zero points, in 32 bits."""
        return _centred(b, self.x), _centred(b, self.w)

    def transposed(self, b: Builder, x: bool, w: bool) -> IntegerFactors:
        """Matrices, either with its axes exchanged."""
        made = [_transposed(b, each) if is_so else each for each, is_so in ((self.x, x), (self.w, w))]
        return IntegerFactors(made[0], made[1], self.scale)

    def whole_bias(self, b: Builder, bias: Quantised | None, depth: Dim) -> Value | None:
        """The integers of a bias that are added to sums of so many products before these are scaled: constant ones,
        quantised by the product of both scales, where no sum leaves 32 bits.
        """
        if bias is None or bias.q.dtype is not DType.I32 or bias.q.rank != 1 or not isinstance(depth, int):
            return None
        whole, zero = b.array(bias.q), None if bias.zero is None else b.array(bias.zero)
        scales = [b.array(v) for v in (bias.scale, self.w.scale, self.scale)]
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
        factor = b.one("mul", [scale, self.scale])
        if by != 1.0:
            factor = b.one("mul", [factor, b.constant(by, "by", factor.dtype)])
        if factor.rank:
            factor = column(b, factor, channels, total.rank)
        return b.one("mul", [b.one("cast", [total], to=factor.dtype), factor])


def integer_factors(
    b: Builder, known: QuantisedValues, x: Value, w: Value, channels: int, depth: Dim, times: int = 0
) -> IntegerFactors | None:
    """The integers of two values, where their product may be one of integers. channels: w's axis that is the result's;
    depth: how many products are summed; times: how many of the result's channels read each channel of x, where none
    reads two (0: they do). None where one is not dequantised from bytes, a scale varies along another axis, or the sum
    may leave 32 bits.
    """
    left, right = known.of(x), known.of(w)
    if left is None or right is None or not (left.is_bytes and right.is_bytes) or x.dtype is not DType.F32:
        return None
    scale = _scale_of_results(b, left, times)
    if scale is None or right.axis not in (None, channels) or w.dtype is not x.dtype:
        return None
    if not isinstance(depth, int) or depth * left.farthest(b) * right.farthest(b) >= 1 << 31:
        return None
    return IntegerFactors(left, right, scale)


def results_of_each(x: Value, w: Value, groups: int) -> int:
    """How many channels of a convolution's result read each channel of x, and no other; 0: some read several."""
    counts = (w.shape[0], x.shape[1]) if x.rank > 1 and w.rank > 1 else ()
    known = [count for count in counts if isinstance(count, int)]
    is_apart = len(known) == 2 and w.shape[1] == 1 and groups == known[1] > 0 and known[0] % known[1] == 0
    return known[0] // known[1] if is_apart else 0


def centred(b: Builder, x: Value, zero: Value | None) -> Value:
    """x - zero point as 32-bit integers; the zero point broadcasts over x."""
    wide = b.one("cast", [x], to=DType.I32)
    return wide if zero is None else b.one("sub", [wide, b.one("cast", [zero], to=DType.I32)])


def _scale_of_results(b: Builder, x: Quantised, times: int) -> Value | None:
    """x's scale, or one for each of the result's channels; None where it varies along what is summed."""
    if x.axis is None:
        return _one(b, x.scale)
    array = b.array(x.scale)
    if x.axis != 1 or not times or array is None:
        return None
    return x.scale if times == 1 else b.constant(array.repeat(times), x.scale.name)


def _centred(b: Builder, v: Quantised) -> Value:
    if v.zero is None:
        return centred(b, v.q, None)
    array = b.array(v.zero)
    if v.axis is not None and array is not None and array.size and (array == array.flat[0]).all():
        return centred(b, v.q, b.constant(array.reshape(-1)[0], v.zero.name))
    return centred(b, v.q, _one(b, v.zero) if v.axis is None else column(b, v.zero, v.axis, v.q.rank))


def _one(b: Builder, v: Value) -> Value:
    """A value of one element as a scalar."""
    return reshape(b, v, ())


def _transposed(b: Builder, v: Quantised) -> Quantised:
    axis = None if v.axis is None else 1 - v.axis
    return Quantised(transpose(b, v.q, (1, 0)), v.scale, v.zero, axis)
