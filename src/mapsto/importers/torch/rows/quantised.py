"""Rows of the quantiser's operators, `quantized_decomposed`: values rounded to integers, and these as numbers again.
Products of two such values are products of their integers (`integer_factors`).

    quantize    clamp(round(x / scale) + zero point, least, most)        dequantize    (q - zero point) * scale

`torch.ao.quantization.fx._decomposed` of PyTorch 2.13, which torchao's quantisers of exported graphs write.
"""

from __future__ import annotations

from mapsto.importers.quantised import Quantised
from mapsto.importers.torch.table import AtenCall, aten
from mapsto.importers.torch.tensors import dtype_of
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.arranging import column, reshape

_SPACE = "quantized_decomposed"


def _ends(call: AtenCall) -> tuple[int, int]:
    return tuple(call.integer(f"quant_{end}") for end in ("min", "max"))  # type: ignore[return-value]


def _rounded(call: AtenCall, scale: Value, zero: Value) -> Value:
    """scale, zero: f32, of one element or as they broadcast."""
    x = call.cast(call.value("input"), DType.F32)
    inverse = call.one("div", [call.scalar(1.0, DType.F32), scale])
    whole = call.one("add", [call.one("round", [call.one("mul", [x, inverse])]), zero])
    for op, end in zip(("max", "min"), _ends(call), strict=True):
        whole = call.one(op, [whole, call.scalar(end, DType.F32)])
    return call.cast(whole, call.out)


def _real(call: AtenCall, quantised: Quantised) -> Value:
    """The numbers, which are known to be dequantised integers from now on."""
    q, rank = call.cast(quantised.q, DType.F32), quantised.q.rank
    scale, zero = quantised.scale, quantised.zero
    if quantised.axis is not None:
        scale = column(call.builder, scale, quantised.axis, rank)
        zero = None if zero is None else column(call.builder, zero, quantised.axis, rank)
    less = q if zero is None else call.one("sub", [q, call.cast(zero, DType.F32)])
    made = call.cast(call.one("mul", [less, scale]), call.out)
    call.quantised.note(made, quantised)
    return made


def _by_tensor(call: AtenCall) -> tuple[Value, Value]:
    """Scale and zero point of all elements, numbers or tensors of one element, as f32 without axes."""
    found = [call.operand(name, DType.F32) for name in ("scale", "zero_point")]
    scale, zero = (v if not v.rank else reshape(call.builder, v, ()) for v in found)
    return scale, zero


@aten(f"{_SPACE}::quantize_per_tensor")
def _quantize_per_tensor(call: AtenCall) -> Value:
    return _rounded(call, *_by_tensor(call))


@aten(f"{_SPACE}::dequantize_per_tensor")
def _dequantize_per_tensor(call: AtenCall) -> Value:
    q, (scale, zero) = call.value("input"), _by_tensor(call)
    return _real(call, Quantised(q, scale, _as_stored(call, zero, q)))


@aten(f"{_SPACE}::quantize_per_channel")
def _quantize_per_channel(call: AtenCall) -> Value:
    x = call.value("input")
    axis = call.axis("axis", x.rank)
    scale, zero = (column(call.builder, call.cast(call.value(n), DType.F32), axis, x.rank) for n in _OF_CHANNELS)
    return _rounded(call, scale, zero)


@aten(f"{_SPACE}::dequantize_per_channel")
def _dequantize_per_channel(call: AtenCall) -> Value:
    q, scale = call.value("input"), call.cast(call.value("scales"), DType.F32)
    zero = _as_stored(call, call.value("zero_points"), q) if call.has("zero_points") else None
    return _real(call, Quantised(q, scale, zero, call.axis("axis", q.rank)))


_OF_CHANNELS = ("scales", "zero_points")


def _as_stored(call: AtenCall, zero: Value, q: Value) -> Value | None:
    """A zero point in the type of what it is taken from, where that holds it; None for zeros."""
    array = call.builder.array(zero)
    if array is not None and not array.any():
        return None
    return call.cast(zero, q.dtype)


@aten(f"{_SPACE}::choose_qparams")
def _choose_qparams(call: AtenCall) -> tuple[Value, Value]:
    """Scale (f64) and zero point (i64) by the least and the largest element, 0 among them."""
    b, x = call.builder, call.cast(call.value("input"), DType.F32)
    least, most = _ends(call)
    zero = call.scalar(0.0, DType.F32)
    low, high = (
        call.one(op, [composite.reduce(b, x, op, list(range(x.rank)), keepdims=False), zero]) for op in ("min", "max")
    )
    steps = call.scalar(float(most - least), DType.F32)
    scale = call.one("div", [call.one("sub", [high, low]), steps])
    scale = call.one("max", [scale, call.scalar(call.number("eps"), DType.F32)])
    point = call.one("sub", [call.scalar(least, DType.F32), call.one("round", [call.one("div", [low, scale])])])
    for op, end in (("max", least), ("min", most)):
        point = call.one(op, [point, call.scalar(end, DType.F32)])
    made = (call.cast(v, dtype_of(call.result(i).dtype)) for i, v in enumerate((scale, point)))
    found = [reshape(b, v, tuple(call.result(i).shape)) for i, v in enumerate(made)]  # one element each
    return found[0], found[1]
