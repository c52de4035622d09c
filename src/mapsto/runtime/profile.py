"""Where a run's time goes, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapsto.runtime.frame import Frame
from mapsto.runtime.program import Program, Run
from mapsto.runtime.walk import WalkedFrame


@dataclass(frozen=True)
class StepTime:
    """`nanoseconds` is the mean of one call of the step; `calls` counts them over all runs (0: never reached)."""

    index: int
    function: str
    label: str
    provenance: tuple[str, ...]
    nanoseconds: float
    calls: int


def profile_frame(frame: Frame | WalkedFrame, program: Program, inputs: Sequence[Any], runs: int) -> list[StepTime]:
    """Times of the steps that call code. Threads meet after each step here, which runs without a profile may spare."""
    counters = np.zeros((len(program.steps) + 1, 2), np.int64)
    with frame.measured(counters):
        for _ in range(runs):
            frame.run(inputs)
    times = []
    for index, step in enumerate(program.steps):
        if isinstance(step, Run):
            total, calls = (int(n) for n in counters[index])
            times.append(
                StepTime(index, step.function, step.label, step.provenance, total / calls if calls else 0.0, calls)
            )
    return times
