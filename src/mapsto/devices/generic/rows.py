"""Which iterators all statements of a kernel share (rows), which statements go together, and which share their inner
loops.

A row iterator is one along which nothing passes between statements: each statement has it, and every tensor that one
statement writes and another reads (or writes again) is touched at the same row by all. Rows are what threads share
out, and between the statements of one row temporaries stay in registers or in a small local array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from mapsto.devices.generic.normal import NormalStmt, renamed_step, symbol_names
from mapsto.ir.expr import Dim, bare_symbol
from mapsto.ir.expr_proofs import bounds, known_at_least
from mapsto.kernel.ast import Iter, ranges_of


@dataclass(frozen=True)
class Group:
    """Steps that share their loops: all of them have the same `inner` iterators (after the rows)."""

    steps: tuple[NormalStmt, ...]
    inner: tuple[Iter, ...]

    @property
    def targets(self) -> frozenset[str]:
        return frozenset(s.target for s in self.steps)


@dataclass(frozen=True)
class Segment:
    """Steps that run together over shared rows.

    `row_dims[t]`: the dims of an internal tensor that are at the row's own place.
    """

    rows: tuple[Iter, ...]
    groups: tuple[Group, ...]
    internal: frozenset[str]
    row_dims: tuple[tuple[str, frozenset[int]], ...]

    @property
    def steps(self) -> tuple[NormalStmt, ...]:
        return tuple(s for g in self.groups for s in g.steps)


def segments(steps: Sequence[NormalStmt], limit: int | None = None) -> tuple[Segment, ...]:
    """The steps split into parts that have nothing to do with one another. `limit`: the most row iterators to share."""
    return tuple(_segment(part, limit) for part in _independent_parts(steps))


# ---- what belongs together -----------------------------------------------------------------------------------------


def _independent_parts(steps: Sequence[NormalStmt]) -> list[list[NormalStmt]]:
    """Connected by internal tensors; independent parts over the very same iteration space stay together (one pass over
    the operands).
    """
    label = list(range(len(steps)))

    def join(a: int, b: int) -> None:
        old, new = label[b], label[a]
        label[:] = [new if x == old else x for x in label]

    for name in _internal(steps):
        users = [i for i, s in enumerate(steps) if s.target == name or name in s.tensors]
        for user in users[1:]:
            join(users[0], user)
    shape = [tuple(i.extent for i in s.iters) for s in steps]
    for i in range(len(steps)):
        for j in range(i):
            uniform = len({shape[k] for k in range(len(steps)) if label[k] in (label[i], label[j])}) == 1
            if uniform and not any(s.scan or s.ordered for s in (steps[i], steps[j])):
                join(j, i)
    order = dict.fromkeys(label)
    return [[s for s, own in zip(steps, label, strict=True) if own == part] for part in order]


def _internal(steps: Sequence[NormalStmt]) -> list[str]:
    """Targets that matter between steps: read by one, written at loaded places, or written where another step may
    write too.
    """
    found: dict[str, None] = {}
    for at, step in enumerate(steps):
        read_anywhere = any(step.target in s.tensors for s in steps)
        met = any(s.target == step.target and not _disjoint(s, step) for s in steps[:at])
        if read_anywhere or step.ordered or met:
            found[step.target] = None
    return list(found)


def _disjoint(a: NormalStmt, b: NormalStmt) -> bool:
    """Whether the places of two writers of one tensor are apart along some dim."""
    ranges = {**ranges_of(a.iters), **ranges_of(b.iters)}
    for first, second in zip(a.index, b.index, strict=True):
        (low_a, high_a), (low_b, high_b) = bounds(first, ranges), bounds(second, ranges)
        if _below(high_a, low_b) or _below(high_b, low_a):
            return True
    return False


def _below(high: Dim | None, low: Dim | None) -> bool:
    return high is not None and low is not None and known_at_least(low - high, 1)


# ---- rows ----------------------------------------------------------------------------------------------------------


def _segment(steps: list[NormalStmt], limit: int | None) -> Segment:
    internal = _internal(steps)
    classes, row_dims = _row_classes(steps, internal)
    major = max(range(len(steps)), key=lambda i: (len(steps[i].iters), i))
    position = {i.name: k for k, i in enumerate(steps[major].iters)}
    classes.sort(key=lambda c: position[c[major]])
    classes = classes[:limit] if limit is not None else classes
    rows = tuple(Iter(c[major], steps[major].extent(c[major])) for c in classes)
    renamed = []
    for at, step in enumerate(steps):
        names = {c[at]: row.name for c, row in zip(classes, rows, strict=True)}
        step = renamed_step(step, names) if at != major else step
        own = {r.name for r in rows}
        renamed.append(replace(step, iters=(*rows, *(i for i in step.iters if i.name not in own))))
    kept = {frozenset(c) for c in classes}
    dims = tuple((t, frozenset(d for d, c in by_dim.items() if frozenset(c) in kept)) for t, by_dim in row_dims.items())
    return Segment(rows, _loop_groups(renamed, len(rows)), frozenset(internal), dims)


Class = tuple[str, ...]


def _row_classes(steps: list[NormalStmt], internal: list[str]) -> tuple[list[Class], dict[str, dict[int, Class]]]:
    """Sets of one iterator a step that may be shared, and for each internal tensor which dims they are."""
    touched = {name: _touches(steps, name) for name in internal}
    label = {(i, it.name): (i, it.name) for i, s in enumerate(steps) for it in s.iters}

    def join(members: Iterable[tuple[int, str]]) -> None:
        marks = {label[m] for m in members}
        for key, mark in label.items():
            if mark in marks:
                label[key] = min(marks)

    links: dict[str, dict[int, set[tuple[int, str]]]] = {}
    for name, places in touched.items():
        for dim in range(len(places[0][1])):
            members = {(at, bare_symbol(index[dim]) or "") for at, index in places}
            if all(m in label for m in members):
                join(members)
                links.setdefault(name, {})[dim] = members
    if len({tuple(i.extent for i in s.iters) for s in steps}) == 1:
        _join_positions(steps, label, join)
    classes: list[Class] = []
    for mark in dict.fromkeys(label.values()):
        found = _class_of(steps, [key for key, own in label.items() if own == mark])
        if found is not None and all(_along(links.get(t, {}), label, mark) is not None for t in internal):
            classes.append(found)
    dims: dict[str, dict[int, Class]] = {t: {} for t in internal}
    for t in internal:
        for found in classes:
            own = _along(links.get(t, {}), label, label[(0, found[0])])
            if own is not None:
                dims[t][own] = found
    return classes, dims


def _join_positions(
    steps: list[NormalStmt],
    label: dict[tuple[int, str], tuple[int, str]],
    join: Callable[[Iterable[tuple[int, str]]], None],
) -> None:
    """Steps over one iteration space match by position, unless what they pass says otherwise."""
    positions = [[(at, s.iters[k].name) for at, s in enumerate(steps)] for k in range(len(steps[0].iters))]
    marks = [{label[m] for m in members} for members in positions]
    for k, members in enumerate(positions):
        if not any(marks[k] & other for j, other in enumerate(marks) if j != k):
            join(members)


def _touches(steps: list[NormalStmt], name: str) -> list[tuple[int, tuple[Dim, ...]]]:
    """Every access to a tensor: (step, index)."""
    found: list[tuple[int, tuple[Dim, ...]]] = []
    for at, step in enumerate(steps):
        if step.target == name:
            found.append((at, step.index))
        found += [(at, index) for t, index in step.reads if t == name]
    return found


def _class_of(steps: list[NormalStmt], members: list[tuple[int, str]]) -> Class | None:
    """One iterator of each step, all of one extent, none of them scanned along or used in a loaded place."""
    if sorted(at for at, _ in members) != list(range(len(steps))):
        return None
    by_step = dict(members)
    extents = {steps[at].extent(name) for at, name in members}
    if len(extents) != 1:
        return None
    for at, step in enumerate(steps):
        if step.scan is not None and step.scan.iter == by_step[at]:
            return None
    return tuple(by_step[at] for at in range(len(steps)))


def _along(
    by_dim: dict[int, set[tuple[int, str]]], label: dict[tuple[int, str], tuple[int, str]], mark: tuple[int, str]
) -> int | None:
    """The dim of a tensor along which the class runs in every access."""
    for dim, members in by_dim.items():
        if all(label[m] == mark for m in members):
            return dim
    return None


# ---- inner loops ---------------------------------------------------------------------------------------------------


def _loop_groups(steps: list[NormalStmt], rows: int) -> tuple[Group, ...]:
    """Neighbouring steps over the same inner iterators that pass elements only at the same point share their loops."""
    groups: list[Group] = []
    for step in steps:
        inner = step.iters[rows:]
        if groups and (joined := _joined(groups[-1], step, inner)) is not None:
            groups[-1] = joined
        else:
            groups.append(Group((step,), inner))
    return tuple(groups)


def _joined(group: Group, step: NormalStmt, inner: tuple[Iter, ...]) -> Group | None:
    if len(inner) != len(group.inner) or any(s.scan or s.ordered for s in (*group.steps, step)):
        return None
    names = _matching(group, step, inner)
    if names is None:
        return None
    step = renamed_step(step, names)
    step = replace(step, iters=(*step.iters[: len(step.iters) - len(inner)], *group.inner))
    own = {i.name for i in step.iters}
    places: dict[str, set[tuple[Dim, ...]]] = {}
    for member in (*group.steps, step):
        for tensor, index in ((member.target, member.index), *member.reads):
            places.setdefault(tensor, set()).add(index)
    written = group.targets | {step.target}
    crossing = [t for t in written if _passes(t, group, step)]
    if any(len(places[t]) > 1 or any(symbol_names(e) - own for index in places[t] for e in index) for t in crossing):
        return None
    return Group((*group.steps, step), group.inner)


def _passes(tensor: str, group: Group, step: NormalStmt) -> bool:
    """Whether a written tensor is touched by both the group and the step."""
    in_group = any(tensor == s.target or tensor in s.tensors for s in group.steps)
    return in_group and (tensor == step.target or tensor in step.tensors)


def _matching(group: Group, step: NormalStmt, inner: tuple[Iter, ...]) -> dict[str, str] | None:
    """The step's inner iterators as the group's: by what it reads of the group's targets, else by position."""
    names: dict[str, str] = {}
    free = {i.name: i.extent for i in inner}
    theirs = {i.name: i.extent for i in group.inner}
    for member in group.steps:
        for tensor, index in step.reads:
            if tensor != member.target:
                continue
            for mine, other in zip(index, member.index, strict=True):
                a, b = bare_symbol(mine), bare_symbol(other)
                if a in free and b in theirs and names.setdefault(a, b) != b:
                    return None
    left = [i for i in group.inner if i.name not in names.values()]
    for it in (i for i in inner if i.name not in names):
        names[it.name] = left.pop(0).name
    if len(set(names.values())) != len(inner) or any(free[a] != theirs[b] for a, b in names.items()):
        return None
    return names
