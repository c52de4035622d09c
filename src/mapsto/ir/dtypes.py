"""Element types: their names, sizes and numpy twins.

Names follow ONNX's short forms: f32, f64, f16, bf16, i8..i64, u8..u64, bool.
"""

from __future__ import annotations

import enum
import functools
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

    __hash__ = object.__hash__  # each is one object: types are parts of most keys, and a hash in Python takes longer

    @property
    def numpy(self) -> np.dtype:
        """The numpy dtype of the same bits (bfloat16 by `ml_dtypes`)."""
        return _bfloat16() if self is DType.BF16 else _NUMPY[self]

    @property
    def size(self) -> int:
        """Bytes of one element in memory (bool: one byte, 0 or 1)."""
        return _SIZES[self]

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
        return not self.is_float and self is not DType.BOOL

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
_SIZES = {DType.BF16: 2, **{ours: dtype.itemsize for ours, dtype in _NUMPY.items()}}


@functools.cache
def _bfloat16() -> np.dtype:
    import ml_dtypes  # 5 to 10 ms, which most runs need not wait for

    found: np.dtype = np.dtype(ml_dtypes.bfloat16)
    return found


def from_numpy(dtype: np.dtype | type) -> DType:
    """The DType of a numpy dtype. Raises KeyError for one without a twin (strings, complex)."""
    wanted = np.dtype(dtype)
    known = _BY_NUMPY.get(wanted) or _BY_NUMPY.get(wanted.newbyteorder("="))
    if known is None and wanted.name == "bfloat16" and wanted == _bfloat16():
        return DType.BF16
    return _BY_NUMPY[wanted] if known is None else known
