"""Windows that slide over a dim in blocks: a vector of them begins anywhere in a block, ends in the next, and is put
together element by element. Over a row-major copy the same window reads neighbours side by side, or rows at even
distances, and the copy is made once for all that the window reads again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mapsto.ir.expr import symbols
from mapsto.kernel.ast import Load, Reduction, walk
from mapsto.plan.home import Home
from mapsto.plan.task import Task


def slid_over(task: Task, homes: Mapping[str, Home]) -> dict[str, int]:
    """Values of which a task of loops reads windows that slide over their dim in blocks, and that dim."""
    found: dict[str, int] = {}
    for load, reduced in _summed(task):
        block = homes[load.tensor].layout.block if load.tensor in homes else None
        if block is not None and _slides(load, reduced, block.dim):
            found[load.tensor] = block.dim
    return found


def _summed(task: Task) -> Iterator[tuple[Load, frozenset[str]]]:
    """What is read in reductions, with the reduction's iterators of more than one round."""
    for stmt in task.stmts if task.kind == "rows" else ():
        for node in walk(stmt.value):
            if isinstance(node, Reduction):
                reduced = frozenset(i.name for i in node.iters if i.extent != 1)
                yield from ((inner, reduced) for inner in walk(node) if isinstance(inner, Load))


def _slides(load: Load, reduced: frozenset[str], dim: int) -> bool:
    """Whether the places along a dim are those of a window, in the middle of others."""
    names = symbols(load.index[dim])
    return bool(names & reduced) and bool(names - reduced)
