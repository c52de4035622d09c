"""numpy arrays at the border: where their bytes lie, aligned ones, and the caller's arrays made readable in place."""

from __future__ import annotations

import ctypes
import math
import sys
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mapsto.errors import ShapeError
from mapsto.runtime.program import ALIGNMENT, Port

# bits of `array.flags.num` (numpy/ndarraytypes.h)
C_CONTIGUOUS, ALIGNED, WRITEABLE = 0x0001, 0x0100, 0x0400
READABLE = C_CONTIGUOUS | ALIGNED

_from_address = ctypes.c_int64.from_address
_DATA = (
    object.__basicsize__
)  # PyArrayObject starts with the object's head and the pointer to its data (numpy's stable ABI)


def _address_by_struct(array: np.ndarray) -> int:
    return _from_address(id(array) + _DATA).value


def _address_by_interface(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _pick_address() -> Callable[[np.ndarray], int]:
    """The structure is read directly (0.1 us instead of 1.0) where that gives what numpy's own interface says."""
    samples: list[np.ndarray] = [np.empty(3, np.uint8), np.empty((2, 5), np.float32)[1:], np.empty(())]
    if all(_address_by_struct(a) == _address_by_interface(a) for a in samples):
        return _address_by_struct
    return _address_by_interface


address_of: Callable[[np.ndarray], int] = _pick_address()
"""The address of an array's first element."""


def aligned_bytes(count: int) -> np.ndarray:
    """Bytes, not initialised, that start at a multiple of 64."""
    return _aligned(np.empty(count + ALIGNMENT, np.uint8), count)


def _aligned_zeros(count: int) -> np.ndarray:
    """The same, all of them 0: the system has such memory ready."""
    return _aligned(np.zeros(count + ALIGNMENT, np.uint8), count)


def _aligned(raw: np.ndarray, count: int) -> np.ndarray:
    skip = -address_of(raw) % ALIGNMENT
    block: np.ndarray = raw[skip : skip + count]
    return block


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype, count: int) -> np.ndarray:
    """An array of `count` bytes, not initialised, that starts at a multiple of 64."""
    raw = np.empty(count + ALIGNMENT, np.uint8)
    return np.ndarray(shape, dtype, raw, -address_of(raw) % ALIGNMENT)


@dataclass(eq=False)
class Deferred:
    """An array that is written where it is needed, and kept by nobody until then: packed weights take as much memory as
    the model's own. write: fills an array of zeros of this shape and dtype. Where it has been laid before it is copied
    from there, as long as that is alive: what is tuned is put together many times.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    write: Callable[[np.ndarray], None]
    _laid: tuple[weakref.ref[np.ndarray], int] | None = field(default=None, init=False, repr=False)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        made = np.zeros(self.shape, self.dtype)
        self.write(made)
        return made if dtype is None else made.astype(dtype)

    def lay(self, block: np.ndarray, start: int) -> None:
        """Into bytes that are 0."""
        place = block[start : start + self.nbytes]
        known, at = (None, 0) if self._laid is None else (self._laid[0](), self._laid[1])
        if known is None:
            self.write(place.view(self.dtype).reshape(self.shape))
        else:
            place[:] = known[at : at + self.nbytes]
        self._laid = weakref.ref(block), start


ConstantArray = np.ndarray | Deferred


def pack_constants(arrays: Mapping[str, ConstantArray]) -> tuple[np.ndarray, dict[str, int]]:
    """(one block of bytes, the offset of each array in it). Offsets and the block itself are aligned to 64 bytes.

    Arrays that are the same memory (tied weights; many tensors that name one place of a file) lie there once.
    """
    offsets: dict[str, int] = {}
    placed: dict[tuple[int, int], int] = {}
    kept: list[tuple[int, ConstantArray]] = []  # what an address is known by must not be let go meanwhile
    total = 0
    for name, given in arrays.items():
        array = given if isinstance(given, Deferred) else np.ascontiguousarray(given)
        key = (id(array) if isinstance(array, Deferred) else address_of(array), array.nbytes)
        if key not in placed:
            placed[key] = total
            kept.append((total, array))
            total += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        offsets[name] = placed[key]
    block = _aligned_zeros(total)
    for start, array in kept:
        if isinstance(array, Deferred):
            array.lay(block, start)
        else:
            block[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
    return block, offsets


def readable(port: Port, value: Any, updated: bool) -> np.ndarray:
    """The caller's value as an array that compiled code can read: of the port's dtype and rank, contiguous, aligned, in
    native byte order.

    It is the caller's own memory where that already holds. An `updated` one must be: a copy's new content would be
    lost. Raises ShapeError for another dtype or rank, or for an updated value that would have to be copied.
    """
    dtype = port.dtype.numpy
    array = _as_array(port, value, dtype)
    if array.dtype.newbyteorder("=") != dtype:
        raise ShapeError(f"input {port.name!r}: dtype {array.dtype} where {dtype} was expected ({port})")
    if array.ndim != len(port.shape):
        raise ShapeError(
            f"input {port.name!r}: shape {tuple(array.shape)} where {len(port.shape)} dims were expected ({port})"
        )
    needed = READABLE | WRITEABLE if updated else READABLE
    fits = array.flags.num & needed == needed and array.dtype.isnative
    if not updated:
        plain: np.ndarray = array if fits else np.array(array, dtype, order="C", copy=True, subok=False)
        return plain
    own = array is value
    if not own or not fits:
        raise ShapeError(
            f"input {port.name!r} is updated in place: it must be a writable, C-contiguous numpy array of {dtype} "
            "in native byte order"
        )
    return array


def _is_masked(value: Any) -> bool:
    """Whether an array hides elements. Nothing is imported for it, as a run may interrupt an import on its own thread:
    who has such an array has imported its module.
    """
    kind = getattr(sys.modules.get("numpy.ma.core"), "MaskedArray", None)
    return kind is not None and isinstance(value, kind)


def _as_array(port: Port, value: Any, dtype: np.dtype) -> np.ndarray:
    if _is_masked(value):
        raise ShapeError(f"input {port.name!r}: a masked array, whose mask would be lost; pass `array.filled(value)`")
    if isinstance(value, np.ndarray):
        return value
    try:
        # Python numbers have no dtype of their own; anything else keeps what it has
        array = np.asarray(value)
        plain = isinstance(value, (bool, int, float, list, tuple))
        integers = array.dtype.kind in "iu" and dtype.kind in "iu"
        convertible = integers or array.size == 0 or np.can_cast(array.dtype, dtype, "same_kind")
        return np.asarray(value, dtype) if plain and convertible else array
    except MemoryError:
        raise
    except Exception as error:  # anybody's `__array__` may have been called
        raise ShapeError(f"input {port.name!r}: not an array of {dtype}: {error}") from None
