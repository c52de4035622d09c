"""Sees that no step reads memory that no step before it wrote, on any path, that every path writes the outputs, and
that no step works with a size that a path to it has not bound.

The states are sets of buffers that hold something for certain, and of symbols that are bound: a step adds what it
writes or binds, where paths meet the state is what both have. Only a step that gives a size its value takes something
out, what lies in buffers of that size: these move. So a loop entered at its head mostly brings no news to it: a second
pass sees that. (This is the "available" form of the classical data-flow problem: A. Aho et al., "Compilers", section
9.2.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mapsto.errors import VerifyError
from mapsto.ir.expr import Dim, symbols
from mapsto.runtime.program import (
    BranchIfFalse,
    Jump,
    Program,
    Require,
    Run,
    Step,
    bound_symbol,
    operands_of,
    step_dims,
)

_ROUNDS = 100  # a jump into the middle of a loop may cost a round more


def check_dataflow(program: Program) -> None:
    """Raises VerifyError, naming step and buffer, for a read of what may hold nothing, or an output that may not be
    written. Buffers without a byte hold all they can.
    """
    arriving: dict[int, int] = {}  # step -> what holds for certain where jumps arrive
    sizes = _Sizes.of(program)
    for _ in range(_ROUNDS):
        if not _pass(program, sizes, arriving):
            return
    raise VerifyError(f"program {program.name}: its jumps back lead into too many loops to follow")


@dataclass(frozen=True)
class _Sizes:
    """Symbols that steps bind. `bits`: what stands for each in a state; `sized`: buffers whose size each decides."""

    bits: Mapping[str, int]
    sized: Mapping[str, int]
    _known: dict[Dim, int] = field(default_factory=dict)

    @staticmethod
    def of(program: Program) -> _Sizes:
        names = dict.fromkeys(name for step in program.steps if (name := bound_symbol(step)) is not None)
        count = len(program.buffers)
        sized = dict.fromkeys(names, 0)
        for number, buffer in enumerate(program.buffers if names else ()):
            for name in symbols(buffer.bytes) & names.keys():
                sized[name] |= 1 << number
        return _Sizes({name: 1 << count + k for k, name in enumerate(names)}, sized)

    def needed(self, program: Program, step: Step) -> int:
        """Bits of the symbols that a step works with: in its own sizes, and in those of the buffers that it touches."""
        found = 0
        for dim in step_dims(step):
            found |= self._in(dim)
        for buffer, _ in operands_of(step):
            found |= self._in(program.buffers[buffer].bytes)
        return found

    def _in(self, dim: Dim) -> int:
        if isinstance(dim, int):
            return 0
        if dim not in self._known:
            self._known[dim] = sum(self.bits[name] for name in symbols(dim) & self.bits.keys())
        return self._known[dim]

    def names(self, state: int) -> str:
        return ", ".join(name for name, bit in self.bits.items() if state & bit)


def _pass(program: Program, sizes: _Sizes, arriving: dict[int, int]) -> bool:
    """Walks all steps in order, once; True where a jump back brought news. States are bits, one a buffer and one a
    symbol; None: no path leads here.
    """
    news = False
    state: int | None = sum(
        1 << i for i, b in enumerate(program.buffers) if b.kind in ("input", "constant") or b.bytes == 0
    )
    for index, step in enumerate(program.steps):
        state = _meet(state, arriving.get(index))
        if state is None:
            continue
        missing = sizes.needed(program, step) & ~state if sizes.bits else 0
        if missing:
            where = f"step {index} {step.label}".rstrip()
            what = f"it works with the size {sizes.names(missing)}, which a path to it has not bound"
            raise VerifyError(f"program {program.name}: {where}: {what}")
        reads, writes = _accesses(program, step)
        for buffer in reads:
            if not state >> buffer & 1:
                name = program.buffers[buffer].name
                where = f"step {index} {step.label}".rstrip()
                gone = any(held >> buffer & 1 for held in sizes.sized.values())
                why = " since it got its size" if gone else ""
                raise VerifyError(
                    f"program {program.name}: {where}: it reads {name}, which no step may have written{why}"
                )
        for buffer in writes:
            state |= 1 << buffer
        if (symbol := bound_symbol(step)) is not None:  # what lies in buffers of its size stays behind
            state = state & ~sizes.sized[symbol] | sizes.bits[symbol]
        if isinstance(step, (BranchIfFalse, Jump)):
            before = arriving.get(step.target)
            after = arriving[step.target] = state if before is None else before & state
            news |= step.target <= index and after != before
        if isinstance(step, Jump) or _fails(step):
            state = None
    state = _meet(state, arriving.get(len(program.steps)))
    for port in program.outputs if state is not None else ():
        if not state >> port.buffer & 1:  # type: ignore[operator]
            raise VerifyError(f"program {program.name}: output {port.name}: a path to the end writes nothing there")
    return news


def _meet(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _accesses(program: Program, step: Step) -> tuple[list[int], list[int]]:
    """Buffers that a step reads, and those that it writes. A step that does not say what it writes may write all that
    can be written, and is taken to do so.
    """
    operands = operands_of(step)
    if not isinstance(step, Run):
        return [buffer for buffer, _ in operands], []
    if step.writes is not None:
        written = set(step.writes)
        reads = [buffer for position, (buffer, _) in enumerate(operands) if position not in written]
        return reads, [operands[position][0] for position in step.writes]
    return [], [buffer for buffer, _ in operands]


def _fails(step: Step) -> bool:
    return isinstance(step, Require) and isinstance(step.condition, int) and step.condition < 0
