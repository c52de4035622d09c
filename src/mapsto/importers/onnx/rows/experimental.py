"""Rows of ops that were experiments of the standard and left it by opset 9. Old exporters wrote them; what they mean is
settled: their descriptions are those of ONNX 1.0 to 1.3 (onnx/defs/experiments).
"""

from __future__ import annotations

import numpy as np

from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.ops.arranging import column, slice_axis


@row("Affine", "Scale")
def _affine(call: NodeCall) -> Result:
    """alpha * x + beta; Scale calls its factor `scale`, and adds nothing."""
    b, x = call.builder, call.input()
    if call.op == "Scale":
        return b.one("mul", [x, call.scalar(call.number("scale", 1.0), x)])
    scaled = b.one("mul", [x, call.scalar(call.number("alpha", 1.0), x)])
    return b.one("add", [scaled, call.scalar(call.number("beta", 0.0), x)])


@row("ScaledTanh", "ParametricSoftplus")
def _scaled(call: NodeCall) -> Result:
    """alpha * f(beta * x)"""
    b, x = call.builder, call.input()
    function = "tanh" if call.op == "ScaledTanh" else "softplus"
    inner = b.one(function, [b.one("mul", [x, call.scalar(call.number("beta", 1.0), x)])])
    return b.one("mul", [inner, call.scalar(call.number("alpha", 1.0), x)])


@row("ImageScaler")
def _image_scaler(call: NodeCall) -> Result:
    """x[N, C, H, W] * scale + bias[C]"""
    b, x = call.builder, call.input()
    scaled = b.one("mul", [x, call.scalar(call.number("scale", 1.0), x)])
    bias = call.numbers("bias")
    if not bias:
        return scaled
    return b.one("add", [scaled, column(b, b.constant(np.asarray(bias), "bias", x.dtype), 1, x.rank)])


@row("Crop")
def _crop(call: NodeCall) -> Result:
    """x[N, C, H, W] without `border` (left, top, right, bottom); `scale` may say the height and width that are left."""
    x, border = call.input(), call.integers("border") or []
    if x.rank != 4 or len(border) != 4:
        raise call.wrong(f"border {border} of {x}: it takes a tensor of 4 axes and 4 widths")
    left, top, right, bottom = border
    height: Dim = x.shape[2] - top - bottom
    width: Dim = x.shape[3] - left - right
    if size := call.integers("scale"):
        height, width = size
    return slice_axis(call.builder, slice_axis(call.builder, x, 2, top, height), 3, left, width)


@row("GivenTensorFill")
def _given_tensor_fill(call: NodeCall) -> Result:
    values, shape = call.numbers("values"), call.integers("shape")
    if values is None or shape is None:
        raise call.unsupported("only attributes values and shape are supported; make it a Constant")
    return call.builder.constant(np.asarray(values, np.float32).reshape(shape), call.outputs[0] or "c")


@row("ConstantFill")
def _constant_fill(call: NodeCall) -> Result:
    """A tensor of one value, of a shape from an attribute, an input's shape, or an input's content."""
    shape: list[Dim] = list(call.integers("shape") or [])
    if call.has(0):
        if shape:
            raise call.wrong("it has an input and attribute shape, of which one is allowed")
        shape = call.dims(0, "size") if call.integer("input_as_shape", 0) else list(call.input().shape)
        shape += call.integers("extra_shape") or []
    dtype = call.dtype("dtype", DType.F32)
    value = call.number("value", 0.0)
    return call.builder.one("full", [], shape=tuple(shape), value=value if dtype.is_float else int(value), dtype=dtype)
