"""What a planned graph is predicted to cost, kernel by kernel: tasks and homes as the cost model sees them.

A thin reading of the plan: each task's statements, contractions and layouts go to `plan.row_tally` and
`plan.contraction_tally` as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mapsto.devices.cpu.contractions import template_reach
from mapsto.devices.cpu.functions import Functions
from mapsto.devices.cpu.isa import Isa
from mapsto.devices.cpu.packed import direct_b
from mapsto.devices.cpu.reach import reach
from mapsto.devices.cpu.traits import TRAITS
from mapsto.devices.making.code import Code, Shared
from mapsto.devices.making.sums import contraction_stmts
from mapsto.ir.expr import loads, product, symbols
from mapsto.ir.graph import Graph, Value
from mapsto.kernel.ast import Iter, Reduce, Stmt, walk
from mapsto.kernel.compose import loads_of, reads
from mapsto.machine.cost import Cost, Stream, Tally, price
from mapsto.machine.spec import DeviceSpec
from mapsto.plan.contraction import Contraction
from mapsto.plan.contraction_tally import contraction_tally, extents_of
from mapsto.plan.decide import Mapped, decide
from mapsto.plan.initial import constants_of
from mapsto.plan.items import Item, Region, tasks
from mapsto.plan.layout import Layout, plain
from mapsto.plan.patterns import Sizes, number
from mapsto.plan.routine_tally import routine_tally
from mapsto.plan.row_tally import rows_tally
from mapsto.plan.task import Task


@dataclass(frozen=True)
class Predicted:
    """One task: its name in the plan, what it costs, and what was counted, a tally a kernel."""

    name: str
    cost: Cost
    tallies: tuple[Tally, ...]


def predict(
    graph: Graph, sizes: Mapping[str, int], spec: DeviceSpec, isa: Isa, threads: int = 1
) -> dict[str, Predicted]:
    """The cost of each task of a graph that the passes are done with, by the task's name; nothing is compiled."""
    mapped, guess = decide(graph, TRAITS), Sizes(sizes)
    counter = _Counter(mapped, constants_of(graph), guess, spec, isa)
    distances = _Distances(mapped, guess)
    found = {}
    for task in tasks(mapped.items):
        tallies = tuple(counter.tallies(task, distances.of(task)))
        cost = sum((price(tally, spec, threads) for tally in tallies), Cost())
        found[task.name] = Predicted(task.name, cost, tallies)
    return found


def iterators(stmt: Stmt) -> list[Iter]:
    """All iterators of a statement, those of its reductions included."""
    return [*stmt.iters, *(i for node in walk(stmt.value) if isinstance(node, Reduce) for i in node.iters)]


class _Distances:
    """Bytes touched between two uses of a value, by a walk over the tasks in order; constants come once a run."""

    def __init__(self, mapped: Mapped, sizes: Sizes) -> None:
        self.homes, self.sizes = mapped.homes, sizes
        self.touched: dict[str, float] = {}
        self.clock = 0.0
        self.run = self._all(mapped.items)

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
            elif isinstance(item, Region):
                total += max((self._all(arm) for arm in item.arms), default=0.0)
        return total

    def _sizes(self, task: Task) -> dict[str, float]:
        """Bytes of each operand that a task touches."""
        names = dict.fromkeys([*sorted(task.reads), *task.targets])
        found = {n: self._bytes(n) for n in names if n in self.homes}
        for stmt in task.stmts if task.kind == "rows" else ():
            extents = {i.name: number(i.extent, self.sizes) for i in iterators(stmt)}
            for load in loads_of(stmt):
                if load.tensor in found and any(loads(e) for e in load.index):  # rows of a table
                    reached = {n for e in load.index for n in symbols(e)}
                    count = math.prod(extent for name, extent in extents.items() if name in reached)
                    found[load.tensor] = min(found[load.tensor], float(count * load.dtype.size))
        return found

    def _bytes(self, name: str) -> float:
        home = self.homes[name]
        return float(number(product(home.layout.shape), self.sizes) * home.dtype.size)


@dataclass(frozen=True)
class _Counter:
    """Tallies of tasks, one for each kernel that the CPU's maker would make."""

    mapped: Mapped
    constants: Mapping[str, np.ndarray]
    sizes: Sizes
    spec: DeviceSpec
    isa: Isa

    def tallies(self, task: Task, distances: Mapping[str, float]) -> Iterator[Tally]:
        homes = self.mapped.homes
        if task.kind == "routine":
            (node,) = task.nodes
            yield routine_tally(node, [homes[n].value(n) if n else None for n in node.inputs], self.sizes, distances)
            return
        values = {**task.values, **{n: homes[n].value(n) for n in (*task.reads, *task.targets) if n in homes}}
        code = self._code(task)
        if task.kind == "rows" or template_reach(task, code) is None:
            stmts = task.stmts if task.kind == "rows" else contraction_stmts(task, code)
            yield rows_tally(stmts, values, self._layouts(stmts), self.sizes, self.spec, distances)
            return
        final = task.targets[-1]
        layouts = {n: homes[n].layout for n in (*task.reads, *task.targets) if n in homes}
        for name in (t for t in task.targets if t in homes):
            yield from _border(layouts[name], values[name], self.sizes)
        for phase in task.phases:
            yield from self._packing(phase, code, values, distances)
            extents = extents_of(phase, final, layouts, self.sizes)
            made = reach(self.isa, extents, phase.a.dtype, phase.b.dtype, phase.dtype, values[final].dtype)
            yield contraction_tally(phase, task.stmts, values, layouts, self.sizes, self.spec, made, distances)

    def _layouts(self, stmts: Sequence[Stmt]) -> dict[str, Layout]:
        """Of what is in memory."""
        touched = {s.target for s in stmts}.union(*(reads(s) for s in stmts))
        return {n: self.mapped.homes[n].layout for n in touched if n in self.mapped.homes}

    def _code(self, task: Task) -> Code:
        shared = Shared(Functions(self.isa, lambda name, text, optimizer: None))
        return Code.of(shared, task, self.mapped.homes, self.constants)

    def _packing(
        self, c: Contraction, code: Code, values: Mapping[str, Value], distances: Mapping[str, float]
    ) -> Iterator[Tally]:
        """An operand that is made at run time and whose columns are not contiguous is packed by a step of its own."""
        if c.b.tensor in code.constants or direct_b(c, code) is not None:
            return
        layout = code.layout(c.b.tensor)
        iters = (*c.batch, *c.channels, *c.windows, *c.cols)
        name = f"{c.b.tensor} packed"
        shape = tuple(i.extent for i in iters)
        own = {**values, name: Value(name, c.b.dtype, shape)}
        stmt = Stmt(name, c.b.dtype, iters, c.b)
        yield rows_tally([stmt], own, {c.b.tensor: layout, name: plain(shape)}, self.sizes, self.spec, distances)


def _border(layout: Layout, value: Value, sizes: Sizes) -> Iterator[Tally]:
    """The zeros around what the template writes: a step of its own."""
    if not layout.has_border:
        return
    inside = math.prod(number(d, sizes) for d in layout.shape)
    around = math.prod(number(d, sizes) + sum(b) for d, b in zip(layout.shape, layout.border, strict=True)) - inside
    size = float(around * value.dtype.size)
    yield Tally(moves={"store": size / 4}, streams=(Stream(size, size, True),))
