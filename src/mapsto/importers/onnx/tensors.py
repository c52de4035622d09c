"""Tensors of a model file as numpy arrays: sizes checked before anything is multiplied, external data only inside its
folder.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np
import onnx

from mapsto.budget import current
from mapsto.errors import ModelError, UnsupportedError
from mapsto.importers.external import DataFiles
from mapsto.ir.dtypes import DType
from mapsto.witness import current as witness

T = onnx.TensorProto
_NEWEST = {"INT2": DType.I2, "UINT2": DType.U2}  # onnx 1.20 has them
DTYPES: dict[int, DType] = {
    T.FLOAT: DType.F32,
    T.DOUBLE: DType.F64,
    T.FLOAT16: DType.F16,
    T.BFLOAT16: DType.BF16,
    T.INT8: DType.I8,
    T.INT16: DType.I16,
    T.INT32: DType.I32,
    T.INT64: DType.I64,
    T.UINT8: DType.U8,
    T.UINT16: DType.U16,
    T.UINT32: DType.U32,
    T.UINT64: DType.U64,
    T.BOOL: DType.BOOL,
    T.FLOAT8E4M3FN: DType.F8E4M3FN,
    T.FLOAT8E4M3FNUZ: DType.F8E4M3FNUZ,
    T.FLOAT8E5M2: DType.F8E5M2,
    T.FLOAT8E5M2FNUZ: DType.F8E5M2FNUZ,
    T.FLOAT8E8M0: DType.F8E8M0,
    T.FLOAT4E2M1: DType.F4E2M1,
    T.INT4: DType.I4,
    T.UINT4: DType.U4,
    **{T.DataType.Value(name): dtype for name, dtype in _NEWEST.items() if name in T.DataType.keys()},
}
# Typed fields of a TensorProto and the elements they may hold (onnx.proto, message TensorProto).
_FIELDS: dict[str, frozenset[int]] = {
    "float_data": frozenset({T.FLOAT}),
    "double_data": frozenset({T.DOUBLE}),
    "int64_data": frozenset({T.INT64}),
    "uint64_data": frozenset({T.UINT32, T.UINT64}),
    "int32_data": frozenset({T.INT32, T.INT16, T.INT8, T.UINT16, T.UINT8, T.BOOL, T.FLOAT16, T.BFLOAT16})
    | {number for number, dtype in DTYPES.items() if dtype.is_storage},
}


def dtype_of(number: int, where: str) -> DType:
    """The element type of an ONNX type number. Raises UnsupportedError naming a type that we have not."""
    if number in DTYPES:
        return DTYPES[number]
    known = {v: k for k, v in T.DataType.items()}
    ours = ", ".join(d.value for d in DType)
    raise UnsupportedError(f"{where}: element type {known.get(number, number)} is not supported; use one of {ours}")


class TensorReader:
    """Reads tensors. A region of external data is read once, however many tensors name it, and those that see it alike
    are one array.
    """

    def __init__(self, files: DataFiles) -> None:
        self.files = files
        self._regions: dict[tuple[int, int, int, int], bytes] = {}
        self._arrays: dict[tuple[int, DType, tuple[int, ...]], np.ndarray] = {}  # by the id of the region's bytes
        self._taken: dict[tuple[int, int], int] = {}  # bytes of a file that are read so far

    def array(self, tensor: Any, where: str) -> np.ndarray:
        """The elements of a TensorProto. Raises ModelError where sizes, data and type do not agree."""
        where = f"{where}: tensor {tensor.name!r}" if tensor.name else where
        dtype = dtype_of(tensor.data_type, where)
        shape, count = self._shape(tensor, where)
        size = -(-count * dtype.bits // 8)
        held = self._held(tensor)
        if self.is_kept(tensor):
            region = self._external(tensor, size, where)
            seen = id(region), dtype, shape
            if seen not in self._arrays:
                if dtype.bits < 8:
                    current().charge("tensors", count, where)
                self._arrays[seen] = _elements(region, dtype, shape, count)
            return self._arrays[seen]
        current().charge("tensors", count * dtype.size, where)
        if held is None and not tensor.HasField("raw_data"):
            return self._typed(tensor, dtype, shape, count, where)
        data = tensor.raw_data if held is None else held
        if len(data) != size:
            raise ModelError(
                f"{where}: {len(data)} bytes of data for {list(shape)} elements of {dtype.value}, which are {size} "
                "bytes"
            )
        return _elements(data, dtype, shape, count)

    def is_kept(self, tensor: Any) -> bool:
        """Whether the array of a tensor is kept, for others that name the same region."""
        return tensor.data_location == T.EXTERNAL and self._held(tensor) is None

    def _held(self, tensor: Any) -> np.ndarray | None:
        """The bytes of a tensor that was left where the model's file was read."""
        if not self.files.held or tensor.data_location != T.EXTERNAL:
            return None
        return self.files.held.get(next((e.value for e in tensor.external_data if e.key == "location"), ""))

    def _shape(self, tensor: Any, where: str) -> tuple[tuple[int, ...], int]:
        shape = tuple(int(d) for d in tensor.dims)
        current().check("rank", len(shape), where)
        count = 1  # Python integers: nothing wraps around
        for extent in shape:
            if extent < 0:
                raise ModelError(f"{where}: shape {list(shape)} has a negative extent")
            count *= extent
        return shape, count

    def _typed(self, tensor: Any, dtype: DType, shape: tuple[int, ...], count: int, where: str) -> np.ndarray:
        for field, kinds in _FIELDS.items():
            if tensor.data_type not in kinds:
                continue
            data = getattr(tensor, field)
            entries = -(-count * dtype.bits // 8) if dtype.is_storage else count
            if len(data) != entries:
                raise ModelError(f"{where}: {len(data)} elements in `{field}` for shape {list(shape)}")
            if dtype.is_storage:  # each byte of raw data in an int32
                return _elements(bytes(int(v) & 0xFF for v in data), dtype, shape, count)
            if dtype.is_half:  # each element's bits in the low half of an int32
                bits = np.array([int(v) & 0xFFFF for v in data], dtype=np.uint16)
                return bits.view(dtype.numpy).reshape(shape)
            try:
                return np.array(data, dtype=dtype.numpy).reshape(shape)
            except OverflowError as error:
                raise ModelError(f"{where}: an element does not fit {dtype.value} ({error})") from error
        raise ModelError(f"{where}: no data for elements of {dtype.value}")

    # -- external data -------------------------------------------------------------------------------------------------

    def _external(self, tensor: Any, size: int, where: str) -> bytes:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        offset = _number(entries.get("offset", "0"), f"{where}: external data offset")
        length = _number(entries.get("length", str(size)), f"{where}: external data length")
        if length != size:
            raise ModelError(f"{where}: external data of {length} bytes where the shape needs {size}")
        location = entries.get("location", "")
        descriptor = self.files.open(location, where)
        try:
            seen = None if (told := witness()) is None else told.opened(location, descriptor)
            status = os.fstat(descriptor)
            if offset + length > status.st_size:
                raise ModelError(
                    f"{where}: external data ends at byte {offset + length} of a file of {status.st_size} bytes"
                )
            region = (status.st_dev, status.st_ino, offset, length)
            anew = region not in self._regions
            if anew:
                self._take(status, length, where)
                self._regions[region] = _read(descriptor, offset, length, where)
            if seen is not None:
                seen.read(offset, self._regions[region], anew)
        finally:
            os.close(descriptor)
        return self._regions[region]

    def _take(self, status: os.stat_result, length: int, where: str) -> None:
        """Regions that overlap without being the same are no exporter's: they would make much of a small file."""
        file = (status.st_dev, status.st_ino)
        self._taken[file] = self._taken.get(file, 0) + length
        if self._taken[file] > status.st_size:
            raise ModelError(
                f"{where}: regions of external data overlap: {self._taken[file]} bytes of a file of {status.st_size}; "
                "save the model with a place of its own for each tensor"
            )
        current().charge("bytes", length, where)


def _read(descriptor: int, offset: int, length: int, where: str) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(offset)
        data = file.read(length)
    if len(data) != length:
        raise ModelError(f"{where}: external data was cut short while reading")
    return data


def _number(text: str, where: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise ModelError(f"{where}: {text[:40]!r} is not a size")
    return int(text)


def _elements(data: bytes | np.ndarray, dtype: DType, shape: tuple[int, ...], count: int) -> np.ndarray:
    """The elements that a file's bytes hold: those of fewer than 8 bits lie packed there, the first in the low bits."""
    if dtype.bits == 8 * dtype.size:
        return _booleans(np.frombuffer(data, dtype=_little(dtype)).reshape(shape), dtype)
    shifts = np.arange(0, 8, dtype.bits, dtype=np.uint8)
    codes = (np.frombuffer(data, np.uint8)[:, None] >> shifts) & np.uint8((1 << dtype.bits) - 1)
    return codes.reshape(-1)[:count].view(dtype.numpy).reshape(shape)


@functools.cache
def _little(dtype: DType) -> np.dtype:
    """Files hold little-endian elements; booleans are read as bytes and checked."""
    return dtype.numpy if dtype is DType.BF16 or dtype.is_storage else dtype.numpy.newbyteorder("<")


def _booleans(data: np.ndarray, dtype: DType) -> np.ndarray:
    """Any byte but zero is True: a byte 2 read as a bool would break what comes after."""
    return data.view(np.uint8) != 0 if dtype is DType.BOOL else data
