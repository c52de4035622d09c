"""Memory that belongs to somebody else: whether it still holds what it held. `same_ir` says how that is seen."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mapsto.runtime import native
from mapsto.runtime.same_ir import ENTRY_AT, ENTRY_KEPT, ENTRY_PAGES, ENTRY_REST, ENTRY_SUMS, ENTRY_WORDS, PAGE

_WHOLE = 1 << 14  # bytes up to which an array is kept as it is
_WEIGHTS = np.arange(1, PAGE // 4, 2, dtype=np.uint64)

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class HeldMemory:
    """What some arrays of bytes hold when this is made: sums of the pages of large ones, small ones as they are."""

    def __init__(self, arrays: Sequence[Bytes]) -> None:
        self._arrays = tuple(arrays)
        self._table = np.zeros(1 + ENTRY_WORDS * len(self._arrays), np.int64)
        self._table[0] = len(self._arrays)
        self._address = self._table.ctypes.data
        self._told = [_told(array) for array in self._arrays]  # what the table has addresses of
        for row, array, (sums, kept) in zip(self._rows(), self._arrays, self._told, strict=True):
            row[ENTRY_AT], row[ENTRY_PAGES], row[ENTRY_SUMS] = array.ctypes.data, len(sums), sums.ctypes.data
            row[ENTRY_REST], row[ENTRY_KEPT] = len(kept), kept.ctypes.data

    def _rows(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        return self._table[1:].reshape(-1, ENTRY_WORDS)

    def moved(self, to: Mapping[int, Bytes]) -> HeldMemory:
        """The same contents, looked for elsewhere: arrays of the same sizes by their numbers. A new object: another
        thread may be looking.
        """
        found = object.__new__(HeldMemory)
        found._arrays = tuple(to.get(at, array) for at, array in enumerate(self._arrays))
        found._table, found._told = self._table.copy(), self._told
        found._address = found._table.ctypes.data
        for at, array in to.items():
            assert len(array) == len(self._arrays[at])
            found._rows()[at, ENTRY_AT] = array.ctypes.data
        return found

    def is_same(self) -> bool:
        """Whether the memory holds that now. It is read once, at the speed of memory."""
        return bool(_same()(self._address))


def _told(array: Bytes) -> tuple[np.ndarray[Any, np.dtype[np.uint64]], Bytes]:
    """Sums of an array's pages, and a copy of what is behind them."""
    pages = 0 if len(array) <= _WHOLE else len(array) // PAGE
    words = array[: pages * PAGE].view(np.uint64).reshape(pages, PAGE // 8)
    return np.einsum("ij,j->i", words, _WEIGHTS), array[pages * PAGE :].copy()


@functools.cache
def _same() -> Callable[..., int]:
    library = native.Library([native.compile_same()], [native.SAME])
    library.keep_for_ever()
    return native.call_word(library.addresses[native.SAME])
