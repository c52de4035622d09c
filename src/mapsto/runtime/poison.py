"""For tests: memory that nobody may read holds NaN (all bits set), so that reading it shows in the result.

Scratch memory is poisoned before the run, where a buffer's life begins (so that nothing is read before it is written)
and where it ends. Buffers that live through a loop are left alone, as what they hold may be carried round, but for
those whose size has just got a value.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from mapsto.ir.expr import symbols
from mapsto.runtime.program import operands_of
from mapsto.runtime.tables import Tables


class Poison:
    """What to poison before and after each step. `fill` sets all bits of a buffer, as large as it is just then."""

    def __init__(self, tables: Tables, fill: Callable[[int], None]) -> None:
        self._fill = fill
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
        self._sized: dict[str, list[int]] = {}
        for at, each in enumerate(tables.program.buffers):
            for name in symbols(each.bytes) if each.kind == "arena" and tables.phases.first[at] >= 0 else ():
                self._sized.setdefault(name, []).append(at)

    def begin(self) -> None:
        """A run starts."""
        self._done = set()

    def bound(self, symbol: str) -> None:
        """A size has got a value."""
        for buffer in self._sized.get(symbol, []):
            self._fill(buffer)

    def before(self, step: int) -> None:
        for buffer in self._born.get(step, []) if step not in self._done else []:
            self._fill(buffer)
        self._done.add(step)

    def after(self, step: int) -> None:
        for buffer in self._dies.get(step, []):
            self._fill(buffer)


def fill(address: int, count: int) -> None:
    """Sets all bits of so many bytes."""
    if count > 0:
        ctypes.memset(address, 0xFF, count)
