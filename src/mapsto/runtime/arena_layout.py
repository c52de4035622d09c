"""All numbers of a program for given sizes: extents, dims, offsets, barriers, addresses within the arena.

Layouts form a tree: the root holds for the sizes of the inputs, each child for one more symbol that a Bind step has
read. A child keeps the addresses of everything that does not depend on its symbol, since that may be in use when the
Bind is reached.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from mapsto.errors import ExecutionError
from mapsto.runtime import runner_ir
from mapsto.runtime.arena import lower_bound, round_sizes
from mapsto.runtime.cpus import memory_bytes
from mapsto.runtime.phases import barriers
from mapsto.runtime.tables import Tables

_CHILDREN = 8  # layouts kept for the last values of a bound symbol
LARGEST_SIZE = 1 << 40  # of a symbol
_PIECES = 16  # of a thread's share
_PIECES_OF_A_GRAIN = 4  # what is worth a thread is worth so many times what asking for a piece takes
_FEW_PIECES = 2  # fewer are no use

Key = TypeVar("Key")
Kept = TypeVar("Kept")


def remember(cache: dict[Key, Kept], key: Key, value: Kept, most: int) -> None:
    """Keeps a value, and no more than `most` of them. Other threads and signal handlers may do the same in between."""
    cache[key] = value
    for oldest in list(cache)[:-most]:
        cache.pop(oldest, None)


@dataclass(eq=False)
class ArenaLayout:
    """The numbers, in the order in which `Tables` lists their places."""

    tables: Tables
    threads: int
    state: list[int]
    values: np.ndarray
    bound: dict[str, int]
    parent: ArenaLayout | None
    chunk_offsets: list[np.ndarray]
    chunk_bytes: list[int]
    extents: np.ndarray
    shares: np.ndarray
    fixed: np.ndarray
    """Up to where each extent is divided beforehand; the rest is taken piece by piece, `piece` at a time."""
    piece: np.ndarray
    words: np.ndarray
    alone: bool
    """Whether every step is the first thread's alone: no other thread is needed."""
    children: dict[tuple[str, int], ArenaLayout] = field(default_factory=dict)
    _port_places: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def bytes_of(self, buffer: int) -> int:
        return int(self.values[self.tables.buffer_expr[buffer]])

    def output_shape(self, index: int) -> tuple[int, ...]:
        """Raises ExecutionError where a dim came out negative, or numpy has no arrays of that shape."""
        shape = tuple(self.values[self.tables.output_exprs[index]].tolist())
        port = self.tables.program.outputs[index]
        if min(shape, default=0) < 0:
            raise ExecutionError(f"output {port.name!r}: a negative dim in {shape}")
        if math.prod(dim for dim in shape if dim) * port.dtype.size > sys.maxsize:  # beside a 0 others may be any
            what = f"{shape} of {port.dtype.value} are more bytes than there are addresses"
            raise ExecutionError(f"output {port.name!r}: {what}")
        return shape

    def port_places(self, buffer: int) -> list[tuple[int, int]]:
        """(place in the words, offset in bytes) of each operand that lies in the buffer of an input or output."""
        if buffer not in self._port_places:
            slots = self.tables.port_slots[buffer]
            offsets = self.values[self.tables.slot_expr[slots]]
            places = self.tables.slot_place[slots]
            self._port_places[buffer] = list(zip(places.tolist(), offsets.tolist(), strict=True))
        return self._port_places[buffer]

    def descends_from(self, other: ArenaLayout) -> bool:
        layout: ArenaLayout | None = self
        while layout is not None and layout is not other:
            layout = layout.parent
        return layout is other

    def bind(self, symbol: str, value: int) -> ArenaLayout:
        """The layout where `symbol`, read in addition to what is bound here, has this value."""
        if symbol in self.bound:  # read again, in a loop
            origin: ArenaLayout = self
            while symbol in origin.bound and origin.parent is not None:
                origin = origin.parent
            return self._derive(symbol, value, origin)
        key = (symbol, value)
        found = self.children.get(key)
        if found is None:
            found = self._derive(symbol, value, self)
            remember(self.children, key, found, _CHILDREN)
        return found

    def _derive(self, symbol: str, value: int, parent: ArenaLayout) -> ArenaLayout:
        state = self.tables.tape.changed(self.state, symbol, value)
        return _make(self.tables, self.threads, state, {**self.bound, symbol: value}, parent, (self, symbol))

    def memory(self) -> tuple[int, int]:
        """(bytes of the arena, the most bytes of it alive at once)."""
        phases = self.tables.phases
        members = np.concatenate([chunk.buffers for chunk in self.tables.chunks])
        sizes = round_sizes(self.values[self.tables.buffer_expr[members]])
        return sum(self.chunk_bytes), lower_bound(sizes, phases.first[members], phases.last[members])


def root_layout(tables: Tables, threads: int, state: list[int]) -> ArenaLayout:
    """The layout for the inputs' sizes, which the tape's `state` holds; symbols not bound yet count as 0.

    Raises ExecutionError where sizes exceed 64 bits or the machine's memory.
    """
    return _make(tables, threads, state, {}, None, None)


def _make(
    tables: Tables,
    threads: int,
    state: list[int],
    bound: dict[str, int],
    parent: ArenaLayout | None,
    carried: tuple[ArenaLayout, str] | None,
) -> ArenaLayout:
    values = tables.tape.result(state)
    offsets, sizes = _lay_out(tables, values, carried)
    extents = values[tables.extent_expr]
    shares = np.where(extents > 0, np.clip(extents // tables.grain, 1, threads), 0)
    fixed, piece = divided(extents, shares, tables.grain, tables.is_run)
    if carried is not None and carried[1] in tables.resized:
        before = carried[0]  # the same words, whatever this symbol is
        return ArenaLayout(
            tables, threads, state, values, bound, parent, offsets, sizes, extents, shares, fixed, piece,
            before.words, before.alone,
        )
    alone = np.ones(tables.count, bool)
    alone[tables.extent_step] = ((shares <= 1) & ~tables.varies) | ~tables.is_run
    all_alone = bool(alone.all())
    alone &= ~tables.reads_alike
    meets = barriers(tables.phases, alone)
    others = None if all_alone and not tables.bind_symbols else meets
    polls = tables.polls.steps(values, tables.extent_step, extents, tables.grain, shares, others, tables.varies)
    meets |= polls  # threads pause together
    words = tables.kind | np.where(meets, runner_ir.BARRIER, 0) | np.where(polls, runner_ir.POLL, 0)
    return ArenaLayout(
        tables, threads, state, values, bound, parent, offsets, sizes, extents, shares, fixed, piece, words, all_alone
    )


def divided(
    extents: np.ndarray, shares: np.ndarray, grain: np.ndarray, is_run: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How much of each extent is divided among the threads beforehand, and the pieces in which the rest is taken by who
    is free first (0: there is no rest): a thread that was kept from its processor for a while does less of it.
    """
    shared = np.maximum(shares, 1)
    piece = np.maximum(-(-extents // (_PIECES * shared)), -(-grain // _PIECES_OF_A_GRAIN))
    fixed = (extents - extents // 4) // shared * shared
    divides = is_run & (shares > 1) & (extents - fixed >= _FEW_PIECES * piece)
    return np.where(divides, fixed, extents), np.where(divides, piece, 0)


def _lay_out(
    tables: Tables, values: np.ndarray, carried: tuple[ArenaLayout, str] | None
) -> tuple[list[np.ndarray], list[int]]:
    offsets: list[np.ndarray] = []
    totals: list[int] = []
    for number, chunk in enumerate(tables.chunks):
        if carried is not None and carried[1] not in chunk.depends:
            offsets.append(carried[0].chunk_offsets[number])
            totals.append(carried[0].chunk_bytes[number])
            continue
        sizes = values[tables.buffer_expr[chunk.buffers]]
        placed, total, _ = chunk.arena.layout(sizes)
        offsets.append(placed)
        totals.append(total)
        if sum(totals) > memory_bytes():
            largest = tables.program.buffers[chunk.buffers[int(np.argmax(sizes))]]
            raise ExecutionError(
                f"this run needs {sum(totals):,} bytes of scratch memory where the machine has {memory_bytes():,}; "
                f"the largest is {largest.name} with {int(sizes.max()):,} bytes ({largest.bytes})"
            )
    return offsets, totals
