"""Homes: in which buffer each value lies, and by which layout.

1. Votes: a contraction wants the channels of its input and the columns of its output innermost (blocked by 16, so
that a vector holds
   them); values that are read and written at the same points are tied, and the ties vote as one.
2. Borders: a value read by windows gets a zero border as wide as its widest reader needs.
3. Slices: what is only concatenated is written straight into its part of the result.
4. Views: a transpose, reshape or slice whose composed index map is a layout again costs nothing.
5. What still does not fit is copied into a fitting home, once for all its readers.

Graph inputs, outputs, constants and the operands of routines are row-major.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from mapsto.ir.expr import Dim, sym, symbols
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Cast, Iter, Load, Stmt, ranges_of
from mapsto.kernel.compose import loads_of
from mapsto.plan.contraction import Contraction
from mapsto.plan.group import Group, copy_stmt, is_wide
from mapsto.plan.layout import Layout, blocked, of_place, permuted, plain
from mapsto.plan.plan import Plan

BLOCK = 16
# A dim shorter than this is not blocked (most lanes would be empty) but laid innermost as it is.
LEAST_BLOCKED = 8

Border = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Home:
    """A value's place: the buffer (named after the value that owns it) and the layout in it."""

    buffer: str
    layout: Layout
    reason: str


@dataclass
class Homes:
    """Every materialised value's home, and the groups with copies inserted and views taken out."""

    homes: dict[str, Home] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    views: list[str] = field(default_factory=list)
    inner: dict[str, int] = field(default_factory=dict)

    def layout(self, name: str) -> Layout:
        return self.homes[name].layout


def flat(groups: list[Group]) -> Iterator[Group]:
    """Groups in order, those inside branches included."""
    for group in groups:
        for branch in group.branches:
            yield from flat(branch)
        yield group


class _Assignment:
    def __init__(
        self,
        groups: list[Group],
        values: dict[str, Value],
        inputs: set[str],
        outputs: set[str],
        constants: set[str],
        fresh: Callable[[str], str],
    ) -> None:
        self.groups = groups
        self.values = values
        self.inputs, self.outputs, self.constants = inputs, outputs, constants
        self.fresh = fresh
        self.all = list(flat(groups))
        self.result = Homes(values=values)
        self.of_branches = {v.name for g in self.all if g.kind == "branch" for v in g.nodes[0].outputs}
        self.maker: dict[str, Group] = {t: g for g in self.all for t in g.targets()}
        self.kept = self._kept()
        self.fixed = self._fixed()
        self.inner: dict[str, int] = {}
        self.border: dict[str, list[tuple[int, int]]] = {}
        self.slice_of: dict[str, tuple[str, int, Dim]] = {}

    # -- who is in memory ----------------------------------------------------------------------------------------------

    def _kept(self) -> set[str]:
        """Values that somebody outside their group reads, or that leave the graph."""
        kept = set(self.outputs)
        for group in self.all:
            kept |= group.reads()
            if group.kind in ("routine", "branch"):
                kept |= set(group.targets())
        return kept

    def _fixed(self) -> set[str]:
        """Values that must be row-major and whole."""
        found = self.inputs | self.outputs | self.constants
        for group in self.all:
            if group.kind == "routine":
                found |= set(group.targets()) | group.reads()
            elif group.kind == "branch":
                found |= {group.nodes[0].inputs[0]}
            elif is_wide(group):
                found |= set(group.targets())
            elif group.kind == "check":
                found |= group.reads()
        return found

    # -- votes ---------------------------------------------------------------------------------------------------------

    def vote(self) -> None:
        parent: dict[str, str] = {}

        def find(name: str) -> str:
            while parent.get(name, name) != name:
                parent[name] = parent.get(parent[name], parent[name])
                name = parent[name]
            return name

        for a, b in self._ties():
            parent[find(a)] = find(b)
        votes: dict[str, dict[int, int]] = {}
        for name, dim, weight in self._wishes():
            tally = votes.setdefault(find(name), {})
            tally[dim] = tally.get(dim, 0) + weight
        for name in self.kept:
            tally = votes.get(find(name), {})
            rank = self.values[name].rank if name in self.values else 0
            ranked = sorted(((w, d) for d, w in tally.items() if d < rank), reverse=True)
            if ranked and name not in self.fixed:
                self.inner[name] = ranked[0][1]

    def pin(self, plan: Plan) -> None:
        """Take the innermost dims from a plan to replay; values that it does not name keep what was voted."""
        for name, dim in plan.inner_dims().items():
            if name not in self.kept or name in self.fixed:
                continue
            if dim is None:
                self.inner.pop(name, None)
            elif dim < self.values[name].rank:
                self.inner[name] = dim

    def _wishes(self) -> Iterator[tuple[str, int, int]]:
        for group in self.all:
            for c in group.phases[:1]:
                assert c.channel_dim is not None and c.column_dim is not None
                yield c.a.tensor, c.channel_dim, 1
                yield group.targets()[-1], c.column_dim, 1

    def _ties(self) -> Iterator[tuple[str, str]]:
        for group in self.all:
            if group.kind == "contraction":
                final = group.targets()[-1]
                for stmt in group.stmts:
                    for load in loads_of(stmt):
                        if load.tensor in self.kept and _same_axes(stmt, load):
                            yield load.tensor, final
                continue
            for stmt in group.stmts:
                for load in loads_of(stmt):
                    if (
                        load.tensor not in self.constants
                        and _same_axes(stmt, load)
                        and load.tensor not in self.fixed
                        and stmt.target not in self.fixed
                    ):
                        yield load.tensor, stmt.target

    # -- borders -------------------------------------------------------------------------------------------------------

    def want_borders(self) -> None:
        for group in reversed(self.all):
            for c in group.phases:
                need = c.border(self.values[c.a.tensor].shape)
                if need is not None and any(b or a for b, a in need):
                    self._widen(c.a.tensor, list(need))
            view = view_source(group)
            if view is not None and group.targets()[0] in self.border:
                self._pass_border(group.stmts[0], view)

    def _widen(self, name: str, need: list[tuple[int, int]]) -> None:
        have = self.border.get(name, [(0, 0)] * len(need))
        self.border[name] = [(max(a, c), max(b, d)) for (a, b), (c, d) in zip(have, need, strict=True)]

    def _pass_border(self, stmt: Stmt, load: Load) -> None:
        """A view's border must be there in what it views."""
        source = self.values[load.tensor]
        need = [(0, 0)] * source.rank
        for j, it in enumerate(stmt.iters):
            for d, e in enumerate(load.index):
                if e == sym(it.name) and source.shape[d] == it.extent:
                    need[d] = self.border[stmt.target][j]
        if any(a or b for a, b in need):
            self._widen(load.tensor, need)

    # -- slices of a concat ------------------------------------------------------------------------------------------

    def slice_concats(self) -> None:
        for group in reversed(self.all):
            if group.kind != "rows" or [n.op for n in group.nodes] != ["concat"]:
                continue
            target = group.stmts[0].target
            copied: list[Stmt] = []
            for stmt in group.stmts:
                found = self._slice(stmt, target)
                if found is None:
                    copied.append(stmt)
                    continue
                name, axis, start = found
                self.slice_of[name] = (target, axis, start)
                self._share_border(name, target)
                group.reasons.append(f"{name} is written straight into its part of {target}")
            group.stmts = copied

    def _share_border(self, name: str, target: str) -> None:
        if name in self.border:
            self._widen(target, self.border[name])

    def _slice(self, stmt: Stmt, target: str) -> tuple[str, int, Dim] | None:
        load = stmt.value
        if not isinstance(load, Load) or stmt.index is None or load.index != tuple(sym(i.name) for i in stmt.iters):
            return None
        name = load.tensor
        maker = self.maker.get(name)
        if (
            maker is None
            or maker.kind not in ("rows", "contraction")
            or name in self.fixed
            or name in self.slice_of
            or view_source(maker) is not None
        ):
            return None
        if self.inner.get(name) != self.inner.get(target) or (target in self.fixed and name in self.border):
            return None
        moved = [
            (d, e - sym(i.name))
            for d, (e, i) in enumerate(zip(stmt.index, stmt.iters, strict=True))
            if e != sym(i.name)
        ]
        axis, start = moved[0] if moved else (None, 0)
        if len(moved) > 1:
            return None
        if axis is None:
            axis = next(
                (
                    d
                    for d, (a, b) in enumerate(zip(self.values[name].shape, self.values[target].shape, strict=True))
                    if a != b
                ),
                0,
            )
        if name in self.border and self.border[name][axis] != (0, 0):
            return None
        if axis == self.inner.get(name) and not (
            _multiple(start) and _multiple(self.values[name].shape[axis]) and _multiple(self.values[target].shape[axis])
        ):
            return None
        return name, axis, start

    # -- homes ---------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        for name in self.inputs | self.constants:
            self.result.homes[name] = Home(name, plain(self.values[name].shape), "row-major, as it comes in")
        for group in self.all:
            self._settle_targets(group)

    def _settle_targets(self, group: Group) -> None:
        if group.kind == "rows" and group.stmts and self._try_view(group):
            return
        for name in group.targets():
            if name in self.kept or name in self.slice_of:
                self._home(name)

    def _home(self, name: str) -> Home:
        if name in self.result.homes:
            return self.result.homes[name]
        if name in self.slice_of:
            target, axis, start = self.slice_of[name]
            parent = self._home(target)
            layout = parent.layout.slice(axis, start, self.values[name].shape[axis])
            home = Home(parent.buffer, layout, f"a slice of {target}")
        else:
            shape = self.values[name].shape
            border = tuple(self.border.get(name, ())) if name not in self.fixed else ()
            inner = self.inner.get(name)
            why = "row-major" if inner is None else f"dim {inner} innermost, as most of its readers and writers want"
            home = Home(name, layout_for(shape, inner, border), why)
        self.result.homes[name] = home
        return home

    def _try_view(self, group: Group) -> bool:
        load = view_source(group)
        name = group.targets()[0]
        if load is None or name in self.outputs | self.of_branches or name in self.slice_of:
            return False
        if load.tensor not in self.result.homes:
            return False
        source = self.result.homes[load.tensor]
        layout = view_layout(group.stmts[0], load, source.layout)
        if layout is None or (name in self.fixed and not _same_places(layout, plain(layout.shape))):
            return False
        self.result.homes[name] = Home(source.buffer, layout, f"a view of {load.tensor}")
        self.result.views.append(name)
        group.reasons.append(f"no code: {name} is a view of {load.tensor}")
        group.kind = "view"
        return True


def _multiple(dim: Dim) -> bool:
    return isinstance(dim, int) and dim % BLOCK == 0


def _same_places(a: Layout, b: Layout) -> bool:
    names = [f"v.{d}" for d in range(len(a.shape))]
    ranges = ranges_of(tuple(Iter(n, e) for n, e in zip(names, a.shape, strict=True)))
    index = [sym(n) for n in names]
    return a.place(index, ranges) == b.place(index, ranges)


def _same_axes(stmt: Stmt, load: Load) -> bool:
    """Whether each dim of the load moves with the same dim of the target alone (shifts, strides, windows allowed)."""
    at = stmt.index if stmt.index is not None else tuple(sym(i.name) for i in stmt.iters)
    if len(load.index) != len(at) or len(at) < 2:
        return False
    own = {i.name for i in stmt.iters if i.extent != 1}
    return all((symbols(a) & own) == (symbols(b) & own) for a, b in zip(load.index, at, strict=True))


def view_source(group: Group) -> Load | None:
    """The load of a group that does nothing but move one tensor's elements; None otherwise."""
    if group.kind not in ("rows", "view") or len(group.stmts) != 1:
        return None
    stmt = group.stmts[0]
    value = stmt.value
    if isinstance(value, Cast) or not isinstance(value, Load) or stmt.index is not None or stmt.scan is not None:
        return None
    from mapsto.ir.expr import loads

    return None if any(loads(e) for e in value.index) else value


def view_layout(stmt: Stmt, load: Load, source: Layout) -> Layout | None:
    """The layout of a moved tensor in its source's buffer, if its places are affine or blocked."""
    names = [i.name for i in stmt.iters]
    place = source.place(load.index, ranges_of(stmt.iters))
    made = of_place([i.extent for i in stmt.iters], names, place, BLOCK, source.elements)
    if made is None:
        return None
    border = [(0, 0)] * len(names)
    for j, it in enumerate(stmt.iters):
        for d, e in enumerate(load.index):
            if e == sym(it.name) and source.shape[d] == it.extent and it.extent != 1:
                border[j] = source.border[d]
    offset = made.offset
    for axis in made.axes:
        if border[axis.dim][0] and axis.div == 1 and axis.size is None:
            offset = offset - axis.stride * border[axis.dim][0]
        elif border[axis.dim][0]:
            border[axis.dim] = (0, 0)
    return replace(made, offset=offset, border=tuple(border))


def layout_for(shape: tuple[Dim, ...], inner: int | None, border: Border = ()) -> Layout:
    """The layout with one dim innermost (blocked where long enough) and a border."""
    rank = len(shape)
    if inner is None or rank == 0 or inner == rank - 1:
        return permuted(shape, range(rank), border or None)
    extent = shape[inner]
    if isinstance(extent, int) and extent >= LEAST_BLOCKED and not (border and border[inner] != (0, 0)):
        return blocked(shape, inner, BLOCK, border or None)
    return permuted(shape, [d for d in range(rank) if d != inner] + [inner], border or None)


@dataclass(frozen=True)
class Access:
    """Strides of an operand under a layout, in elements: by iterator name; the channel (or column) iterator is split
    into blocks where `block` is set.
    """

    base: Dim
    strides: dict[str, Dim]
    block: int | None
    block_stride: Dim


def access(c: Contraction, index: tuple[Dim, ...], layout: Layout, fast: str, border: Border | None) -> Access | None:
    """How a contraction reaches an operand: affine in every iterator, `fast` with stride 1 (in blocks of 16 where the
    layout has them). None where it is not so.
    """
    if border is not None and any(b > hb or a > ha for (b, a), (hb, ha) in zip(border, layout.border, strict=True)):
        return None
    iters = c.iters + c.reds
    place = layout.place(index, c.ranges)
    shape = [i.extent for i in iters]
    names = [i.name for i in iters]
    made = of_place(shape, names, place, BLOCK, layout.elements)
    if made is None:
        return None
    strides: dict[str, Dim] = {}
    block: int | None = None
    block_stride: Dim = 0
    for axis in made.axes:
        name = names[axis.dim]
        if axis.size is not None or axis.div != 1:
            if name != fast:
                return None
            block = BLOCK
            if axis.div != 1:
                block_stride = axis.stride
            else:
                strides[name] = axis.stride
        else:
            strides[name] = axis.stride
    if strides.get(fast, 1) != 1 and shape[names.index(fast)] != 1:
        return None
    return Access(made.offset, strides, block, block_stride)


def assign(
    groups: list[Group],
    values: dict[str, Value],
    inputs: set[str],
    outputs: set[str],
    constants: set[str],
    fresh: Callable[[str], str],
    pinned: Plan | None = None,
) -> tuple[list[Group], Homes]:
    """Homes of all values; the groups with the copies that these homes need, without those that became views or
    nothing.
    """
    work = _Assignment(groups, values, inputs, outputs, constants, fresh)
    work.vote()
    if pinned is not None:
        work.pin(pinned)
    work.want_borders()
    work.slice_concats()
    work.settle()
    work.result.inner = work.inner
    return _fit(groups, work), work.result


def _fit(groups: list[Group], work: _Assignment) -> list[Group]:
    """Insert copies where a contraction cannot reach an operand as it lies."""
    copies: dict[tuple[str, str], str] = {}
    return _fit_list(groups, work, copies)


def _fit_list(groups: list[Group], work: _Assignment, copies: dict[tuple[str, str], str]) -> list[Group]:
    done: list[Group] = []
    for group in groups:
        group.branches = tuple(_fit_list(branch, work, dict(copies)) for branch in group.branches)
        if group.kind == "view" or (group.kind == "rows" and not group.stmts):
            continue
        if group.kind == "contraction":
            done.extend(_fit_contraction(group, work, copies))
        else:
            done.append(group)
    return done


def _fit_contraction(group: Group, work: _Assignment, copies: dict[tuple[str, str], str]) -> list[Group]:
    before: list[Group] = []
    after: list[Group] = []
    needs = [c.border(work.values[c.a.tensor].shape) for c in group.phases]
    if any(n is None for n in needs):
        group.reasons.append(
            "how far it reads past its input is not known before the run: no border can be laid for it"
        )
        return [group]
    phases, source, final = group.phases, group.phases[0].a.tensor, group.targets()[-1]

    def reads_well(layout: Layout) -> bool:
        return all(
            access(c, c.a.index, layout, c.channels[0].name, need) is not None
            for c, need in zip(phases, needs, strict=True)
        )

    def writes_well(layout: Layout) -> bool:
        return all(access(c, c.index, layout, c.cols[0].name, None) is not None for c in phases)

    border = _widest([n for n in needs if n is not None])
    read = _first_that(
        reads_well, work.result.homes[source].layout, work.values[source].shape, phases[0].channel_dim, border
    )
    written = _first_that(writes_well, work.result.homes[final].layout, work.values[final].shape, phases[0].column_dim)
    if read is None or written is None:
        return [group]  # no copy would help: it is lowered as plain loops
    if read != work.result.homes[source].layout:
        layout = read
        key = (source, str(layout))
        if key not in copies:
            copies[key] = _copied(work, source, layout, before, f"a contraction needs {source} as {layout}")
        moved = copies[key]
        group.phases = tuple(replace(c, a=replace(c.a, tensor=moved)) for c in group.phases)
        group.anchor = group.phases[0]
    if written != work.result.homes[final].layout:
        layout = written
        inner = work.fresh(f"{final}_")
        work.values[inner] = replace(work.values[final], name=inner)
        work.result.homes[inner] = Home(inner, layout, f"columns innermost; {final} is a copy of it")
        _retarget(group, final, inner)
        stmt = copy_stmt(work.values[inner], work.values[final], work.fresh)
        after.append(
            Group(
                "rows",
                list(group.nodes[-1:]),
                [stmt],
                reasons=[f"{final} must lie otherwise than the contraction writes it"],
            )
        )
    return [*before, group, *after]


def _first_that(
    fits: Callable[[Layout], bool], own: Layout, shape: tuple[Dim, ...], inner: int | None, border: Border = ()
) -> Layout | None:
    """The layout as it is where that fits, else blocked, else with a dim innermost in one piece (groups of channels
    that cross blocks).
    """
    assert inner is not None
    whole = permuted(shape, [*(d for d in range(len(shape)) if d != inner), inner], border or None)
    return next((layout for layout in (own, layout_for(shape, inner, border), whole) if fits(layout)), None)


def _retarget(group: Group, old: str, new: str) -> None:
    if group.stmts:
        group.stmts = [*group.stmts[:-1], replace(group.stmts[-1], target=new)]
        if len(group.stmts) > 1 or group.anchor is None or group.anchor.target != old:
            return
    group.phases = tuple(replace(c, target=new) for c in group.phases)
    group.anchor = group.phases[0]


def _copied(work: _Assignment, source: str, layout: Layout, before: list[Group], why: str) -> str:
    name = work.fresh(f"{source}_")
    work.values[name] = replace(work.values[source], name=name)
    work.result.homes[name] = Home(name, layout, why)
    stmt = copy_stmt(work.values[source], work.values[name], work.fresh)
    maker = work.maker.get(source)
    nodes = list(maker.nodes[-1:]) if maker else []
    before.append(Group("rows", nodes, [stmt], reasons=[why]))
    return name


def _widest(borders: list[Border]) -> Border:
    return tuple((max(b[d][0] for b in borders), max(b[d][1] for b in borders)) for d in range(len(borders[0])))
