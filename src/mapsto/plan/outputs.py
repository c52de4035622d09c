"""Where the outputs lie: each in a buffer of its own, or in the memory of the input that it takes over.

An update (input p, output u) is computed straight into p's memory where nobody reads p any more once u is being
written: readers come before the one group that writes u, or are that group, reading p only at the element that it
writes. A scatter then writes what it changes alone. Elsewhere u is computed apart and copied at the very end. An output
that is an input or a constant as it is is a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mapsto.ir.expr import Dim, sym
from mapsto.ir.expr_rewrite import substitute
from mapsto.ir.graph import Graph
from mapsto.kernel.ast import Load, Reduction, Scalar, Stmt, children
from mapsto.kernel.compose import index_loads, loads_of
from mapsto.plan.edits import kept_in_place
from mapsto.plan.home import Home
from mapsto.plan.initial import Setting, copy_task
from mapsto.plan.items import Item, each, reads_of, targets_of
from mapsto.plan.layout import plain
from mapsto.plan.task import Task
from mapsto.plan.works import walk


@dataclass
class Placing:
    """Homes as outputs are placed one by one; nobody else sees it before the end."""

    setting: Setting
    homes: dict[str, Home]
    fresh: Callable[[str], str]
    order: list[Item]
    first: list[Task] = field(default_factory=list)
    last: list[Task] = field(default_factory=list)

    def buffer(self, name: str) -> str | None:
        home = self.homes.get(name)
        return None if home is None else home.buffer

    def copied(self, source: str, buffer: str, reason: str, tasks: list[Task]) -> str:
        """A row-major copy of a value in a buffer (its own where that is ""), by a further task."""
        value = self.homes[source].value(source)
        name = self.fresh(f"{source}.copy")
        self.homes[name] = Home(buffer or name, value.dtype, plain(value.shape), reason)
        tasks.append(copy_task(value, replace(value, name=name), self.setting, (), reason))
        return name

    def take_over(self, output: str, source: str) -> None:
        """All that lies in the output's buffer lies in the source's."""
        own, taken = self.homes[output].buffer, self.homes[source].buffer
        for name, home in list(self.homes.items()):
            if home.buffer == own:
                because = f"takes over the memory of {source}" if name == output else home.because
                self.homes[name] = replace(home, buffer=taken, because=because)


def place_outputs(
    graph: Graph, items: Sequence[Item], setting: Setting, homes: dict[str, Home], fresh: Callable[[str], str]
) -> tuple[tuple[Item, ...], dict[str, Home], dict[str, str]]:
    """The items with the copies that outputs need, the homes, and for each output the value whose buffer holds it."""
    work = Placing(setting, dict(homes), fresh, list(walk(items)))
    updates = {output: source for source, output in graph.updates}
    fixed = {v.name for v in graph.inputs} | setting.constants.keys()
    places: dict[str, str] = {}
    for name in graph.outputs:
        source = updates.get(name)
        if source is not None:
            places[name] = _updated(work, name, source, name in fixed)
        elif name in fixed:
            places[name] = work.copied(name, "", f"the output {name} is an input or a constant", work.first)
        else:
            places[name] = name
    inside = {name: source for name, source in updates.items() if work.buffer(name) == work.buffer(source)}
    kept = each(items, lambda item: (_without_own_copies(item, inside),))
    return (*work.first, *kept, *work.last), work.homes, places


def _without_own_copies(item: Item, inside: Mapping[str, str]) -> Item:
    """A task that writes updates into an input's memory, without the copies of elements onto themselves."""
    if isinstance(item, Task):
        for name in targets_of(item):
            if name in inside:
                item = kept_in_place(item, name, inside[name])
    return item


def _updated(work: Placing, output: str, source: str, fixed: bool) -> str:
    if output == source:
        return output
    if fixed:  # read it before anything is written: it may be an input that is updated too
        staged = work.copied(output, "", f"{output} as it came in, for {source}", work.first)
        return work.copied(staged, source, f"{output} takes over the memory of {source}", work.last)
    if in_place(work, output, source):
        work.take_over(output, source)
        return output
    reason = f"{source} is read while {output} is written: {output} moves into its memory at the end"
    return work.copied(output, source, reason, work.last)


def in_place(work: Placing, output: str, source: str) -> bool:
    """Whether an output can be computed in the source's memory."""
    own, taken = work.buffer(output), work.buffer(source)
    writers = [i for i, g in enumerate(work.order) if any(work.buffer(t) == own for t in targets_of(g))]
    readers = [i for i, g in enumerate(work.order) if any(work.buffer(n) == taken for n in reads_of(g))]
    late = [i for i in readers if i >= min(writers)]
    return not late or (late == writers[:1] and _at_the_element(work, work.order[late[0]], output, source))


def _at_the_element(work: Placing, task: Item, output: str, source: str) -> bool:
    """Whether a task reads the source, and what it makes of it, only at the element of the output that it writes."""
    if not isinstance(task, Task) or task.kind == "routine":
        return False
    if any(work.buffer(operand) == work.buffer(source) for c in task.phases for operand in (c.a.tensor, c.b.tensor)):
        return False
    depends = {n for n in task.reads if work.buffer(n) == work.buffer(source)}
    if depends != {source}:
        return False  # a view of the source has its elements elsewhere
    written = False
    for stmt in task.stmts:
        read = [load for load in loads_of(stmt) if load.tensor in depends]
        if index_loads(stmt) & depends:
            return False
        if not read:
            written |= stmt.target == output
            continue
        if written or not _pointwise(stmt, depends):
            return False
        written = stmt.target == output
        if not written:
            depends.add(stmt.target)
    return written


def _pointwise(stmt: Stmt, tensors: set[str]) -> bool:
    """Whether a statement reads these tensors only at the element that it writes, outside of reductions."""
    if stmt.scan is not None:
        return False
    zero: dict[str, Dim] = {i.name: 0 for i in stmt.iters if i.extent == 1}
    own = stmt.index if stmt.index is not None else tuple(sym(i.name) for i in stmt.iters)

    def fits(e: Scalar, reduced: bool) -> bool:
        if isinstance(e, Load) and e.tensor in tensors:
            return not reduced and all(
                substitute(a, zero) == substitute(b, zero) for a, b in zip(e.index, own, strict=True)
            )
        return all(fits(child, reduced or isinstance(e, Reduction)) for child in children(e))

    return fits(stmt.value, False)
