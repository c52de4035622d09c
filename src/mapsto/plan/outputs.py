"""Where the outputs lie: each in a buffer of its own, or in the memory of the input that it takes over.

An update (input p, output u) is computed straight into p's memory where nobody reads p any more once u is being
written: readers come before the one group that writes u, or are that group, reading p only at the element that it
writes. Elsewhere u is computed apart and copied at the very end. An output that is an input or a constant as it is is
a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from mapsto.ir.expr import Dim, sym
from mapsto.ir.expr_rewrite import substitute
from mapsto.ir.graph import Graph
from mapsto.kernel.ast import Load, Reduce, Scalar, Stmt, children
from mapsto.kernel.compose import index_loads, loads_of
from mapsto.plan.group import Group, copy_stmt
from mapsto.plan.homes import Home, Homes, flat
from mapsto.plan.layout import plain


@dataclass
class _Settling:
    graph: Graph
    homes: Homes
    constants: frozenset[str]
    fresh: Callable[[str], str]
    order: list[Group]
    first: list[Group] = field(default_factory=list)
    last: list[Group] = field(default_factory=list)

    def buffer(self, name: str) -> str | None:
        home = self.homes.homes.get(name)
        return None if home is None else home.buffer

    def copied(self, source: str, buffer: str, reason: str, groups: list[Group]) -> str:
        """A row-major copy of a value in a buffer (its own where that is ""), by a further group."""
        value = self.homes.values[source]
        name = self.fresh(f"{source}.copy")
        self.homes.values[name] = replace(value, name=name)
        self.homes.homes[name] = Home(buffer or name, plain(value.shape), reason)
        stmt = copy_stmt(value, self.homes.values[name], self.fresh)
        groups.append(Group("rows", [], [stmt], reasons=[reason]))
        return name

    def take_over(self, output: str, source: str) -> None:
        """All that lies in the output's buffer lies in the source's."""
        for name, home in self.homes.homes.items():
            if home.buffer == output:
                reason = f"takes over the memory of {source}" if name == output else home.reason
                self.homes.homes[name] = replace(home, buffer=source, reason=reason)


def settle_outputs(
    graph: Graph, groups: list[Group], homes: Homes, constants: frozenset[str], fresh: Callable[[str], str]
) -> tuple[list[Group], tuple[str, ...]]:
    """The groups with the copies that outputs need, and for each output the value whose buffer holds it."""
    work = _Settling(graph, homes, constants, fresh, list(flat(groups)))
    updates = {output: source for source, output in graph.updates}
    fixed = {v.name for v in graph.inputs} | constants
    places: list[str] = []
    for name in graph.outputs:
        source = updates.get(name)
        if source is not None:
            places.append(_updated(work, name, source, name in fixed))
        elif name in fixed:
            places.append(work.copied(name, "", f"the output {name} is an input or a constant", work.first))
        else:
            places.append(name)
    return [*work.first, *groups, *work.last], tuple(places)


def _updated(work: _Settling, output: str, source: str, fixed: bool) -> str:
    if output == source:
        return output
    if fixed:  # read it before anything is written: it may be an input that is updated too
        staged = work.copied(output, "", f"{output} as it came in, for {source}", work.first)
        return work.copied(staged, source, f"{output} takes over the memory of {source}", work.last)
    if _in_place(work, output, source):
        work.take_over(output, source)
        return output
    reason = f"{source} is read while {output} is written: {output} moves into its memory at the end"
    return work.copied(output, source, reason, work.last)


def _in_place(work: _Settling, output: str, source: str) -> bool:
    """Whether the output can be computed in the source's memory."""
    writers = [i for i, g in enumerate(work.order) if any(work.buffer(t) == output for t in g.targets())]
    readers = [i for i, g in enumerate(work.order) if any(work.buffer(n) == source for n in g.reads())]
    late = [i for i in readers if i >= min(writers)]
    return not late or (late == writers and _at_the_element(work, work.order[late[0]], output, source))


def _at_the_element(work: _Settling, group: Group, output: str, source: str) -> bool:
    """Whether a group reads the source, and what it makes of it, only at the element of the output that it writes."""
    if group.kind not in ("rows", "contraction"):
        return False
    if any(work.buffer(operand) == source for c in group.phases for operand in (c.a.tensor, c.b.tensor)):
        return False
    depends = {n for n in group.reads() if work.buffer(n) == source}
    if depends != {source}:
        return False  # a view of the source has its elements elsewhere
    written = False
    for stmt in group.stmts:
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
        return all(fits(child, reduced or isinstance(e, Reduce)) for child in children(e))

    return fits(stmt.value, False)
