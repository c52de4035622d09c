"""Sees that no step reads memory that no step before it wrote, on any path, and that every path writes the outputs.

The states are sets of buffers that hold something for certain: a step adds what it writes, where paths meet the state
is what both have. Nothing is ever taken out, so a loop entered at its head brings no news to it: a second pass sees
that. (This is the "available" form of the classical data-flow problem: A. Aho et al., "Compilers", section 9.2.)
"""

from __future__ import annotations

from mapsto.errors import VerifyError
from mapsto.runtime.program import BranchIfFalse, Jump, Program, Require, Run, Step, operands_of

_ROUNDS = 100  # a jump into the middle of a loop may cost a round more


def check_dataflow(program: Program) -> None:
    """Raises VerifyError, naming step and buffer, for a read of what may hold nothing, or an output that may not be
    written. Buffers without a byte hold all they can.
    """
    arriving: dict[int, int] = {}  # step -> what is written for certain where jumps arrive
    for _ in range(_ROUNDS):
        if not _pass(program, arriving):
            return
    raise VerifyError(f"program {program.name}: its jumps back lead into too many loops to follow")


def _pass(program: Program, arriving: dict[int, int]) -> bool:
    """Walks all steps in order, once; True where a jump back brought news. States are bits, one a buffer; None: no path
    leads here.
    """
    news = False
    state: int | None = sum(
        1 << i for i, b in enumerate(program.buffers) if b.kind in ("input", "constant") or b.bytes == 0
    )
    for index, step in enumerate(program.steps):
        state = _meet(state, arriving.get(index))
        if state is None:
            continue
        reads, writes = _accesses(program, step)
        for buffer in reads:
            if not state >> buffer & 1:
                name = program.buffers[buffer].name
                where = f"step {index} {step.label}".rstrip()
                raise VerifyError(f"program {program.name}: {where}: it reads {name}, which no step may have written")
        for buffer in writes:
            state |= 1 << buffer
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
