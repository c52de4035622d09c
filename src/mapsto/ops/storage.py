"""Storage types (floats of 8 and 4 bits, integers of 4 and 2): `decode` to a type of arithmetic, `encode` back.

What only moves elements takes them as they are. An element takes a byte, of which types of fewer bits use the low ones
and leave the others without a meaning, as `ml_dtypes` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import Array, DType, from_numpy
from mapsto.ir.expr import sym
from mapsto.kernel.ast import Op, Stmt
from mapsto.kernel.blocks import low_bits
from mapsto.kernel.minifloats import ROUNDINGS, decoded, encode_reference, encoded
from mapsto.ops.registry import Inference, Lowering, OpSpec, Shape, register
from mapsto.ops.shapes import STORAGE, describe, require_dtype

# ---- decode ----------------------------------------------------------------------------------------------------------


def _infer_decode(inference: Inference) -> list[tuple[DType, Shape]]:
    return [(require_dtype(inference, 0, STORAGE).decoded, inference.value(0).shape)]


def _decode(inputs: list[Array], attrs: Mapping[str, Any], shapes: Sequence[Any]) -> list[Array]:
    (x,) = inputs
    return [x.astype(from_numpy(x.dtype).decoded.numpy)]


def _lower_decode(low: Lowering) -> list[Stmt]:
    iters = low.iters(low.output.shape)
    load = low.load(0, [sym(i.name) for i in iters])
    if load.dtype.decoded is DType.F32:
        return [low.stmt(iters, decoded(Op("bitcast", (load,), DType.U8), load.dtype))]
    return [low.stmt(iters, low_bits(Op("bitcast", (load,), load.dtype.decoded), load.dtype.bits))]


# decode(x): the f32 (of a float), i8 or u8 that each element is, exactly.
register(OpSpec("decode", "elementwise", _infer_decode, _decode, _lower_decode))

# ---- encode ----------------------------------------------------------------------------------------------------------


def _infer_encode(inference: Inference) -> list[tuple[DType, Shape]]:
    to = inference.attrs["to"]
    if to not in STORAGE or inference.attrs["rounding"] not in ROUNDINGS:
        raise ShapeError(f"{describe(inference)}: to={to.value} is no storage type, or rounding is none of {ROUNDINGS}")
    allowed = {DType.F32, DType.F64} if to.decoded is DType.F32 else {DType.I8, DType.U8}
    require_dtype(inference, 0, frozenset(allowed))
    return [(to, inference.value(0).shape)]


def _encode(inputs: list[Array], attrs: Mapping[str, Any], shapes: Sequence[Any]) -> list[Array]:
    (x,), to = inputs, attrs["to"]
    if to.decoded is DType.F32:
        return [encode_reference(x, to, attrs["saturate"], attrs["rounding"])]
    return [(np.ascontiguousarray(x).view(np.uint8) & ((1 << to.bits) - 1)).view(to.numpy).reshape(x.shape)]


def _lower_encode(low: Lowering) -> list[Stmt]:
    iters, to = low.iters(low.output.shape), low.output.dtype
    load = low.load(0, [sym(i.name) for i in iters])
    if to.decoded is DType.F32:
        code = encoded(load, to, low.attrs["saturate"], low.attrs["rounding"])
    else:
        code = low_bits(load if load.dtype is DType.U8 else Op("bitcast", (load,), DType.U8), to.bits)
    return [low.stmt(iters, Op("bitcast", (code,), to))]


# encode(x; to, saturate, rounding): f32 or f64 to a float storage type by ONNX's tables for Cast (`saturate`: what is
# out of range becomes the largest number; `rounding` of f8e8m0: "up", "down", "nearest"), rounded once; i8 or u8 to an
# integer one, of which it keeps the low bits.
register(OpSpec("encode", "elementwise", _infer_encode, _encode, _lower_encode))
