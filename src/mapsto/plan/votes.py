"""Which dim each value wants innermost, and how wide a border: by votes of what reads and writes it.

A contraction wants the channels of its input and the columns of its output innermost, so that a vector holds them;
values that are read and written at the same points are tied, and the ties vote as one. A value read by windows gets a
border of zeros as wide as its widest reader needs, and rows that products read a block of zeros between them where they
would push each other out of a cache. Graph inputs, outputs, constants and the operands of routines are
row-major.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from mapsto.ir.expr import Dim, sym, symbols
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Load, Stmt
from mapsto.kernel.compose import loads_of
from mapsto.plan.access import access
from mapsto.plan.contraction import Contraction
from mapsto.plan.fuse import is_wide
from mapsto.plan.home import Border, Inner, layout_for
from mapsto.plan.items import Branches, Control, Item, Looped, reads_of, targets_of
from mapsto.plan.rounds import handed_in
from mapsto.plan.rules.siblings import is_part
from mapsto.plan.task import Task
from mapsto.plan.traits import Traits
from mapsto.plan.views import view_source
from mapsto.plan.works import walk


@dataclass(frozen=True)
class Seat:
    """Values that lie alike. `inners`: the dims that may be innermost, None for row-major; `voted`: the place in
    `inners` of what most of their readers and writers want. One of a single choice is pinned, or nobody cares.
    """

    values: tuple[str, ...]
    inners: tuple[Inner | None, ...]
    voted: int = 0


@dataclass(frozen=True)
class Wishes:
    """`kept`: values in memory, as somebody outside their task reads them. `fixed`: those that must be row-major and
    whole. `seats`: how all others may lie. `inner`: the dim that a value wants innermost. `border`: elements before
    and after each dim that hold zero; `apart`: where that only keeps rows apart, which panels need not be.
    """

    kept: frozenset[str]
    fixed: frozenset[str]
    seats: tuple[Seat, ...]
    inner: Mapping[str, Inner]
    border: Mapping[str, Border]
    apart: Mapping[str, Border] = field(default_factory=dict)

    def seated(self, choice: Mapping[int, int]) -> Wishes:
        """With these seats (by their numbers) in another of their dims."""
        inner, border = dict(self.inner), dict(self.border)
        for at, chosen in choice.items():
            found = self.seats[at].inners[chosen]
            for name in self.seats[at].values:
                if found is None:
                    inner.pop(name, None)
                else:
                    inner[name] = found
                if name in self.apart:
                    if found is not None and found.panels:
                        border.pop(name, None)
                    else:
                        border[name] = self.apart[name]
        return replace(self, inner=inner, border=border)


def wishes(
    items: Sequence[Item],
    values: Mapping[str, Value],
    ports: Set[str],
    constants: Set[str],
    pinned: Mapping[str, int | None],
    traits: Traits,
) -> Wishes:
    """ports: inputs and outputs of the graph. pinned: innermost dims that are not voted on (None: row-major).
    traits: of the maker that was asked.
    """
    every = list(walk(items))
    kept, fixed = _kept(every, ports), _fixed(every) | ports | constants
    seats = _seats(every, values, kept, fixed, constants)
    border = _borders(every, values)
    multiplied = _multiplied(every)
    seats += _unvoted(every, seats, kept - fixed, multiplied)
    seats = [_with_panels(seat, multiplied, values, border, traits) for seat in seats]
    seats = [seat for seat in seats if seat.inners != (None,)]  # of no wish and no choice
    held = {name: dim for name, dim in pinned.items() if name in kept - fixed and (dim or 0) < values[name].rank}
    seats = [Seat(tuple(n for n in s.values if n not in held), s.inners, s.voted) for s in seats]
    seats += [Seat((name,), (None if dim is None else Inner(dim),)) for name, dim in held.items()]
    crowded = _apart(every, values, traits)
    apart = {name: need for name, need in crowded.items() if name not in border}
    for name, need in crowded.items():
        border[name] = wider(border.get(name), need)
    wished = Wishes(frozenset(kept), frozenset(fixed), tuple(s for s in seats if s.values), {}, border, apart)
    return wished.seated({at: seat.voted for at, seat in enumerate(wished.seats)})


def _kept(items: Sequence[Item], ports: Set[str]) -> set[str]:
    kept = set(ports)
    for item in items:
        kept |= reads_of(item)
        if isinstance(item, Branches) or (isinstance(item, Task) and item.kind == "routine"):
            kept |= set(targets_of(item))
        if isinstance(item, Looped):
            kept |= handed_in(item.node)
    return kept


def _fixed(items: Sequence[Item]) -> set[str]:
    found: set[str] = set()
    for item in items:
        if isinstance(item, Looped):
            found |= {item.node.inputs[0], *handed_in(item.node), *targets_of(item)}
        elif isinstance(item, Branches):
            found |= {n for n in item.node.inputs if n}
        elif isinstance(item, Control) and item.node.op != "bind_dim":
            found |= item.reads
        elif isinstance(item, Task) and item.kind == "routine":
            found |= {*item.targets, *item.reads}
        elif isinstance(item, Task) and is_wide(item):
            found |= set(item.targets)
    return found


# -- votes -------------------------------------------------------------------------------------------------------------


@dataclass
class _Ties:
    """Sets of values that vote as one (union-find)."""

    parent: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> str:
        while (up := self.parent.get(name, name)) != name:
            self.parent[name] = self.parent.get(up, up)
            name = self.parent[name]
        return name

    def tie(self, a: str, b: str) -> None:
        self.parent[self.find(a)] = self.find(b)


def _seats(
    items: Sequence[Item], values: Mapping[str, Value], kept: Set[str], fixed: Set[str], constants: Set[str]
) -> list[Seat]:
    """One for each set of values that are tied and that somebody votes for, in the order in which they are made."""
    ties = _Ties()
    tasks = [item for item in items if isinstance(item, Task)]
    for task in tasks:
        for a, b in _tied(task, kept, fixed, constants):
            ties.tie(a, b)
    votes: dict[str, dict[Inner, int]] = {}
    wanted = {task.targets[-1]: task.phases[0].column_dim for task in tasks if task.phases}
    for task in tasks:
        for name, inner in _votes(task, wanted, values):
            tally = votes.setdefault(ties.find(name), {})
            tally[inner] = tally.get(inner, 0) + 1
    free = kept - fixed
    found: dict[tuple[str, int], list[str]] = {}  # values of different ranks never lie alike
    for name in dict.fromkeys(name for item in items for name in targets_of(item)):
        root = ties.find(name)
        if name in free and name in values and root in votes:
            found.setdefault((root, values[name].rank), []).append(name)
    seats: list[Seat] = []
    for (root, rank), names in found.items():
        ranked = sorted(((w, inner) for inner, w in votes[root].items() if inner.dim < rank), reverse=True)
        inners: list[Inner | None] = [inner for _, inner in ranked]
        if inners:
            seats.append(Seat(tuple(names), (*inners, *([None] if Inner(rank - 1) not in inners else []))))
    return seats


def _unvoted(items: Sequence[Item], seats: Sequence[Seat], free: Set[str], multiplied: Set[str]) -> list[Seat]:
    """Seats of what loops make for the packed operand of a product, where nobody has a wish."""
    seated = {name for seat in seats for name in seat.values}
    made = dict.fromkeys(t for item in items if isinstance(item, Task) and item.kind == "rows" for t in item.targets)
    return [Seat((name,), (None,)) for name in made if name in multiplied and name in free and name not in seated]


def _with_panels(
    seat: Seat, multiplied: Set[str], values: Mapping[str, Value], border: Mapping[str, Border], traits: Traits
) -> Seat:
    """A seat that may be in panels as well, where a product may have one of its values for the operand that is packed.
    multiplied: all such values.
    """
    if not traits.block or any(name in border for name in seat.values):
        return seat
    shapes = [values[name].shape for name in seat.values]
    if any(len(s) < 2 or not isinstance(s[-1], int) or s[-1] % traits.block or s[-1] <= traits.block for s in shapes):
        return seat
    if not any(name in multiplied for name in seat.values):
        return seat
    return replace(seat, inners=(*seat.inners, Inner(len(shapes[0]) - 1, panels=True)))


def _multiplied(items: Sequence[Item]) -> set[str]:
    """Values that products pack in a run, or that those only move."""
    makers = {name: item for item in items if isinstance(item, Task) for name in item.targets}
    found: set[str] = set()
    for item in items:
        for c in item.phases if isinstance(item, Task) else ():
            name = c.b.tensor
            found.add(name)
            while (maker := makers.get(name)) is not None and (load := view_source(maker)) is not None:
                name = load.tensor
                found.add(name)
    return found


def _votes(
    task: Task, columns: Mapping[str, int | None], values: Mapping[str, Value]
) -> Iterator[tuple[str, Inner]]:
    """(value, how it is to lie) for each wish. columns: the dims of contractions' results that hold their columns."""
    for c in task.phases[:1]:
        assert c.channel_dim is not None and c.column_dim is not None
        a, final = c.a.tensor, task.targets[-1]
        yield a, _reached(c, c.a.index, values[a].shape, c.channel_dim, c.channels[0].name)
        yield final, _reached(c, c.index, c.shape, c.column_dim, c.cols[0].name)
    if is_part(task):  # as its own contraction would
        (load,) = loads_of(task.stmts[0])
        dim = columns[load.tensor]
        assert dim is not None
        yield task.targets[-1], Inner(dim)


def _reached(c: Contraction, index: tuple[Dim, ...], shape: tuple[Dim, ...], dim: int, fast: str) -> Inner:
    """How an operand is to lie so that a contraction reaches a dim: in one piece where its groups cross blocks."""
    blocks, whole = (layout_for(shape, dim, c.traits, (), each) for each in (False, True))
    crosses = blocks != whole and access(c, index, blocks, fast, None) is None
    return Inner(dim, crosses and access(c, index, whole, fast, None) is not None)


def _tied(task: Task, kept: Set[str], fixed: Set[str], constants: Set[str]) -> Iterator[tuple[str, str]]:
    final = task.targets[-1] if task.targets else ""
    if is_part(task):
        return  # it lies where it is made, whatever its readers wish
    for stmt in task.stmts:
        for load in loads_of(stmt):
            if task.kind == "contraction":
                if load.tensor in kept and _same_axes(stmt, load):
                    yield load.tensor, final
            elif load.tensor in constants or load.tensor in fixed or stmt.target in fixed:
                continue
            elif _same_axes(stmt, load):
                yield load.tensor, stmt.target


def _same_axes(stmt: Stmt, load: Load) -> bool:
    """Whether each dim of the load moves with the same dim of the target alone (shifts, strides, windows allowed, of
    either)."""
    at = stmt.index if stmt.index is not None else tuple(sym(i.name) for i in stmt.iters)
    if len(load.index) != len(at) or len(at) < 2:
        return False
    own = {i.name for i in stmt.iters if i.extent != 1}
    pairs = [(symbols(a) & own, symbols(b) & own) for a, b in zip(load.index, at, strict=True)]
    return all(of_a == of_b or (of_a and of_a < of_b) for of_a, of_b in pairs)


# -- borders -----------------------------------------------------------------------------------------------------------


def _borders(items: Sequence[Item], values: Mapping[str, Value]) -> dict[str, Border]:
    border: dict[str, Border] = {}
    for item in reversed(items):
        if not isinstance(item, Task):
            continue
        for c in item.phases:
            need = c.border(values[c.a.tensor].shape)
            if need is not None and any(b or a for b, a in need):
                border[c.a.tensor] = wider(border.get(c.a.tensor), need)
        load = view_source(item)
        if load is not None and item.targets[0] in border:  # a view's border must be there in what it views
            need = _seen_through(item.stmts[0], load, border[item.targets[0]], values[load.tensor])
            if any(a or b for a, b in need):
                border[load.tensor] = wider(border.get(load.tensor), need)
    return border


def _apart(items: Sequence[Item], values: Mapping[str, Value], traits: Traits) -> dict[str, Border]:
    """A block of zeros after each row of what products alone read, where rows would push each other out of a cache."""
    found: dict[str, Border] = {}
    others: set[str] = set()
    for item in items:
        phases = item.phases if isinstance(item, Task) else ()
        if not phases:
            others |= reads_of(item)
        for c in phases:
            value = values[c.a.tensor]
            if traits.crowded_bytes and _is_crowded(c, value, traits.crowded_bytes):
                found[value.name] = (*(((0, 0),) * (value.rank - 1)), (0, traits.block))
    return {name: border for name, border in found.items() if name not in others}


def _is_crowded(c: Contraction, value: Value, crowded: int) -> bool:
    """Whether the channels are the last dim of A, and rows of it, of which there are several, lie in one place each."""
    extent = value.shape[-1] if value.rank > 1 else None
    if c.guards or not c.rows or c.channel_dim != value.rank - 1 or not isinstance(extent, int):
        return False
    return extent > 0 and extent * value.dtype.size % crowded == 0


def wider(have: Border | None, need: Border) -> Border:
    if have is None:
        return need
    return tuple((max(a, c), max(b, d)) for (a, b), (c, d) in zip(have, need, strict=True))


def _seen_through(stmt: Stmt, load: Load, border: Border, source: Value) -> Border:
    need = [(0, 0)] * source.rank
    for j, it in enumerate(stmt.iters):
        for d, e in enumerate(load.index):
            if e == sym(it.name) and source.shape[d] == it.extent:
                need[d] = border[j]
    return tuple(need)
