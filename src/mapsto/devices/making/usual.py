"""The usual case of open axes: those that broadcast have one extent. It gets code of its own.

What an axis of a name of its own is read by, i*equal(extent, full), keeps its place in memory from being known: loads
go element by element, loops do not join. Where all such extents are equal the code can be what it would be if they had
one name. So a task that reads that way is compiled twice; a run gives one of the two its extent and the other one 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mapsto.devices.making.code import TaskCode
from mapsto.ir.expr import Atom, Call, Dim, Expr, atoms, of_atom, product, sole_atom
from mapsto.ir.expr_rewrite import rebuild
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Index as IndexValue
from mapsto.kernel.ast import Iter, Load, Scalar, Stmt, Where, transform, walk
from mapsto.kernel.compose import loads_of
from mapsto.kernel.facts import facts
from mapsto.plan.contraction import Contraction
from mapsto.plan.home import Home
from mapsto.plan.layout import Axis, Layout
from mapsto.plan.task import Task


@dataclass(frozen=True)
class Usual:
    """`holds`: 1 in a run where the extents of each pair are equal, else 0. `names`: what stands for an extent then."""

    holds: Dim
    names: Mapping[Atom, Dim]

    def dim(self, e: Dim) -> Dim:
        return rebuild(e, self.names.get)

    def dims(self, dims: Iterable[Dim]) -> tuple[Dim, ...]:
        return tuple(self.dim(d) for d in dims)

    def iters(self, iters: Iterable[Iter]) -> tuple[Iter, ...]:
        return tuple(Iter(i.name, self.dim(i.extent)) for i in iters)

    def task(self, task: Task) -> Task:
        phases = tuple(self._contraction(c) for c in task.phases)
        return replace(task, stmts=tuple(self._stmt(s) for s in task.stmts), phases=phases)

    def code(self, code: TaskCode, names: Sequence[str]) -> TaskCode:
        """The same functions and tensors; these ones lie as they do in the usual case."""
        homes = {name: self._home(code.homes[name]) for name in names if name in code.homes}
        values = {name: self._value(code.values[name]) for name in names if name in code.values}
        return code.over(homes, values)

    def _stmt(self, s: Stmt) -> Stmt:
        index = None if s.index is None else self.dims(s.index)
        return replace(s, iters=self.iters(s.iters), index=index, value=transform(s.value, lambda n: None, self.dim))

    def _contraction(self, c: Contraction) -> Contraction:
        return replace(
            c,
            iters=self.iters(c.iters),
            index=self.dims(c.index),
            shape=self.dims(c.shape),
            a=replace(c.a, index=self.dims(c.a.index)),
            b=replace(c.b, index=self.dims(c.b.index)),
            guards=self.dims(c.guards),
            batch=self.iters(c.batch),
            rows=self.iters(c.rows),
            cols=self.iters(c.cols),
            reds=self.iters(c.reds),
        )

    def _value(self, value: Value) -> Value:
        return replace(value, shape=self.dims(value.shape))

    def _home(self, home: Home) -> Home:
        layout = home.layout
        axes = tuple(Axis(a.dim, a.div, a.size, self.dim(a.stride)) for a in layout.axes)
        shape, elements, offset = self.dims(layout.shape), self.dim(layout.elements), self.dim(layout.offset)
        return replace(home, layout=Layout(shape, axes, elements, offset, layout.border))


def usual_case(task: Task, code: TaskCode) -> Usual | None:
    """The usual case of a task; None where it has no other, or where its code would gain nothing: a contraction walks
    its batches by any stride.
    """
    tests = dict.fromkeys(a for e in _places(task, code) for a in atoms(e) if isinstance(a, Call) and a.fn == "equal")
    if not tests:
        return None
    names: dict[Atom, Dim] = dict.fromkeys(tests, 1)
    for members in _classes(tuple(test.args) for test in tests):
        chosen = min(members, key=lambda d: (isinstance(d, Expr), len(str(d)), str(d)))
        names.update({atom: chosen for atom in map(sole_atom, members) if atom is not None and of_atom(atom) != chosen})
    return Usual(product(of_atom(test) for test in tests), names)


def _places(task: Task, code: TaskCode) -> Iterator[Dim]:
    """Index expressions of a task's statements, and the strides of what they touch."""
    for stmt in task.stmts:
        yield from stmt.index or ()
        yield from _expressions(stmt.value) if facts(stmt.value).calls else ()  # sums of products hold no test
    for c in task.phases:
        batch = {i.name for i in c.batch}
        yield from (e for load in (c.a, c.b) for e in load.index if not (isinstance(e, Expr) and e.names & batch))
    touched = {load.tensor for stmt in task.stmts for load in loads_of(stmt)}
    homes = {name: home for name in sorted(touched) if (home := code.home(name)) is not None}
    for layout in {id(home.layout): home.layout for home in homes.values()}.values():  # many tensors, a few layouts
        yield from (axis.stride for axis in layout.axes)


def _expressions(e: Scalar) -> Iterator[Dim]:
    for node in walk(e):
        if isinstance(node, Load):
            yield from node.index
        elif isinstance(node, Where):
            yield from node.conds
        elif isinstance(node, IndexValue):
            yield node.expr


def _classes(pairs: Iterable[tuple[Dim, ...]]) -> list[set[Dim]]:
    """Extents that are equal by way of pairs."""
    found: list[set[Dim]] = []
    for pair in pairs:
        joined = set(pair).union(*(c for c in found if c & set(pair)))
        found = [*(c for c in found if not c & joined), joined]
    return found
