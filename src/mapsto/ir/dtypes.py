"""Element types: their names, sizes and numpy twins.

Names follow ONNX's short forms: f32, f64, f16, bf16, i8..i64, u8..u64, bool. *Storage types* are those that are held
and moved, but computed with in no op: floats of 8 and 4 bits, integers of 4 and 2. `decode` and `encode`
(`ops/storage.py`) turn them into types of arithmetic and back.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class DType(enum.Enum):
    F16 = "f16"
    BF16 = "bf16"
    F32 = "f32"
    F64 = "f64"
    I8 = "i8"
    I16 = "i16"
    I32 = "i32"
    I64 = "i64"
    U8 = "u8"
    U16 = "u16"
    U32 = "u32"
    U64 = "u64"
    BOOL = "bool"
    F8E4M3FN = "f8e4m3fn"
    F8E4M3FNUZ = "f8e4m3fnuz"
    F8E5M2 = "f8e5m2"
    F8E5M2FNUZ = "f8e5m2fnuz"
    F8E8M0 = "f8e8m0"
    F4E2M1 = "f4e2m1"
    I4 = "i4"
    U4 = "u4"
    I2 = "i2"
    U2 = "u2"

    __hash__ = object.__hash__  # each is one object: types are parts of most keys, and a hash in Python takes longer

    @property
    def numpy(self) -> np.dtype:
        """The numpy dtype of the same bits (of `ml_dtypes` where numpy has none)."""
        known = _NUMPY.get(self)
        return _others()[self] if known is None else known

    @property
    def size(self) -> int:
        """Bytes of one element in memory (bool: one byte, 0 or 1; fewer than 8 bits: the low ones of a byte, as in
        `ml_dtypes`, the others mean nothing).
        """
        return _SIZES[self]

    @property
    def bits(self) -> int:
        """Bits that mean something: what an element takes where elements are packed."""
        return _BITS.get(self) or 8 * _SIZES[self]

    @property
    def packed_size(self) -> float:
        """Bytes that an element takes where elements are packed."""
        return self.bits / 8

    @property
    def is_float(self) -> bool:
        return self in (DType.F16, DType.BF16, DType.F32, DType.F64)

    @property
    def is_half(self) -> bool:
        """Whether it is a float of 16 bits: arithmetic on these is done in f32."""
        return self in (DType.F16, DType.BF16)

    @property
    def is_signed(self) -> bool:
        return self.is_float or self in (DType.I8, DType.I16, DType.I32, DType.I64)

    @property
    def is_integer(self) -> bool:
        """Whether it is an integer that is computed with: no storage type is."""
        return self in _INTEGERS

    @property
    def is_storage(self) -> bool:
        return self in _DECODED

    @property
    def decoded(self) -> DType:
        """What elements of a storage type are computed in, which holds each of them exactly; itself for others."""
        return _DECODED.get(self, self)

    def __repr__(self) -> str:
        return self.value


_NUMPY: dict[DType, np.dtype] = {
    DType.F16: np.dtype(np.float16),
    DType.F32: np.dtype(np.float32),
    DType.F64: np.dtype(np.float64),
    DType.I8: np.dtype(np.int8),
    DType.I16: np.dtype(np.int16),
    DType.I32: np.dtype(np.int32),
    DType.I64: np.dtype(np.int64),
    DType.U8: np.dtype(np.uint8),
    DType.U16: np.dtype(np.uint16),
    DType.U32: np.dtype(np.uint32),
    DType.U64: np.dtype(np.uint64),
    DType.BOOL: np.dtype(np.bool_),
}
_BY_NUMPY = {dtype: ours for ours, dtype in _NUMPY.items()}
_INTEGERS = frozenset(ours for ours, dtype in _NUMPY.items() if dtype.kind in "iu")
# Names of the types that numpy itself lacks, in `ml_dtypes`.
_OTHERS = {
    DType.BF16: "bfloat16",
    DType.F8E4M3FN: "float8_e4m3fn",
    DType.F8E4M3FNUZ: "float8_e4m3fnuz",
    DType.F8E5M2: "float8_e5m2",
    DType.F8E5M2FNUZ: "float8_e5m2fnuz",
    DType.F8E8M0: "float8_e8m0fnu",
    DType.F4E2M1: "float4_e2m1fn",
    DType.I4: "int4",
    DType.U4: "uint4",
    DType.I2: "int2",
    DType.U2: "uint2",
}
_BY_NAME = {name: ours for ours, name in _OTHERS.items()}
_SIZES = {**{ours: dtype.itemsize for ours, dtype in _NUMPY.items()}, **dict.fromkeys(_OTHERS, 1), DType.BF16: 2}
_BITS = {DType.F4E2M1: 4, DType.I4: 4, DType.U4: 4, DType.I2: 2, DType.U2: 2}
_DECODED = {
    **dict.fromkeys((DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ), DType.F32),
    **dict.fromkeys((DType.F8E8M0, DType.F4E2M1), DType.F32),
    **dict.fromkeys((DType.I4, DType.I2), DType.I8),
    **dict.fromkeys((DType.U4, DType.U2), DType.U8),
}


@functools.cache
def _others() -> dict[DType, np.dtype]:
    import ml_dtypes  # 5 to 10 ms, which most runs need not wait for

    return {ours: np.dtype(getattr(ml_dtypes, name)) for ours, name in _OTHERS.items()}


def filled(shape: Sequence[int], value: float | int | bool, dtype: DType) -> Array:
    """An array of one value everywhere, a `scalar`."""
    if dtype.is_storage:
        return np.full(tuple(shape), value, np.uint8).view(dtype.numpy)
    return np.full(tuple(shape), value, dtype.numpy)


def scalar(array: Array) -> float | int | bool:
    """The only element of an array as a Python number; of a storage type its bits."""
    only: float | int | bool = (
        (array.view(np.uint8) if from_numpy(array.dtype).is_storage else array).reshape(-1)[0].item()
    )
    return only


def from_numpy(dtype: np.dtype | type) -> DType:
    """The DType of a numpy dtype. Raises KeyError for one without a twin (strings, complex)."""
    wanted = np.dtype(dtype)
    known = _BY_NUMPY.get(wanted) or _BY_NUMPY.get(wanted.newbyteorder("="))
    if known is not None:
        return known
    other = _BY_NAME.get(wanted.name)
    return other if other is not None and wanted == other.numpy else _BY_NUMPY[wanted]
