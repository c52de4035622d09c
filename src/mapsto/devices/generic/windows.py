"""Reductions over windows of rows: neighbours read points in common."""

from __future__ import annotations

from mapsto.ir.expr import Dim, linear
from mapsto.kernel.ast import Load, Reduce, walk


def overlaps(e: Reduce, row: str) -> bool:
    """Whether the window of one row has points of the next one's. What it reads is at places, not at indices."""
    for node in walk(e.body):
        if not isinstance(node, Load) or (along := linear(node.index[0], row)) is None:
            continue
        for it in e.iters:
            step = linear(node.index[0], it.name)
            if step is not None and _shares(along.coefficient, step.coefficient, it.extent):
                return True
    return False


def _shares(along: Dim, step: Dim, extent: Dim) -> bool:
    """Whether a window of `extent` points, `step` apart, meets the one that begins `along` further on."""
    if not isinstance(along, int) or not isinstance(step, int) or not isinstance(extent, int):
        return False
    return along > 0 and step > 0 and along % step == 0 and along // step < extent
