"""For tests: memory that nobody may read holds NaN (all bits set), so that reading it shows in the result.

Scratch memory is poisoned before the run, where a buffer's life begins (so that nothing is read before it is written)
and where it ends. Buffers that live through a loop are left alone, as what they hold may be carried round.
"""

from __future__ import annotations

import ctypes

import numpy as np

from mapsto.runtime.layout import Layout
from mapsto.runtime.program import operands_of
from mapsto.runtime.tables import Tables


class Poison:
    """What to poison before and after each step."""

    def __init__(self, tables: Tables) -> None:
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for index, step in enumerate(tables.program.steps):
            for buffer, _ in operands_of(step):
                if tables.program.buffers[buffer].kind == "arena" and not tables.phases.looped[buffer]:
                    first.setdefault(buffer, index)
                    last[buffer] = index
        self._born: dict[int, list[int]] = {}
        self._dies: dict[int, list[int]] = {}
        for buffer in first:
            self._born.setdefault(first[buffer], []).append(buffer)
            self._dies.setdefault(last[buffer], []).append(buffer)
        self._done: set[int] = set()

    def begin(self) -> None:
        """A run starts."""
        self._done = set()

    def before(self, step: int, addresses: np.ndarray, layout: Layout) -> None:
        if step not in self._done:
            self._fill_all(self._born.get(step, []), addresses, layout)
        self._done.add(step)

    def after(self, step: int, addresses: np.ndarray, layout: Layout) -> None:
        self._fill_all(self._dies.get(step, []), addresses, layout)

    def _fill_all(self, buffers: list[int], addresses: np.ndarray, layout: Layout) -> None:
        for buffer in buffers:
            self.fill(int(addresses[buffer]), layout.bytes_of(buffer))

    @staticmethod
    def fill(address: int, count: int) -> None:
        if count > 0:
            ctypes.memset(address, 0xFF, count)
