"""One activation of a program: its words, its arena, and a run through them. Concurrent runs of an executable use a
frame each.

A run with the same shapes as the frame's last one only writes the addresses of inputs and outputs, then calls the
runner.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from mapsto.errors import ExecutionError
from mapsto.runtime import runner_ir
from mapsto.runtime.arena_layout import ArenaLayout
from mapsto.runtime.arrays import READABLE, WRITEABLE, address_of, aligned_bytes
from mapsto.runtime.poison import Poison, fill
from mapsto.runtime.pool import Pool
from mapsto.runtime.program import Bind, Bounds, BranchIfFalse, Jump, Require, Run, SetSize
from mapsto.runtime.recycled import Recycled
from mapsto.runtime.sizing import (
    all_given,
    bound,
    due_outputs,
    input_arrays,
    outside,
    require_apart,
    require_sizes,
    symbols_of,
)
from mapsto.runtime.tables import ROWS_START, Tables

_MANY = 24  # patches: above, numpy does it faster

Patches = list[tuple[int, int]]  # where an address is to be written, and what is added to it


# Plain tuples, unpacked by name in every run: to unpack named ones takes half a microsecond of a small model's 25.
InputPlan = tuple[tuple[int, ...], np.dtype, int, Patches, int]
"""(shape, dtype, flags, patches, buffer) of an input that may be read where it is; flags: that its array must have."""
OutputPlan = tuple[int, tuple[int, ...], np.dtype, int, Patches, int]
"""(port, shape, dtype, nbytes, patches, buffer) of an output that is to be made; port: its number."""


class Frame:
    """Not for two runs at a time, and not to be used again after a run that raised: a KeyboardInterrupt, say, may leave
    it half prepared. `root_layout` finds the layout for values of the inputs' symbols. `poisoned`: see `Poison`.
    """

    large_from = 4096  # bytes: below, alignment of an output is not worth the 0.2 us

    def __init__(
        self,
        tables: Tables,
        constants: np.ndarray,
        root_layout: Callable[[Mapping[str, int]], ArenaLayout],
        run: Callable[[ctypes.c_int64], int],
        pool: Pool | None,
        poisoned: bool = False,
    ) -> None:
        self._tables = tables
        self._root_layout = root_layout
        self._run = run
        self._pool = pool
        words = self._words = aligned_bytes(tables.words.nbytes).view(np.int64)
        words[:] = tables.words
        base = address_of(words)
        words[tables.pointers] = base + 8 * words[tables.pointers]
        self._word = memoryview(words.data).cast("B").cast("q")
        self._job = ctypes.c_int64(base)
        self._end = tables.count
        self._chunks = [aligned_bytes(0) for _ in tables.chunks]
        self._addresses = np.zeros(len(tables.program.buffers), np.int64)
        for index, buffer in enumerate(tables.program.buffers):
            if buffer.kind == "constant":
                self._addresses[index] = address_of(constants) + buffer.offset
        self._installed: ArenaLayout | None = None  # whose numbers the words hold
        self._root: ArenaLayout | None = None  # for the inputs' sizes
        self._node: ArenaLayout | None = None  # for all that this run has bound so far
        self._inputs: list[InputPlan] = []
        self._outputs: list[OutputPlan] = []  # those whose size the inputs decide
        self._recycled = Recycled()
        self._poison = Poison(tables, self._fill) if poisoned else None

    # -- a run ---------------------------------------------------------------------------------------------------------

    def run(self, values: Sequence[Any]) -> list[np.ndarray]:
        """The outputs, in order, for the inputs, in order."""
        arrays = values
        if self._root is None or len(values) != len(self._inputs):
            arrays = self._prepare(values)
        for x, (shape, dtype, flags, _, _) in zip(arrays, self._inputs, strict=True):
            if type(x) is not np.ndarray or x.shape != shape or x.dtype is not dtype or x.flags.num & flags != flags:
                arrays = self._prepare(values)
                break
        for x, (_, _, _, patches, buffer) in zip(arrays, self._inputs, strict=True):
            self._patch(address_of(x), patches, buffer)
        results: list[Any] = [None] * len(self._tables.program.outputs)
        if self._tables.updates:
            self._take_over(arrays, results)
        self._node = self._root
        self._give(self._outputs, results)
        self._walk(results)
        return results

    @property
    def sizes(self) -> dict[str, int]:
        """Every symbol's value in the last run, those that data decided included."""
        assert self._node is not None, "there was no run"
        return {name: self._node.state[place] for name, place in self._tables.tape.places.items()}

    @contextmanager
    def measured(self, counters: np.ndarray) -> Iterator[None]:
        """While this holds, runs add (nanoseconds, calls) of each step to its row of the counters."""
        self._word[runner_ir.JOB_PROFILE] = address_of(counters)
        try:
            yield
        finally:
            self._word[runner_ir.JOB_PROFILE] = 0

    def _patch(self, address: int, patches: Patches, buffer: int) -> None:
        """Tells the operands that lie in a port's buffer where it is in this run."""
        self._addresses[buffer] = address
        if len(patches) > _MANY:
            table = np.array(patches, np.int64)
            self._words[table[:, 0]] = table[:, 1] + address
            return
        word = self._word
        for place, offset in patches:
            word[place] = address + offset

    def _give(self, plans: list[OutputPlan], results: list[Any]) -> None:
        """Fresh arrays for outputs whose sizes are known now."""
        large_from = self.large_from
        for index, shape, dtype, count, patches, buffer in plans:
            array = np.empty(shape, dtype) if count < large_from else self._large(shape, dtype, count)
            address = address_of(array)
            if self._poison is not None:
                fill(address, count)
            self._patch(address, patches, buffer)
            results[index] = array

    def _large(self, shape: tuple[int, ...], dtype: np.dtype, count: int) -> np.ndarray:
        return self._recycled.array(shape, dtype, count)

    def _take_over(self, arrays: Sequence[np.ndarray], results: list[Any]) -> None:
        """Updated inputs are outputs too."""
        require_apart(self._tables, arrays)
        for source, target in self._tables.updates:
            results[target] = arrays[source]

    def _walk(self, results: list[Any]) -> None:
        pool = self._pool
        assert self._node is not None
        if pool is None or (self._node.alone and not self._tables.bind_symbols):
            self._word[runner_ir.JOB_POOL] = 0
        else:
            self._word[runner_ir.JOB_POOL] = pool.address
        if self._poison is not None:
            self._walk_poisoned(self._poison, results)
        else:
            step = self._run(self._job)
            while step != self._end:
                step = self._run_from(0 if step < 0 else self._stopped(step, results))
        if self._tables.bind_symbols:
            all_given(self._tables, results)

    def _run_from(self, step: int) -> int:
        """Walks from this step on; gives the one where the runner stopped. Python's signal handlers run in between,
        and may have forked the process.

        Raises ExecutionError where the system grants no threads.
        """
        word, pool = self._word, self._pool
        word[runner_ir.JOB_START] = step
        try:
            after = -1
            while after < 0:
                if pool is not None and word[runner_ir.JOB_POOL]:
                    if word[runner_ir.JOB_ERROR]:
                        raise pool.refusal(word[runner_ir.JOB_ERROR])
                    word[runner_ir.JOB_POOL] = pool.address
                after = self._run(self._job)
            return after
        finally:
            word[runner_ir.JOB_START] = 0

    def _fill(self, buffer: int) -> None:
        assert self._node is not None
        fill(int(self._addresses[buffer]), self._node.bytes_of(buffer))

    def _poison_scratch(self) -> None:
        for chunk in self._chunks:
            fill(address_of(chunk), chunk.nbytes)

    def _walk_poisoned(self, poison: Poison, results: list[Any]) -> None:
        """One step at a time; memory holds NaN from the start, and again where a buffer's life begins and ends."""
        self._poison_scratch()
        poison.begin()
        self._word[runner_ir.JOB_SINGLE] = 1
        try:
            step = 0
            while step != self._end:
                poison.before(step)
                after = self._run_from(step)
                if after == step:
                    after = self._stopped(step, results)
                poison.after(step)
                step = after
        finally:
            self._word[runner_ir.JOB_SINGLE] = 0

    # -- sizes that data decides ---------------------------------------------------------------------------------------

    def _stopped(self, index: int, results: list[Any]) -> int:
        """Does what a step asks of us, gives the step to go on at."""
        step = self._tables.program.steps[index]
        if isinstance(step, (Run, BranchIfFalse, Jump)):  # it only paused
            return index
        if isinstance(step, Require):
            raise ExecutionError(step.message)
        assert self._node is not None
        if isinstance(step, Bounds):
            place = self._word[ROWS_START + index * runner_ir.ROW_WORDS + runner_ir.ROW_CONDITION]
            raise outside(self._tables, self._node, step, ctypes.string_at(place, 8))
        assert isinstance(step, (Bind, SetSize)), f"the runner stopped at step {index}, {step}"
        raw = b""
        if isinstance(step, Bind):
            raw = ctypes.string_at(self._word[self._tables.bind_place[index]], step.dtype.size)
        node = self._node = bound(self._tables, self._node, index, step, raw)
        if self._installed is None or not self._installed.descends_from(node):
            self._install(node)
        for buffer in self._tables.shifting:  # the run began with offsets that did not know this symbol
            self._patch(int(self._addresses[buffer]), node.port_places(buffer), buffer)
        self._give(self._plan_outputs(node, step.symbol), results)
        if self._poison is not None:
            self._poison.bound(step.symbol)
        return index + 1

    def _plan_outputs(self, layout: ArenaLayout, symbol: str | None) -> list[OutputPlan]:
        """Outputs whose size is known since `symbol` was bound (None: from the inputs' sizes)."""
        plans: list[OutputPlan] = []
        for index in due_outputs(self._tables, layout, symbol):
            port = self._tables.program.outputs[index]
            patches, count = layout.port_places(port.buffer), layout.bytes_of(port.buffer)
            shape = layout.output_shape(index)
            plans.append((index, shape, port.dtype.numpy, count, patches, port.buffer))
        return plans

    # -- new sizes -----------------------------------------------------------------------------------------------------

    def _prepare(self, values: Sequence[Any]) -> list[np.ndarray]:
        """The inputs as arrays that compiled code can read, and the frame laid out for their shapes."""
        tables = self._tables
        arrays = input_arrays(tables, values)
        root = self._root_layout(symbols_of(tables, arrays))
        require_sizes(tables, root, None)
        outputs = self._plan_outputs(root, None)
        if self._installed is None or not self._installed.descends_from(root):
            self._install(root)
        self._root, self._outputs = root, outputs
        self._recycled.keep([count for _, _, _, count, _, _ in outputs])
        self._inputs = []
        updated = {source for source, _ in tables.updates}
        for i, (port, array) in enumerate(zip(tables.program.inputs, arrays, strict=True)):
            flags = READABLE | WRITEABLE if i in updated else READABLE
            patches = root.port_places(port.buffer)
            self._inputs.append((array.shape, array.dtype, flags, patches, port.buffer))
        return arrays

    def _reserve(self, layout: ArenaLayout) -> None:
        """Scratch memory for a layout; chunks of the same size stay where they are."""
        for number, (chunk, total) in enumerate(zip(self._tables.chunks, layout.chunk_bytes, strict=True)):
            if total > (before := self._chunks[number].nbytes):
                self._chunks[number] = aligned_bytes(0)
                # what a bound size decides may grow from round to round of a loop
                wanted = max(total, before * 3 // 2) if chunk.depends else total
                try:
                    self._chunks[number] = aligned_bytes(wanted)
                except MemoryError:
                    raise ExecutionError(f"no memory for {total:,} bytes of scratch space") from None
            self._addresses[chunk.buffers] = address_of(self._chunks[number]) + layout.chunk_offsets[number]

    def _install(self, layout: ArenaLayout) -> None:
        """Writes a layout's numbers into the words; memory in use stays where it is."""
        root, self._root, self._installed = self._root, None, None  # nothing is valid if this fails half-way
        tables, words = self._tables, self._words
        self._reserve(layout)
        words[tables.extent_place] = layout.extents
        words[tables.share_place] = layout.shares
        words[tables.fixed_place] = layout.fixed
        words[tables.piece_place] = layout.piece
        words[tables.word_place] = layout.words
        words[tables.dim_place] = layout.values[tables.dim_expr]
        words[tables.slot_place] = self._addresses[tables.slot_buffer] + layout.values[tables.slot_expr]
        self._installed, self._root = layout, root
