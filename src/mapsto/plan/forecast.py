"""What the works of a plan are expected to take: each is quoted by its device, with what lies where in memory.

Whether an operand comes from a near cache or from far follows from how much was touched since it was touched last.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mapsto.ir.expr import loads, symbols
from mapsto.kernel.ast import Iter, Reduction, Stmt, walk
from mapsto.kernel.compose import loads_of
from mapsto.plan.asked import Quote
from mapsto.plan.home import Home
from mapsto.plan.items import Branches, Item, tasks
from mapsto.plan.patterns import Sizes, extent
from mapsto.plan.prices import Prices
from mapsto.plan.rules.base import Refusal
from mapsto.plan.task import Task


def forecast(
    items: Sequence[Item], homes: Mapping[str, Home], prices: Prices
) -> Iterator[tuple[Task, Sequence[Quote | Refusal]]]:
    """Each task with what the device offers for it, the cheapest first."""
    distances = _Distances(items, homes, Sizes.of(prices.sizes))
    for task in tasks(items):
        yield task, prices.offers(task, homes, distances.of(task))


def iterators(stmt: Stmt) -> list[Iter]:
    """All iterators of a statement, those of its reductions included."""
    return [*stmt.iters, *(i for node in walk(stmt.value) if isinstance(node, Reduction) for i in node.iters)]


class _Distances:
    """Bytes touched between two uses of a value, by a walk over the tasks in order; constants come once a run."""

    def __init__(self, items: Sequence[Item], homes: Mapping[str, Home], sizes: Sizes) -> None:
        self.homes, self.sizes = homes, sizes
        self.touched: dict[str, float] = {}
        self.clock = 0.0
        self.run = self._all(items)

    def of(self, task: Task) -> dict[str, float]:
        """For each operand of the next task."""
        sizes = self._sizes(task)
        own = sum(sizes.values())
        found = {name: self._since(name) + own for name in sizes}
        self.clock += own
        for name in sizes:
            self.touched[self.homes[name].buffer] = self.clock
        return found

    def _since(self, name: str) -> float:
        """What was not touched in this run yet was touched last in the run before."""
        last = self.touched.get(self.homes[name].buffer)
        return self.run if last is None else self.clock - last

    def _all(self, items: Iterable[Item]) -> float:
        """Of a run: of several arms it takes the dearest."""
        total = 0.0
        for item in items:
            if isinstance(item, Task):
                total += sum(self._sizes(item).values())
            elif isinstance(item, Branches):
                total += max((self._all(arm) for arm in item.arms), default=0.0)
        return total

    def _sizes(self, task: Task) -> dict[str, float]:
        """Bytes of each operand that a task touches."""
        names = dict.fromkeys([*sorted(task.reads), *task.targets])
        found = {n: self._bytes(n) for n in names if n in self.homes}
        for stmt in task.stmts if task.kind == "rows" else ():
            extents = {i.name: extent(i.extent, self.sizes) for i in iterators(stmt)}
            for load in loads_of(stmt):
                if load.tensor in found and any(loads(e) for e in load.index):  # rows of a table
                    reached = {n for e in load.index for n in symbols(e)}
                    count = math.prod(n for name, n in extents.items() if name in reached)
                    found[load.tensor] = min(found[load.tensor], float(count * load.dtype.size))
        return found

    def _bytes(self, name: str) -> float:
        home = self.homes[name]
        return float(math.prod(extent(d, self.sizes) for d in home.layout.shape) * home.dtype.size)
