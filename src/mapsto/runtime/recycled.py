"""Memory of outputs that is used again, once nobody looks at what was in it: a run that gives large arrays would else
spend its time with pages that the system takes back and gives anew (a third of a second a gigabyte).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from mapsto.runtime.arrays import address_of, aligned_bytes, aligned_empty

_FROM = 1 << 17  # bytes: smaller blocks stay with the process anyway
_MOST = 1 << 28  # bytes that wait to be used again


class Recycled:
    """Arrays for the outputs of one frame. The memory of one comes back when it, and all that views it, is gone, from
    whichever thread that happens in; blocks are found again by their size.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[np.ndarray]] = {}

    @property
    def waiting(self) -> int:
        """Bytes that wait to be used again."""
        return sum(size * len(blocks) for size, blocks in list(self._free.items()))

    def array(self, shape: tuple[int, ...], dtype: np.dtype, count: int) -> np.ndarray:
        """An array of `count` bytes, not initialised, that starts at a multiple of 64."""
        if count < _FROM:
            return aligned_empty(shape, dtype, count)
        try:
            block = self._free[count].pop()
        except (KeyError, IndexError):
            block = aligned_bytes(count)
        return np.ndarray(shape, dtype, np.asarray(_Lent(self, block)))

    def give_back(self, block: np.ndarray) -> None:
        """A block that nobody looks at any more."""
        if self.waiting + block.nbytes <= _MOST:
            self._free.setdefault(block.nbytes, []).append(block)

    def keep(self, sizes: Collection[int]) -> None:
        """Lets go of what waits, but for blocks of these sizes."""
        for size in self._free.keys() - set(sizes):
            del self._free[size]


class _Lent:
    """What numpy takes an array's memory from: it lives as long as any view of that."""

    def __init__(self, of: Recycled, block: np.ndarray) -> None:
        self._of, self._block = of, block

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """See numpy's array interface protocol."""
        return {"data": (address_of(self._block), False), "shape": self._block.shape, "typestr": "|u1", "version": 3}

    def __del__(self) -> None:
        self._of.give_back(self._block)
