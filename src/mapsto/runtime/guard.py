"""For tests: runs whose every buffer lies between pages that nobody may touch, so that an access outside of it faults.

Each buffer has exactly the bytes that the program claims for it, flush to the page behind it or to the one before it.
Code loads and stores by the alignment of elements alone, so no buffer needs more. Runs go step by step and memory that
holds nothing holds NaN, as with `runtime.poison`.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mapsto.runtime.arena_layout import ArenaLayout
from mapsto.runtime.arrays import address_of
from mapsto.runtime.frame import Frame
from mapsto.runtime.poison import fill
from mapsto.runtime.pool import Pool
from mapsto.runtime.tables import Tables

_PAGE = mmap.PAGESIZE
_NONE, _READ = 0, 1  # PROT_NONE, PROT_READ (mmap(2))


@dataclass(frozen=True)
class Fences:
    """How buffers lie: `behind`, flush to the page behind them, else to the one before. `watch` is told of each step
    before it runs.
    """

    behind: bool = True
    watch: Callable[[int], None] = lambda step: None

    def bytes(self, count: int) -> np.ndarray:
        """So many bytes, zero, between two pages that fault. They live as long as the array or a view of it."""
        pages = -(-count // _PAGE)
        whole = mmap.mmap(-1, (pages + 2) * _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        first = address_of(np.frombuffer(whole, np.uint8))
        _protect(first, _PAGE, _NONE)
        _protect(first + (pages + 1) * _PAGE, _PAGE, _NONE)
        start = (pages + 1) * _PAGE - count if self.behind else _PAGE
        block: np.ndarray = np.ndarray(count, np.uint8, whole, start)  # a slice of nothing would lie elsewhere
        return block

    def copy(self, array: np.ndarray, writable: bool = False) -> np.ndarray:
        """The array between fences; unless it is `writable`, a store into it faults as well."""
        block = self.bytes(array.nbytes)
        made: np.ndarray = np.ndarray(array.shape, array.dtype, block)
        made[...] = array
        if not writable and array.nbytes:
            address = address_of(block)
            _protect(address // _PAGE * _PAGE, -(-(array.nbytes + address % _PAGE) // _PAGE) * _PAGE, _READ)
        return made


def _protect(address: int, count: int, how: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(count), how):
        raise MemoryError(f"mprotect: error {ctypes.get_errno()}")


class FencedFrame(Frame):
    """A frame whose constants, scratch memory and outputs lie between fences. Inputs are the caller's; see
    `Fences.copy`.
    """

    large_from = 0

    def __init__(
        self,
        tables: Tables,
        constants: np.ndarray,
        root_layout: Callable[[Mapping[str, int]], ArenaLayout],
        run: Callable[[ctypes.c_int64], int],
        pool: Pool | None,
        fences: Fences,
    ) -> None:
        super().__init__(tables, constants, root_layout, run, pool, poisoned=True)
        self._fences = fences
        self._blocks: dict[int, np.ndarray] = {}  # of constants and scratch memory, by buffer
        for index, buffer in enumerate(tables.program.buffers):
            if buffer.kind == "constant":
                assert isinstance(buffer.bytes, int)
                own = fences.copy(constants[buffer.offset : buffer.offset + buffer.bytes])
                self._blocks[index] = own
                self._addresses[index] = address_of(own)

    def _large(self, shape: tuple[int, ...], dtype: np.dtype, count: int) -> np.ndarray:
        return np.ndarray(shape, dtype, self._fences.bytes(count))

    def _reserve(self, layout: ArenaLayout) -> None:
        """A block for each buffer; those whose size stays keep what they hold."""
        for chunk in self._tables.chunks:
            for buffer in chunk.buffers.tolist():
                count = max(layout.bytes_of(buffer), 0)
                if buffer not in self._blocks or self._blocks[buffer].nbytes != count:
                    self._blocks[buffer] = self._fences.bytes(count)
                    self._addresses[buffer] = address_of(self._blocks[buffer])
                    fill(int(self._addresses[buffer]), count)

    def _poison_scratch(self) -> None:
        for chunk in self._tables.chunks:
            for buffer in chunk.buffers.tolist():
                fill(address_of(self._blocks[buffer]), self._blocks[buffer].nbytes)

    def _run_from(self, step: int) -> int:
        self._fences.watch(step)
        return super()._run_from(step)
