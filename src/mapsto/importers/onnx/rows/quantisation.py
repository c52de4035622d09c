"""Rows of quantised tensors, decomposed: a real number is scale * (integer - zero point)."""

from __future__ import annotations

import numpy as np

from mapsto.importers.integer_factors import centred
from mapsto.importers.onnx.block_weights import BlockWeights, block_weights_of
from mapsto.importers.onnx.rows.common import beside
from mapsto.importers.onnx.rows.contraction import conv
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.importers.quantised import Quantised
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, ceildiv
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.arranging import reshape
from mapsto.ops.quantisation import dequantise, quantise

# A scale beyond these may take products of integers out of the range of f32.
_SMALLEST = 2.0**-100


def over_blocks(call: NodeCall, v: Value, x: Value, axis: int, block: int) -> Value:
    """Numbers for blocks along an axis of x, each as often as its block has elements."""
    b = call.builder
    spread = b.one("reshape", [v], shape=(*v.shape[: axis + 1], 1, *v.shape[axis + 1 :]))
    wide = b.one("expand", [spread], shape=(*v.shape[: axis + 1], block, *v.shape[axis + 1 :]))
    merged = b.one("reshape", [wide], shape=(*v.shape[:axis], v.shape[axis] * block, *v.shape[axis + 1 :]))
    if ceildiv(x.shape[axis], block) != v.shape[axis]:
        raise call.wrong(f"{v} blocks of {block} do not cover axis {axis} of {x}")
    if merged.shape == x.shape:
        return merged
    return b.one("slice", [merged], starts=(0,) * x.rank, steps=(1,) * x.rank, shape=x.shape)


def laid_out(call: NodeCall, v: Value, x: Value) -> Value:
    """A scale or zero point, of one element, one along an axis, or one a block, shaped to broadcast over x."""
    b = call.builder
    block = call.integer("block_size", 0)
    if block and v.rank == x.rank and v.rank:
        return over_blocks(call, v, x, call.axis(x.rank, 1), block)
    if v.rank == 0 or (v.rank == 1 and v.shape[0] == 1):
        return reshape(b, v, ())
    if v.rank != 1:
        raise call.unsupported(f"a scale or zero point {v} is not supported; use one element, one an axis, or blocks")
    if x.rank == 0:
        raise call.wrong(f"{v} has a number for each place along an axis, {x} has none")
    axis = call.axis(x.rank, 1)
    shape: list[Dim] = [1] * x.rank
    shape[axis] = v.shape[0]
    return reshape(b, v, shape)


@row("QuantizeLinear")
def _quantize(call: NodeCall) -> Result:
    b, x, scale, zero = call.builder, call.input(0), call.input(1), call.optional(2)
    dtype = call.dtype("output_dtype", DType.U8) if call.integer("output_dtype", 0) else DType.U8
    if zero is not None:
        if call.integer("output_dtype", 0) and dtype is not zero.dtype:
            raise call.wrong(f"output_dtype is {dtype.value}, but the zero point is {zero.dtype.value}")
        dtype = zero.dtype
    known = call.translator.quantised.of(x)
    if known is not None and known.q.dtype is dtype and _gives_back(call, known):
        return known.q
    if not _is_quantised(dtype):
        raise call.unsupported(f"quantising to {dtype.value} is not supported; quantise to an integer or 8-bit float")
    scale = laid_out(call, composite.decoded(b, scale), x)
    precision = call.dtype("precision") if call.integer("precision", 0) else _wider(x.dtype, scale.dtype)
    if not precision.is_float:
        raise call.wrong(f"attribute precision={precision.value} is no float")
    x, scale = (composite.cast(b, v, precision) for v in (x, scale))
    point = laid_out(call, zero, x) if zero is not None else None
    return quantise(b, x, scale, point, dtype, bool(call.integer("saturate", 1)))


def _gives_back(call: NodeCall, known: Quantised) -> bool:
    """Whether dequantised integers are quantised to what they were: by the same constants, of which no quotient leaves
    the range of floats.
    """
    asked = _as_quantised(call, known.q)
    scale = call.array(1)
    if asked is None or scale is None or not known.is_like(call.builder, asked):
        return False
    size = np.abs(scale.astype(np.float64))
    return bool(np.all((size > _SMALLEST) & (size < 1 / _SMALLEST)))


def _is_quantised(dtype: DType) -> bool:
    return dtype.is_integer or (dtype.is_storage and dtype is not DType.F8E8M0)


def _wider(x: DType, scale: DType) -> DType:
    """What x / scale is computed in where nothing else is said: the one that holds both."""
    if x is scale or not x.is_float:
        return scale if scale.is_float else DType.F32
    if not scale.is_float:
        return x
    return DType.F32 if x.is_half and scale.is_half else x if x.size >= scale.size else scale


@row("DequantizeLinear")
def _dequantize(call: NodeCall) -> Result:
    dtype = call.dtype("output_dtype") if call.integer("output_dtype", 0) else call.input(1).dtype.decoded
    return dequantised(call, dtype)


def dequantised(call: NodeCall, dtype: DType) -> Value:
    """Inputs 0 to 2, which are integers, scale and zero point, as a float, which is known from now on to be these
    integers.
    """
    x, scale, zero = call.input(0), call.input(1), call.optional(2)
    point = laid_out(call, zero, x) if zero is not None else None
    made = dequantise(call.builder, x, laid_out(call, scale, x), point, dtype)
    found = _as_quantised(call, x)
    if found is not None and scale.dtype is dtype:
        call.translator.quantised.note(made, found)
    blocks = _in_blocks(call, x) if dtype is DType.F32 else None
    if blocks is not None:
        call.translator.quantised.note_blocks(made, blocks)
    return made


def _in_blocks(call: NodeCall, x: Value) -> BlockWeights | None:
    """Constant integers x in blocks, as inputs 1 and 2 and the attributes say."""
    block, zero = call.integer("block_size", 0), call.optional(2)
    q, scale, points = (call.array(i) for i in range(3))
    if not block or q is None or scale is None or (zero is not None and points is None) or q.ndim != 2:
        return None
    if x.dtype.decoded.is_float or call.input(1).dtype.is_storage:
        return None
    return block_weights_of(q, points, scale, call.axis(2, 1), block)


def _as_quantised(call: NodeCall, x: Value) -> Quantised | None:
    """Integers x with what inputs 1 and 2 say of them; None for blocks, and where these are neither of one element nor
    along an axis.
    """
    scale, zero = call.input(1), call.optional(2)
    if call.integer("block_size", 0) or x.dtype.is_storage:
        return None
    if all(v is None or v.rank == 0 or v.shape == (1,) for v in (scale, zero)):
        return Quantised(x, scale, zero)
    if scale.rank != 1 or (zero is not None and zero.shape != scale.shape):
        return None
    return Quantised(x, scale, zero, call.axis(x.rank, 1))


@row("DynamicQuantizeLinear")
def _dynamic_quantize(call: NodeCall) -> Result:
    """Scale and zero point from the range of the data, 0 included; to 8 bits without sign. Where all data is 0, the
    scale is 1: the standard's quotient would be 0/0.
    """
    b, x = call.builder, call.input()
    axes = tuple(range(x.rank))
    zero = call.scalar(0, x)
    high = b.one("max", [b.one("reduce", [x], kind="max", axes=axes, keepdims=False), zero])
    low = b.one("min", [b.one("reduce", [x], kind="min", axes=axes, keepdims=False), zero])
    scale = b.one("div", [b.one("sub", [high, low]), call.scalar(255, x)])
    scale = b.one("select", [b.one("eq", [high, low]), call.scalar(1, x), scale])
    point = b.one("round", [b.one("sub", [zero, b.one("div", [low, scale])])])
    limited = b.one("min", [b.one("max", [point, zero]), call.scalar(255, x)])
    offset = b.one("cast", [limited], to=DType.U8)
    return [quantise(b, x, scale, offset, DType.U8), scale, offset]


@row("QLinearMatMul")
def _qlinear_matmul(call: NodeCall) -> Result:
    """The product in 32-bit integers (of floats of 8 bits in f32), scaled by a_scale * b_scale / y_scale."""
    b = call.builder
    a, a_scale, a_zero, c, c_scale, c_zero, y_scale, y_zero = (call.input(i) for i in range(8))

    def exact(v: Value, zero: Value) -> Value:
        if not v.dtype.is_storage:
            return centred(b, v, zero)
        return b.one("sub", [composite.recast(b, v, DType.F32), composite.recast(b, zero, DType.F32)])

    def real(v: Value) -> Value:
        return composite.cast(b, v, DType.F32)

    total = b.one("matmul", [exact(a, beside(b, a_zero, False)), exact(c, beside(b, c_zero, True))])
    factor = b.one("mul", [real(beside(b, a_scale, False)), real(beside(b, c_scale, True))])
    factor = b.one("div", [factor, real(beside(b, y_scale, False))])
    scaled = b.one("mul", [real(total), factor])
    return quantise(b, scaled, b.constant(np.asarray(1, np.float32)), beside(b, y_zero, False), y_zero.dtype)


@row("QLinearConv")
def _qlinear_conv(call: NodeCall) -> Result:
    """The integer convolution with an i32 bias, scaled by x_scale * w_scale / y_scale."""
    b = call.builder
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (call.input(i) for i in range(8))

    def per_channel(v: Value, rank: int, axis: int) -> Value:
        if v.rank == 0 or v.shape[0] == 1:
            return reshape(b, v, ())
        return reshape(b, v, [v.shape[0] if k == axis else 1 for k in range(rank)])

    left, right = centred(b, x, reshape(b, x_zero, ())), centred(b, w, per_channel(w_zero, w.rank, 0))
    total = conv(call, left, right, call.optional(8))
    factor = b.one("div", [b.one("mul", [reshape(b, x_scale, ()), w_scale]), reshape(b, y_scale, ())])
    real = b.one("mul", [b.one("cast", [total], to=DType.F32), per_channel(factor, x.rank, 1)])
    one = b.constant(np.asarray(1, np.float32))
    return quantise(b, real, one, reshape(b, y_zero, ()), y_zero.dtype)
