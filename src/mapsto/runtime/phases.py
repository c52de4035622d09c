"""Where threads must meet, and how long each buffer lives.

A *phase* is a run of steps between two meetings of the threads. Steps of one phase may run at the same time, so memory
is shared only between buffers whose phases do not overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mapsto.runtime.program import BranchIfFalse, Jump, Program, touched, updated_buffers


@dataclass(frozen=True)
class Phases:
    """`of_step[i]` is the phase of step i; phases count up from 0. `is_target` marks steps that a jump may reach.

    `first` and `last` are the phases in which each buffer is alive (-1: never touched). `looped` marks buffers that
    live through a loop.
    """

    of_step: np.ndarray
    is_target: np.ndarray
    first: np.ndarray
    last: np.ndarray
    looped: np.ndarray


def find_phases(program: Program) -> Phases:
    count = len(program.steps)
    is_target = np.zeros(count + 1, bool)
    for step in program.steps:
        if isinstance(step, (BranchIfFalse, Jump)):
            is_target[step.target] = True
    of_step = np.array(_number_phases(program, is_target), np.int64)
    first, last = _lifetimes(program, of_step)
    looped = _extend_over_loops(program, of_step, first, last)
    return Phases(of_step, is_target[:count], first, last, looped)


def _number_phases(program: Program, is_target: np.ndarray) -> list[int]:
    """A step starts a phase where a jump may arrive, or where it meets (reads or writes) what another step of the phase
    wrote, or writes what one read.
    """
    updated = updated_buffers(program)
    after_loop = {stop + 1 for _, stop in loops_of(program)}
    phase = 0
    numbers: list[int] = []
    seen: set[int] = set()  # touched in this phase
    written: set[int] = set()
    for index, step in enumerate(program.steps):
        everything, writes = touched(program, step, updated)
        if is_target[index] or index in after_loop or everything & written or writes & seen:
            phase += 1
            seen, written = set(), set()
        seen |= everything
        written |= writes
        numbers.append(phase)
    return numbers


def loops_of(program: Program) -> list[tuple[int, int]]:
    """(first step, last step) of each loop: jumps back."""
    steps = enumerate(program.steps)
    return [(s.target, i) for i, s in steps if isinstance(s, (BranchIfFalse, Jump)) and s.target <= i]


def _lifetimes(program: Program, of_step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first = np.full(len(program.buffers), -1, np.int64)
    last = np.full(len(program.buffers), -1, np.int64)
    for index, step in enumerate(program.steps):
        for buffer in touched(program, step, set())[0]:
            if first[buffer] < 0:
                first[buffer] = of_step[index]
            last[buffer] = of_step[index]
    return first, last


def _extend_over_loops(program: Program, of_step: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """What a loop touches may be carried to its next round, so it lives through the whole loop."""
    loops = [(of_step[start], of_step[stop]) for start, stop in loops_of(program)]
    looped = np.zeros(len(first), bool)
    changed = bool(loops)
    while changed:
        changed = False
        for start, stop in loops:
            inside = (first >= 0) & (first <= stop) & (last >= start)
            looped |= inside
            grows = inside & ((first > start) | (last < stop))
            if grows.any():
                first[inside] = np.minimum(first[inside], start)
                last[inside] = np.maximum(last[inside], stop)
                changed = True
    return looped


def barriers(phases: Phases, steps_alone: np.ndarray) -> np.ndarray:
    """Which steps the threads meet before. `steps_alone` marks steps that only the first thread works on: between two
    phases of such steps nobody has to wait for anybody.
    """
    of_step = phases.of_step
    if not len(of_step):
        return np.zeros(0, bool)
    starts = np.flatnonzero(np.diff(of_step, prepend=-1))
    shared = np.logical_or.reduceat(~steps_alone, starts)
    needed = shared.copy()
    needed[1:] |= shared[:-1]
    result = np.zeros(len(of_step), bool)
    result[starts] = needed | phases.is_target[starts]
    result[0] = phases.is_target[0]
    return result
