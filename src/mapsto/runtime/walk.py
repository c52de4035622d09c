"""A run on a device with memory of its own: the host walks the steps, the device computes.

The host reads what decides how the walk goes on (a branch's condition, a size, the bounds of indices), and copies
inputs to the device and outputs from it. Memory is laid out as in native runs (`runtime.arena_layout`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from mapsto.errors import ExecutionError
from mapsto.ir.expr import Dim
from mapsto.runtime.arena_layout import ArenaLayout
from mapsto.runtime.engine import Engine, Launcher, Memory
from mapsto.runtime.poison import Poison
from mapsto.runtime.program import Address, Bind, Bounds, BranchIfFalse, Jump, Program, Require, Run, SetSize, Step
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
from mapsto.runtime.tables import Tables

RootLayout = Callable[[Mapping[str, int]], ArenaLayout]


class WalkedFrame:
    """Not for two runs at a time, and not to be used again after a run that raised. `constants`: on the device.
    `root_layout`: finds the layout for values of the inputs' symbols. `poisoned`: see `Poison`. Each step keeps its own
    launcher from run to run: what it works on is told to the device when sizes or memory change.
    """

    def __init__(
        self,
        tables: Tables,
        engine: Engine,
        constants: Memory,
        root_layout: RootLayout,
        poisoned: bool = False,
    ) -> None:
        self._tables = tables
        self._engine = engine
        self._root_layout = root_layout
        self._launchers: dict[int, Launcher] = {}  # by step
        # What steps are set to: the layout that they were set under, and what starts them (None: nothing to do).
        self._set: dict[int, tuple[ArenaLayout, Launcher | None]] = {}
        self._places: list[tuple[Memory, int]] = [(constants, b.offset) for b in tables.program.buffers]
        self._room: dict[object, tuple[Memory, int]] = {}  # reserved for a chunk or port: what and how large
        self._layout: ArenaLayout | None = None
        self._poison = Poison(tables, self._fill) if poisoned else None
        self._counters: np.ndarray | None = None

    def run(self, values: Sequence[Any]) -> list[np.ndarray]:
        """The outputs, in order, for the inputs, in order."""
        tables, engine = self._tables, self._engine
        arrays = input_arrays(tables, values)
        require_apart(tables, arrays)
        layout = self._root_layout(symbols_of(tables, arrays))
        require_sizes(tables, layout, None)
        sent = []  # held until the outputs are read, so that nothing waits for an input by itself
        for port, array in zip(tables.program.inputs, arrays, strict=True):
            self._places[port.buffer] = self._reserved(port.buffer, array.nbytes), 0
            sent.append(engine.write(*self._places[port.buffer], array))
        results: list[Any] = [None] * len(tables.program.outputs)
        for source, target in tables.updates:
            results[target] = arrays[source]
        self._install(layout, None, results)
        self._walk(results)
        all_given(tables, results)
        outputs = zip(tables.program.outputs, results, strict=True)
        engine.read(*((*self._places[port.buffer], result) for port, result in outputs))
        del sent
        return results

    @property
    def sizes(self) -> dict[str, int]:
        """Every symbol's value in the last run, those that data decided included."""
        assert self._layout is not None, "there was no run"
        return {name: self._layout.state[place] for name, place in self._tables.tape.places.items()}

    @contextmanager
    def measured(self, counters: np.ndarray) -> Iterator[None]:
        """While this holds, runs add (nanoseconds, calls) of each step to its row of the counters."""
        self._counters = counters
        try:
            yield
        finally:
            self._counters = None

    # -- memory --------------------------------------------------------------------------------------------------------

    def _reserved(self, key: object, count: int) -> Memory:
        """Memory of a chunk or port; what it had, where that is large enough."""
        memory, size = self._room.pop(key, (None, -1))
        if size < count:
            memory, size = None, count  # what is too small goes before more is asked for
            self._set.clear()
            memory = self._engine.reserve(count)
        self._room[key] = memory, size
        return memory

    def _install(self, layout: ArenaLayout, symbol: str | None, results: list[Any]) -> None:
        """Memory for what a layout knows the sizes of since `symbol` was bound (None: from the inputs' sizes)."""
        tables, self._layout = self._tables, layout
        for number, (chunk, total) in enumerate(zip(tables.chunks, layout.chunk_bytes, strict=True)):
            memory = self._reserved(("chunk", number), total)
            for buffer, offset in zip(chunk.buffers.tolist(), layout.chunk_offsets[number].tolist(), strict=True):
                self._places[buffer] = memory, offset
        for index in due_outputs(tables, layout, symbol):
            port = tables.program.outputs[index]
            results[index] = np.empty(layout.output_shape(index), port.dtype.numpy)
            self._places[port.buffer] = self._reserved(port.buffer, layout.bytes_of(port.buffer)), 0
            if self._poison is not None:
                self._fill(port.buffer)

    def _fill(self, buffer: int) -> None:
        """Sets all bits of a buffer."""
        assert self._layout is not None
        self._engine.write(*self._places[buffer], np.full(max(self._layout.bytes_of(buffer), 0), 0xFF, np.uint8))

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _walk(self, results: list[Any]) -> None:
        steps, poison, at = self._tables.program.steps, self._poison, 0
        if poison is not None:
            poison.begin()
        while at < len(steps):
            if poison is not None:
                poison.before(at)
            after = self._step(at, steps[at], results)
            if poison is not None:
                poison.after(at)
            at = after

    def _step(self, at: int, step: Step, results: list[Any]) -> int:
        """Does a step; gives the one to go on at."""
        assert self._layout is not None
        if isinstance(step, Run):
            self._launch(at, step)
        elif isinstance(step, (Bind, SetSize)):
            raw = self._raw(step.operand, step.dtype.size) if isinstance(step, Bind) else b""
            self._install(bound(self._tables, self._layout, at, step, raw), step.symbol, results)
            if self._poison is not None:
                self._poison.bound(step.symbol)
        elif isinstance(step, BranchIfFalse):
            return at + 1 if any(self._raw(step.operand, 1)) else step.target
        elif isinstance(step, Jump):
            return step.target
        elif isinstance(step, Require) and self._value(step.condition) < 0:
            raise ExecutionError(step.message)
        elif isinstance(step, Bounds):
            raw = self._raw(step.operand, 8)
            if int.from_bytes(raw, "little") >= self._value(step.limit):
                raise outside(self._tables, self._layout, step, raw)
        return at + 1

    def _launch(self, at: int, step: Run) -> None:
        """Where neither memory nor layout are others than when the step was set, it is only started."""
        assert self._layout is not None
        layout, launcher = self._set.get(at, (None, None))
        if layout is not self._layout:
            launcher = self._launcher(at, step)
            self._set[at] = self._layout, launcher
        if launcher is None:
            return
        if self._counters is None:
            launcher.start()
        else:
            self._counters[at] += launcher.timed(), 1

    def _launcher(self, at: int, step: Run) -> Launcher | None:
        """What starts a step, set to what it works on in this layout."""
        extent = self._value(step.extent)
        if extent <= 0:
            return None
        launcher = self._launchers.get(at)
        if launcher is None:
            launcher = self._launchers[at] = self._engine.launcher(step.function)
        operands = [self._place(operand) for operand in step.operands]
        launcher.set(operands, [self._value(d) for d in step.dims], extent, step.grain)
        return launcher

    def _place(self, operand: Address) -> tuple[Memory, int]:
        buffer, offset = operand
        memory, start = self._places[buffer]
        return memory, start + self._value(offset)

    def _raw(self, operand: Address, count: int) -> bytes:
        """Bytes that the device computed."""
        found = np.empty(count, np.uint8)
        self._engine.read((*self._place(operand), found))
        return found.tobytes()

    def _value(self, dim: Dim) -> int:
        assert self._layout is not None
        return dim if isinstance(dim, int) else int(self._layout.values[self._tables.tape.index[dim]])


class Walker:
    """Frames whose steps are walked on a device; its constants go there once."""

    def __init__(self, program: Program, engine: Engine) -> None:
        self.engine = engine
        self.addresses: Mapping[str, int] = dict.fromkeys(program.functions(), 0)
        self._constants: Memory | None = None

    def frame(self, tables: Tables, constants: np.ndarray, root_layout: RootLayout, poisoned: bool) -> WalkedFrame:
        """`constants`: the program's, in the host's memory."""
        held = self._constants
        if held is None:  # two threads may both send them; one is kept
            held = self.engine.reserve(constants.nbytes)
            self.engine.write(held, 0, constants)
            self._constants = held
        return WalkedFrame(tables, self.engine, held, root_layout, poisoned)
