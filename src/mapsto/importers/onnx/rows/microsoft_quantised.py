"""Rows of `com.microsoft` that quantizers write: integers with scales and zero points around an op.

An op between quantised tensors is computed on the real numbers that they stand for, and its result quantised: products
and sums of products in exact 32-bit integers. Where ONNX Runtime's kernels round a table's entry or an average's
factor before, results may be one apart. (ONNX Runtime's docs/ContribOperators.md)
"""

from __future__ import annotations

import numpy as np

from mapsto.importers.onnx.block_weights import block_weights_of
from mapsto.importers.onnx.rows.common import beside, centred_matrix
from mapsto.importers.onnx.rows.indexing import as_index
from mapsto.importers.onnx.rows.microsoft import DOMAIN, attended
from mapsto.importers.onnx.rows.quantisation import dequantised, laid_out, over_blocks
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.arranging import reshape, transpose
from mapsto.ops.quantisation import dequantise, quantise


def _real(call: NodeCall, i: int) -> Value:
    """The real numbers of input i with its scale and zero point behind it, of one element each."""
    b = call.builder
    scale = reshape(b, call.input(i + 1), ())
    return dequantise(b, call.input(i), scale, _point(call, i + 2), DType.F32)


def _point(call: NodeCall, i: int) -> Value | None:
    zero = call.optional(i)
    return None if zero is None else reshape(call.builder, zero, ())


def _quantised(call: NodeCall, x: Value, i: int, dtype: DType) -> Value:
    """x by the scale and zero point that are inputs i and i + 1; of the type of what was read."""
    return quantise(call.builder, x, reshape(call.builder, call.input(i), ()), _point(call, i + 1), dtype)


# -- elementwise -------------------------------------------------------------------------------------------------------


@row("QLinearAdd", "QLinearMul", domain=DOMAIN)
def _qlinear_binary(call: NodeCall) -> Result:
    op = {"QLinearAdd": "add", "QLinearMul": "mul"}[call.op]
    result = call.builder.one(op, [_real(call, 0), _real(call, 3)])
    return _quantised(call, result, 6, call.input(0).dtype)


@row("QLinearSigmoid", "QLinearLeakyRelu", domain=DOMAIN)
def _qlinear_unary(call: NodeCall) -> Result:
    result = call.standard(call.op.removeprefix("QLinear"), _real(call, 0))
    return _quantised(call, result, 3, call.input(0).dtype)


@row("QLinearSoftmax", domain=DOMAIN)
def _qlinear_softmax(call: NodeCall) -> Result:
    """The attribute opset says by which version of Softmax: before 13, over all axes from `axis` on."""
    result = call.standard("Softmax", _real(call, 0), opset=call.integer("opset"))
    return _quantised(call, result, 3, call.input(0).dtype)


@row("QLinearReduceMean", domain=DOMAIN)
def _qlinear_mean(call: NodeCall) -> Result:
    return _quantised(call, call.standard("ReduceMean", _real(call, 0), opset=13), 3, call.input(0).dtype)


@row("QLinearWhere", domain=DOMAIN)
def _qlinear_where(call: NodeCall) -> Result:
    chosen = call.builder.one("select", [call.input(0), _real(call, 1), _real(call, 4)])
    return _quantised(call, chosen, 7, call.input(1).dtype)


@row("QLinearConcat", domain=DOMAIN)
def _qlinear_concat(call: NodeCall) -> Result:
    """Scale and zero point of the result come first, then tensors with theirs."""
    count, rest = divmod(len(call.inputs) - 2, 3)
    if count < 1 or rest:
        raise call.wrong(f"{len(call.inputs)} inputs are not two and some triples")
    parts = [_real(call, 2 + 3 * k) for k in range(count)]
    joined = call.builder.one("concat", parts, axis=call.axis(parts[0].rank))
    return _quantised(call, joined, 0, call.input(2).dtype)


# -- pools -------------------------------------------------------------------------------------------------------------


@row("QLinearAveragePool", "QLinearGlobalAveragePool", domain=DOMAIN)
def _qlinear_average(call: NodeCall) -> Result:
    """With `channels_last`, of [batch, space..., channels]."""
    b, x = call.builder, _real(call, 0)
    last = bool(call.integer("channels_last", 0))
    x = transpose(b, x, (0, x.rank - 1, *range(1, x.rank - 1))) if last else x
    result = call.standard(call.op.removeprefix("QLinear"), x)
    result = transpose(b, result, (0, *range(2, x.rank), 1)) if last else result
    return _quantised(call, result, 3, call.input(0).dtype)


# -- products ----------------------------------------------------------------------------------------------------------


@row("QGemm", domain=DOMAIN)
def _qgemm(call: NodeCall) -> Result:
    """alpha A B + C in integers, then real numbers, or integers where the result's scale is given."""
    b = call.builder
    a, c = call.input(0), call.input(3)
    a, c = (
        composite.transpose_last(b, x) if call.integer(turned, 0) else x for x, turned in ((a, "transA"), (c, "transB"))
    )
    left = centred_matrix(b, a, call.optional(2), by_column=False)
    total = b.one("matmul", [left, centred_matrix(b, c, call.optional(5), by_column=True)])
    total = b.one("add", [total, call.input(6)]) if call.has(6) else total
    factor = b.one("mul", [beside(b, call.input(1), False), beside(b, call.input(4), True)])
    factor = b.one("mul", [factor, call.scalar(call.number("alpha", 1.0), factor)])
    real = b.one("mul", [b.one("cast", [total], to=DType.F32), factor])
    return _quantised(call, real, 7, call.input(8).dtype if call.has(8) else a.dtype) if call.has(7) else real


@row("MatMulIntegerToFloat", domain=DOMAIN)
def _matmul_to_float(call: NodeCall) -> Result:
    return _scaled_product(call, call.input(0), call.input(2), call.optional(4), call.input(3), call.optional(5), 6)


@row("DynamicQuantizeMatMul", domain=DOMAIN)
def _dynamic_matmul(call: NodeCall) -> Result:
    """A is quantised by its own range, as DynamicQuantizeLinear does."""
    whole, scale, zero = call.several("DynamicQuantizeLinear", call.input(0), outputs=3)
    return _scaled_product(call, whole, scale, zero, call.input(2), call.optional(3), 4)


def _scaled_product(
    call: NodeCall, a: Value, a_scale: Value, a_zero: Value | None, scale: Value, zero: Value | None, bias: int
) -> Value:
    """The product of a with input 1 in integers, scaled, plus the bias that input `bias` may be."""
    b = call.builder
    left = centred_matrix(b, a, a_zero, by_column=False)
    total = b.one("matmul", [left, centred_matrix(b, call.input(1), zero, by_column=True)])
    factor = b.one("mul", [beside(b, a_scale, False), beside(b, scale, True)])
    real = b.one("mul", [b.one("cast", [total], to=factor.dtype), factor])
    return b.one("add", [real, call.input(bias)]) if call.has(bias) else real


@row("MatMulNBits", domain=DOMAIN)
def _matmul_n_bits(call: NodeCall) -> Result:
    """A[..., K] times the transpose of B[N, K], whose elements of 2, 4 or 8 bits lie in blocks along K, each with a
    scale and a zero point (half the range where none is given). Constant weights stay integers, or are unpacked when
    compiling where A is neither f32 nor f16.
    """
    b, a = call.builder, call.input(0)
    width, columns, bits = call.integer("K"), call.integer("N"), call.integer("bits", 4)
    size = call.integer("block_size")
    packed, points = call.array(1), call.array(3)
    if bits not in (2, 4, 8) or size < 1 or width < 1 or columns < 1:
        raise call.unsupported(f"bits={bits}, block_size={size} is not supported; bits may be 2, 4, or 8")
    if packed is None or (call.has(3) and points is None):
        raise call.unsupported("weights that come with the run are not supported; make them initializers")
    if call.has(4):
        raise call.unsupported("g_idx (input 4) is not supported; leave blocks in order")
    blocks = -(-width // size)
    if packed.size != columns * blocks * (size * bits // 8):
        raise call.wrong(f"{call.port(1)} has {packed.size} bytes, not {columns * blocks * (size * bits // 8)}")
    whole = _unpacked(packed.reshape(columns, -1), bits)[:, : blocks * size].reshape(columns, blocks, size)
    middle = np.full((columns, blocks), 1 << (bits - 1), np.float32)
    if points is not None and points.dtype == np.uint8:
        middle = _unpacked(points.reshape(columns, -1), bits)[:, :blocks].astype(np.float32)
    elif points is not None:
        middle = points.reshape(columns, blocks).astype(np.float32)
    if (product := _by_blocks(call, whole, middle, size)) is not None:
        return product if not call.has(5) else b.one("add", [product, call.input(5)])
    centred = b.constant(whole.astype(np.float32) - middle[:, :, None], "weights", a.dtype)
    scale = reshape(b, composite.cast(b, call.input(2), a.dtype), (columns, blocks, 1))
    real = reshape(b, b.one("mul", [centred, scale]), (columns, blocks * size))
    if blocks * size != width:
        real = b.one("slice", [real], starts=(0, 0), steps=(1, 1), shape=(columns, width))
    product = composite.linear(b, a, real, call.optional(5))
    return product


@row("GatherBlockQuantized", domain=DOMAIN)
def _gather_block_quantized(call: NodeCall) -> Result:
    """Rows of a table of integers that lie in blocks along an axis, each with a scale and a zero point. Integers of 4
    bits that are two in a byte, and bytes, have the middle of their range for zero where none is given; others 0.
    """
    b, size, bits = call.builder, call.integer("block_size", 128), call.integer("bits", 4)
    data, points = call.input(0), call.optional(3)
    if size < 1:
        raise call.wrong(f"block_size is {size}")
    if data.dtype is DType.U8:
        if bits not in (4, 8):
            raise call.unsupported(f"bits={bits} is not supported; bits may be 4 or 8")
        data = _in_bytes(call, 0, bits)
        points = _in_bytes(call, 3, bits) if points is not None else b.constant(np.uint8(1 << (bits - 1)), "middle")
    if data.rank < 1:
        raise call.wrong("the data has no axes")
    axis, along = call.axis(data.rank, 0, "gather_axis"), call.axis(data.rank, 1, "quantize_axis")
    indices, scale = as_index(b, call.input(1)), call.input(2)
    if points is not None and points.rank and points.shape[along] != scale.shape[along]:
        shape = tuple(scale.shape)  # of 4 bits, an odd number of blocks has half a byte to spare
        points = b.one("slice", [points], starts=(0,) * data.rank, steps=(1,) * data.rank, shape=shape)
    parts = [scale] if points is None or not points.rank else [scale, points]
    if axis == along:
        parts = [over_blocks(call, each, data, along, size) for each in parts]
    data, *parts = (b.one("gather", [each, indices], axis=axis) for each in (data, *parts))
    if axis != along:
        after = along + indices.rank - 1 if along > axis else along
        parts = [over_blocks(call, each, data, after, size) for each in parts]
    point = points if len(parts) == 1 else parts[1]
    return dequantise(b, data, parts[0], point, scale.dtype)


def _in_bytes(call: NodeCall, i: int, bits: int) -> Value:
    """Constant elements of so many bits, a byte each."""
    packed = call.array(i)
    if bits == 8:
        return call.input(i)
    if packed is None:
        raise call.unsupported(f"{call.port(i)} comes with the run, two elements in a byte; make it an initializer")
    return call.builder.constant(_unpacked(packed, bits), "table")


def _by_blocks(call: NodeCall, whole: np.ndarray, middle: np.ndarray, size: int) -> Value | None:
    """The product by integers (columns, blocks, size); None where a zero point is none, or it is to be trained."""
    scale = call.array(2)
    if scale is None or call.translator.learning is not None or not np.array_equal(middle, np.rint(middle)):
        return None
    columns, width = whole.shape[0], call.integer("K")
    if scale.size != middle.size:
        return None
    q, scale = whole.reshape(columns, -1)[:, :width], scale.reshape(columns, -1)
    found = block_weights_of(q, middle, scale, 1, size)
    return None if found is None else found.turned.product(call.builder, call.input(0))


def _unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """Elements of bytes along the last axis, those in the low bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (packed.astype(np.uint8)[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return parts.reshape(*packed.shape[:-1], -1)


@row("QAttention", domain=DOMAIN)
def _qattention(call: NodeCall) -> Result:
    """Attention whose first product is one of integers."""
    made = _scaled_product(call, call.input(0), call.input(3), call.optional(6), call.input(4), call.optional(7), 2)
    return attended(call, made, call.optional(5), call.optional(8), None)


# -- the others --------------------------------------------------------------------------------------------------------


@row("QuantizeLinear", domain=DOMAIN)
def _quantize(call: NodeCall) -> Result:
    x, zero = call.input(0), call.optional(2)
    point = None if zero is None else laid_out(call, zero, x)
    return quantise(call.builder, x, laid_out(call, call.input(1), x), point, DType.U8 if zero is None else zero.dtype)


@row("DequantizeLinear", domain=DOMAIN)
def _dequantize(call: NodeCall) -> Result:
    return dequantised(call, call.input(1).dtype)
