"""Where a long walk looks at the clock, so that Python can handle signals in between (see `runner_ir`).

A look costs the first thread 8 ns, and a meeting of all threads where they would not meet anyway. So steps that are
surely short are counted together: there is a look after each `_WORK` of them at the latest, and in every round of a
loop. Where the threads meet anyway, and where there is one thread only, steps that may be long count as long.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mapsto.ir.expr import Dim
from mapsto.runtime.program import BranchIfFalse, Jump, Program, Run, operands_of

# Work is counted in grains, the least share that is worth a thread (some 12,000 cycles: 4 us).
_WORK = 1000.0
_GRAINS_OF_ITEM = 4.0  # typical of an item that is worth a thread by itself (grain 1)
_GRAIN_BYTES = 1 << 15  # what passes through memory in the time of a grain
_LEAST = 31.25  # what a step counts at least: no more than 32 of them are walked without a look


class Polls:
    """What is known of a program before any size. `index`: where a size's value is among all values."""

    def __init__(self, program: Program, index: Mapping[Dim, int]) -> None:
        self._count = len(program.steps)
        touched = [(i, index[program.buffers[b].bytes]) for i, s in enumerate(program.steps) for b, _ in operands_of(s)]
        self._touch_step, self._touch_expr = np.array(touched, np.int64).reshape(-1, 2).T.copy()
        # a walk that stops at another step has a reason of its own to stop there
        steps = list(enumerate(program.steps))
        self._places = np.array([i for i, s in steps if isinstance(s, (Run, BranchIfFalse, Jump))], np.int64)
        self._others = [i for i, s in steps if not isinstance(s, Run)]
        self._back = [i for i, s in steps if isinstance(s, (BranchIfFalse, Jump)) and s.target <= i]

    def steps(
        self,
        values: np.ndarray,
        step: np.ndarray,
        extents: np.ndarray,
        grain: np.ndarray,
        shares: np.ndarray,
        meets: np.ndarray | None,
        varies: np.ndarray,
    ) -> np.ndarray:
        """Which steps there is a look before, as bools. `values` of all sizes; `extents`, `grain` and `shares` of the
        steps numbered `step`; `meets`: the steps before which the threads meet anyway (None: there is one thread);
        `varies`: which of these extents may be others in each round of a loop.

        An item that is worth a thread by itself (grain 1) may be a routine that nobody has measured.
        """
        polls = np.zeros(self._count, bool)
        if not len(self._places):
            return polls
        by_bytes = np.bincount(self._touch_step, values[self._touch_expr], self._count) / _GRAIN_BYTES
        whole = (grain == 1) | varies
        work = _counted(by_bytes, step, np.where(whole, _WORK, extents / grain))
        work[self._others] = _LEAST
        self._mark(polls, work, self._places if meets is None else self._places[meets[self._places]])
        if meets is not None:
            typical = np.where(shares > 1, extents * _GRAINS_OF_ITEM, _WORK)
            work = _counted(by_bytes, step, np.where(whole, typical, extents / grain))
            work[self._others] = _LEAST
            self._mark(polls, work, self._places)
        polls[self._back] = True
        return polls

    def _mark(self, polls: np.ndarray, work: np.ndarray, places: np.ndarray) -> None:
        """Looks at the first of these places that comes after each whole `_WORK`."""
        passed = np.floor((np.cumsum(work) - work)[places] / _WORK)
        polls[places[1:]] |= passed[1:] > passed[:-1]
        polls[places[:1]] |= passed[:1] > 0


def _counted(by_bytes: np.ndarray, step: np.ndarray, grains: np.ndarray) -> np.ndarray:
    work = by_bytes.copy()
    work[step] = np.maximum(work[step], grains)
    clipped: np.ndarray = np.clip(work, _LEAST, _WORK)
    return clipped
