"""A program as flat arrays of words, the way the native runner walks it: what is fixed, and where each size and address
goes.

    words:  job | rows (one a step, and a last one that stops) | operands of all steps | dims of all steps

Each executable builds this once; a `Frame` holds a copy of the words with addresses of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mapsto.ir.expr import symbols
from mapsto.runtime import runner_ir
from mapsto.runtime.arena import Arena
from mapsto.runtime.phases import find_phases, loops_of
from mapsto.runtime.polls import Polls
from mapsto.runtime.program import (
    Bind,
    Bounds,
    BranchIfFalse,
    Jump,
    Program,
    Require,
    Run,
    SetSize,
    Step,
    bound_symbol,
    operands_of,
)
from mapsto.runtime.sizes import SizeTape
from mapsto.runtime.verify import input_symbols

_ROW = runner_ir.ROW_WORDS
ROWS_START = runner_ir.JOB_WORDS

_KIND: dict[type, int] = {
    Run: runner_ir.RUN,
    Bind: runner_ir.STOP,
    SetSize: runner_ir.STOP,
    BranchIfFalse: runner_ir.BRANCH,
    Jump: runner_ir.JUMP,
    Require: runner_ir.REQUIRE,
    Bounds: runner_ir.BOUNDS,
}


class Chunk:
    """Buffers of the arena whose sizes depend on the same bound symbols: laid out together, when those are known."""

    def __init__(self, depends: frozenset[str], buffers: np.ndarray, arena: Arena) -> None:
        self.depends = depends
        self.buffers = buffers
        self.arena = arena


class Tables:
    """What is known of a program before any size: see the attributes' comments."""

    def __init__(self, program: Program, functions: Mapping[str, int]) -> None:
        self.program = program
        self.phases = find_phases(program)
        self.tape = SizeTape(program.dims())
        self.input_symbols = input_symbols(program)
        self.bind_symbols = frozenset(s for step in program.steps if (s := bound_symbol(step)) is not None)
        self.resized = self._resized()
        """Symbols that get another value in each round of a loop."""
        self.count = len(program.steps)
        self._fill(functions)
        at = self.tape.index
        self.buffer_expr = np.array([at[b.bytes] for b in program.buffers], np.int64)
        self.output_exprs = [np.array([at[d] for d in p.shape], np.int64) for p in program.outputs]
        outputs = {port.name: i for i, port in enumerate(program.outputs)}
        inputs = {port.name: i for i, port in enumerate(program.inputs)}
        self.updates = [(inputs[source], outputs[target]) for source, target in program.updates]
        self.output_depends = [frozenset().union(*map(symbols, p.shape)) & self.bind_symbols for p in program.outputs]
        self.check_exprs = [at[check.condition] for check in program.checks]
        self.check_depends = [frozenset(symbols(c.condition)) & self.bind_symbols for c in program.checks]
        self.chunks = self._chunks()
        self.polls = Polls(program, at)
        ports = {port.buffer for port in (*program.inputs, *program.outputs)}
        self.port_slots = {b: np.flatnonzero(self.slot_buffer == b) for b in ports}
        """Which slots (operands) lie in the buffer of an input or output."""
        self.shifting = self._shifting(ports)

    def _resized(self) -> frozenset[str]:
        steps, loops = self.program.steps, loops_of(self.program)
        inside = {at for first, last in loops for at in range(first, last + 1)} if self.bind_symbols else set()
        return frozenset(name for at in inside if (name := bound_symbol(steps[at])) is not None)

    def _shifting(self, ports: set[int]) -> list[int]:
        """Buffers of inputs and outputs in which an operand lies at an offset that a bound symbol decides."""
        found = set()
        for step in self.program.steps:
            for buffer, offset in operands_of(step):
                if buffer in ports and symbols(offset) & self.bind_symbols:
                    found.add(buffer)
        return sorted(found)

    def _fill(self, functions: Mapping[str, int]) -> None:
        steps = self.program.steps
        at = self.tape.index
        operands = ROWS_START + _ROW * (len(steps) + 1)
        dims = operands + sum(len(step.operands) for step in steps if isinstance(step, Run))
        dims += sum(isinstance(step, Bind) for step in steps)
        total = dims + sum(len(step.dims) for step in steps if isinstance(step, Run))
        words = np.zeros(total, np.int64)
        pointers: list[int] = []  # places that hold a place of the words: they become addresses
        slots: list[tuple[int, int, int]] = []  # (place, buffer, expression of the offset)
        sizes: list[tuple[int, int]] = []  # (place, expression)
        self.bind_place: dict[int, int] = {}
        """Step -> where the address is that a Bind reads from."""
        for index, step in enumerate(steps):
            row = ROWS_START + index * _ROW
            words[row + runner_ir.ROW_WORD] = _KIND[type(step)]
            if isinstance(step, Run):
                words[row + runner_ir.ROW_FUNCTION] = functions[step.function]
                words[row + runner_ir.ROW_OPERANDS], words[row + runner_ir.ROW_DIMS] = operands, dims
                pointers += [row + runner_ir.ROW_OPERANDS, row + runner_ir.ROW_DIMS]
                slots += [(operands + i, buffer, at[offset]) for i, (buffer, offset) in enumerate(step.operands)]
                sizes += [(dims + i, at[dim]) for i, dim in enumerate(step.dims)]
                operands += len(step.operands)
                dims += len(step.dims)
            elif isinstance(step, Bind):
                self.bind_place[index] = operands
                buffer, offset = step.operand
                slots.append((operands, buffer, at[offset]))
                operands += 1
            elif isinstance(step, (BranchIfFalse, Bounds)):
                buffer, offset = step.operand
                slots.append((row + runner_ir.ROW_CONDITION, buffer, at[offset]))
            if isinstance(step, (BranchIfFalse, Jump)):
                words[row + runner_ir.ROW_TARGET] = step.target
        self.words = words
        self.pointers = np.array([runner_ir.JOB_ROWS, *pointers], np.int64)
        words[runner_ir.JOB_ROWS] = ROWS_START
        words[runner_ir.JOB_SLICE] = runner_ir.SLICE_NS
        self.slot_place, self.slot_buffer, self.slot_expr = _columns(slots, 3)
        self.dim_place, self.dim_expr = _columns(sizes, 2)
        self._fill_extents(steps)

    def _fill_extents(self, steps: tuple[Step, ...]) -> None:
        at = self.tape.index
        found = []
        for index, step in enumerate(steps):
            if isinstance(step, Run):
                found.append((index, at[step.extent], step.grain))
            elif isinstance(step, Require):
                found.append((index, at[step.condition], 1))
            elif isinstance(step, Bounds):
                found.append((index, at[step.limit], 1))
        self.extent_step, self.extent_expr, self.grain = _columns(found, 3)
        self.extent_place = ROWS_START + self.extent_step * _ROW + runner_ir.ROW_EXTENT
        self.share_place = ROWS_START + self.extent_step * _ROW + runner_ir.ROW_SHARES
        self.fixed_place = ROWS_START + self.extent_step * _ROW + runner_ir.ROW_FIXED
        self.piece_place = ROWS_START + self.extent_step * _ROW + runner_ir.ROW_PIECE
        self.is_run = np.array([isinstance(steps[i], Run) for i in self.extent_step], bool)
        """Which of these extents are of functions."""
        self.varies = np.array([self._varies(steps[i]) for i in self.extent_step], bool)
        """Which of these extents may change in each round of a loop: what follows from them is decided once for all."""
        self.reads_alike = np.array([isinstance(step, (BranchIfFalse, Bounds)) for step in steps], bool)
        """Steps at which every thread reads what decides where all go on."""
        self.word_place = ROWS_START + np.arange(len(steps), dtype=np.int64) * _ROW + runner_ir.ROW_WORD
        self.kind = self.words[self.word_place].copy()

    def _varies(self, step: Step) -> bool:
        return isinstance(step, Run) and not self.resized.isdisjoint(symbols(step.extent))

    def _chunks(self) -> list[Chunk]:
        groups: dict[frozenset[str], list[int]] = {frozenset(): []}
        for index, buffer in enumerate(self.program.buffers):
            if buffer.kind == "arena" and self.phases.first[index] >= 0:
                groups.setdefault(frozenset(symbols(buffer.bytes)) & self.bind_symbols, []).append(index)
        chunks = []
        for depends, members in groups.items():
            buffers = np.array(members, np.int64)
            chunks.append(Chunk(depends, buffers, Arena(self.phases.first[buffers], self.phases.last[buffers])))
        return chunks


def _columns(rows: Sequence[tuple[int, ...]], width: int) -> tuple[np.ndarray, ...]:
    return tuple(np.array(rows, np.int64).reshape(-1, width).T.copy())
