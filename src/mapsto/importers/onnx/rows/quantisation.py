"""Rows of quantised tensors, decomposed: a real number is scale * (integer - zero point)."""

from __future__ import annotations

import numpy as np

from mapsto.importers.onnx.rows.common import reshape
from mapsto.importers.onnx.rows.contraction import conv
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, ceildiv
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder


def _limits(dtype: DType) -> tuple[int, int]:
    info = np.iinfo(dtype.numpy)
    return int(info.min), int(info.max)


def laid_out(call: NodeCall, v: Value, x: Value) -> Value:
    """A scale or zero point, of one element, one along an axis, or one a block, shaped to broadcast over x."""
    b = call.builder
    block = call.integer("block_size", 0)
    if block and v.rank == x.rank and v.rank:
        axis = call.axis(x.rank, 1)
        spread = b.one("reshape", [v], shape=(*v.shape[: axis + 1], 1, *v.shape[axis + 1 :]))
        wide = b.one("expand", [spread], shape=(*v.shape[: axis + 1], block, *v.shape[axis + 1 :]))
        merged = b.one("reshape", [wide], shape=(*v.shape[:axis], v.shape[axis] * block, *v.shape[axis + 1 :]))
        if ceildiv(x.shape[axis], block) != v.shape[axis]:
            raise call.wrong(f"{v} blocks of {block} do not cover axis {axis} of {x}")
        return (
            merged
            if merged.shape == x.shape
            else b.one("slice", [merged], starts=(0,) * x.rank, steps=(1,) * x.rank, shape=x.shape)
        )
    if v.rank == 0 or (v.rank == 1 and v.shape[0] == 1):
        return reshape(b, v, ())
    if v.rank != 1:
        raise call.unsupported(f"a scale or zero point {v} is not supported; use one element, one an axis, or blocks")
    axis = call.axis(x.rank, 1)
    shape: list[Dim] = [1] * x.rank
    shape[axis] = v.shape[0]
    return reshape(b, v, shape)


def quantise(b: Builder, x: Value, scale: Value, zero: Value | None, dtype: DType) -> Value:
    """saturate(round(x / scale) + zero point), halves to even"""
    real = DType.F64 if dtype.size > 2 else DType.F32
    ratio = b.one("round", [b.one("div", [x, scale])])
    ratio = ratio if ratio.dtype is real else b.one("cast", [ratio], to=real)
    if zero is not None:
        ratio = b.one("add", [ratio, b.one("cast", [zero], to=real)])
    low, high = (b.constant(np.asarray(limit), "limit", real) for limit in _limits(dtype))
    return b.one("cast", [b.one("min", [b.one("max", [ratio, low]), high])], to=dtype)


@row("QuantizeLinear")
def _quantize(call: NodeCall) -> Result:
    b, x, scale, zero = call.builder, call.input(0), call.input(1), call.optional(2)
    dtype = (
        zero.dtype
        if zero is not None
        else call.dtype("output_dtype", DType.U8)
        if call.integer("output_dtype", 0)
        else DType.U8
    )
    if not dtype.is_integer:
        raise call.unsupported(f"quantising to {dtype.value} is not supported; quantise to an integer type")
    if x.dtype.is_integer:
        x = b.one("cast", [x], to=scale.dtype)
    scale = laid_out(call, scale, x)
    if scale.dtype is not x.dtype:
        scale = b.one("cast", [scale], to=x.dtype)
    return quantise(b, x, scale, laid_out(call, zero, x) if zero is not None else None, dtype)


def dequantise(b: Builder, x: Value, scale: Value, zero: Value | None, dtype: DType) -> Value:
    """(integer - zero point) * scale; the difference of 32-bit integers takes 64 bits."""
    exact = DType.I64 if zero is not None and x.dtype.size > 2 else DType.I32
    wide = x if x.dtype is exact else b.one("cast", [x], to=exact)
    if zero is not None:
        wide = b.one("sub", [wide, zero if zero.dtype is exact else b.one("cast", [zero], to=exact)])
    real = b.one("cast", [wide], to=DType.F32)
    product = b.one("mul", [real, scale if scale.dtype is DType.F32 else b.one("cast", [scale], to=DType.F32)])
    return product if dtype is DType.F32 else b.one("cast", [product], to=dtype)


@row("DequantizeLinear")
def _dequantize(call: NodeCall) -> Result:
    x, scale, zero = call.input(0), call.input(1), call.optional(2)
    dtype = call.dtype("output_dtype", scale.dtype) if call.integer("output_dtype", 0) else scale.dtype
    return dequantise(
        call.builder, x, laid_out(call, scale, x), laid_out(call, zero, x) if zero is not None else None, dtype
    )


@row("DynamicQuantizeLinear")
def _dynamic_quantize(call: NodeCall) -> Result:
    """Scale and zero point from the range of the data, 0 included; to 8 bits without sign."""
    b, x = call.builder, call.input()
    axes = tuple(range(x.rank))
    zero = call.scalar(0, x)
    high = b.one("max", [b.one("reduce", [x], kind="max", axes=axes, keepdims=False), zero])
    low = b.one("min", [b.one("reduce", [x], kind="min", axes=axes, keepdims=False), zero])
    scale = b.one("div", [b.one("sub", [high, low]), call.scalar(255, x)])
    point = b.one("round", [b.one("sub", [zero, b.one("div", [low, scale])])])
    limited = b.one("min", [b.one("max", [point, zero]), call.scalar(255, x)])
    offset = b.one("cast", [limited], to=DType.U8)
    return [quantise(b, x, scale, offset, DType.U8), scale, offset]


@row("QLinearMatMul")
def _qlinear_matmul(call: NodeCall) -> Result:
    """The product in 32-bit integers, scaled by a_scale * b_scale / y_scale."""
    b = call.builder
    a, a_scale, a_zero, c, c_scale, c_zero, y_scale, y_zero = (call.input(i) for i in range(8))

    def rows(v: Value, x: Value, column: bool) -> Value:
        if v.rank != 1 or v.shape[0] == 1:
            return v if v.rank > 1 else reshape(b, v, ())
        return v if column else reshape(b, v, (v.shape[0], 1))

    def centred(v: Value, zero: Value) -> Value:
        return b.one("sub", [b.one("cast", [v], to=DType.I32), b.one("cast", [zero], to=DType.I32)])

    def real(v: Value) -> Value:
        return v if v.dtype is DType.F32 else b.one("cast", [v], to=DType.F32)

    left = centred(a, rows(a_zero, a, False))
    total = b.one("matmul", [left, centred(c, rows(c_zero, c, True))])
    factor = b.one("mul", [real(rows(a_scale, a, False)), real(rows(c_scale, c, True))])
    factor = b.one("div", [factor, real(rows(y_scale, total, False))])
    scaled = b.one("mul", [b.one("cast", [total], to=DType.F32), factor])
    return quantise(b, scaled, b.constant(np.asarray(1, np.float32)), rows(y_zero, total, False), y_zero.dtype)


@row("QLinearConv")
def _qlinear_conv(call: NodeCall) -> Result:
    """The integer convolution with an i32 bias, scaled by x_scale * w_scale / y_scale."""
    b = call.builder
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (call.input(i) for i in range(8))

    def per_channel(v: Value, rank: int, axis: int) -> Value:
        if v.rank == 0 or v.shape[0] == 1:
            return reshape(b, v, ())
        return reshape(b, v, [v.shape[0] if k == axis else 1 for k in range(rank)])

    def centred(v: Value, zero: Value) -> Value:
        return b.one("sub", [b.one("cast", [v], to=DType.I32), b.one("cast", [zero], to=DType.I32)])

    total = conv(call, centred(x, reshape(b, x_zero, ())), centred(w, per_channel(w_zero, w.rank, 0)), call.optional(8))
    factor = b.one("div", [b.one("mul", [reshape(b, x_scale, ()), w_scale]), reshape(b, y_scale, ())])
    real = b.one("mul", [b.one("cast", [total], to=DType.F32), per_channel(factor, x.rank, 1)])
    one = b.constant(np.asarray(1, np.float32))
    return quantise(b, real, one, reshape(b, y_zero, ()), y_zero.dtype)
