"""Works done together slice by slice: contractions over a batch and what is computed between them, one element of the
batch (of the leading dims of what passes between them) after the other, so that what passes is in memory a slice at a
time, and near.

The rule looks at form alone. A value that passes from one stage to another has the leading dims first, and every stage
walks them by iterators of their own: what a stage computes for one slice needs no other slice of what passes. All else
that is read or written may lie anyhow; a value that is made here and read by others too is in memory as ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from mapsto.ir.expr import Dim, add, mul, sym, symbols
from mapsto.ir.expr_rewrite import simplify, substitute
from mapsto.kernel.ast import Iter, Reduction, Stmt, ranges_of, walk
from mapsto.kernel.compose import index_loads, loads_of
from mapsto.plan.contraction import ACCUMULATOR, Contraction
from mapsto.plan.home import Home
from mapsto.plan.layout import Layout
from mapsto.plan.recipe import Recipe, of
from mapsto.plan.rules.base import Refusal
from mapsto.plan.task import SLICED, Task, joined_nodes

PASSING = "passing"  # in recipes: the values that are in memory a slice at a time


@dataclass(frozen=True)
class _Access:
    """One place where a stage touches a tensor. iters: of the statement or contraction, with its ranges; walked: the
    iterators that stand for the leading dims.
    """

    tensor: str
    index: tuple[Dim, ...]
    iters: tuple[Iter, ...]
    walked: tuple[str, ...]


def sliced_join(stages: Sequence[Task], passing: Sequence[str]) -> Task | Refusal:
    """The stages as one task, in their order; `passing`: what nobody else reads."""
    lead = lead_of(stages, passing)
    if isinstance(lead, Refusal):
        return lead
    recipe = Recipe(SLICED, (Recipe(PASSING, tuple(map(of, passing))), *(stage.recipe for stage in stages)))
    return Task(
        SLICED,
        recipe,
        joined_nodes(*(stage.nodes for stage in stages if stage.recipe.rule != "copy")),  # which recipes name not
        because=(f"slice by slice of {' x '.join(map(str, lead))}: {', '.join(passing)}: in memory one at a time",),
        made={name: value for stage in stages for name, value in stage.made.items()},
        constants={name: array for stage in stages for name, array in stage.constants.items()},
        stages=tuple(stages),
    )


def lead_of_slices(task: Task) -> tuple[Dim, ...]:
    """Extents of the leading dims that a sliced task walks one by one, in order."""
    lead = lead_of(task.stages, sorted(task.passing))
    assert not isinstance(lead, Refusal)
    return lead


def lead_of(stages: Sequence[Task], passing: Sequence[str]) -> tuple[Dim, ...] | Refusal:
    """Extents of the leading dims that all stages walk, which are the batch of the first contraction among them."""
    first = next((stage for stage in stages if stage.kind == "contraction"), None)
    if first is None or not passing or len(first.phases) != 1:
        return Refusal("no product begins it, or nothing passes")
    c = first.phases[0]
    batch: dict[Dim, Dim] = {sym(i.name): i.extent for i in c.batch}
    count = next((d for d, e in enumerate(c.index) if e not in batch), len(c.index))
    lead = tuple(batch[e] for e in c.index[:count])
    if not lead or len(set(c.index[:count])) != count:
        return Refusal(f"{first.targets[-1]} has no leading dims that both operands have")
    inside = {name for stage in stages for name in stage.targets}
    for stage in stages:
        if why := _unfit(stage, lead, inside):
            return Refusal(why)
    return lead


def fits_lead(stage: Task, lead: tuple[Dim, ...], inside: Set[str]) -> bool:
    """Whether a stage can be done slice by slice beside others that make `inside`."""
    return not _unfit(stage, lead, {*inside, *stage.targets})


def _unfit(stage: Task, lead: tuple[Dim, ...], inside: Set[str]) -> str:
    """Why a stage cannot be done slice by slice, or ""."""
    name = stage.targets[-1] if stage.targets else ""
    if stage.kind not in ("contraction", "rows") or len(stage.phases) > 1:
        return f"{name} is neither one product nor loops"
    for c in stage.phases:
        if c.guards or c.slides or c.scale is not None:
            return f"{name} reads borders, slides, or has scales"
        if not _walks(c.index, (*c.batch, *c.rows), lead):
            return f"{name} is not made slice by slice"
    for s in stage.stmts:
        at = s.index if s.index is not None else tuple(sym(i.name) for i in s.iters)
        if s.scan is not None or index_loads(s) or not _walks(at, s.iters, lead):
            return f"{s.target} is not made slice by slice"
    for access in _accesses(stage, len(lead)):
        own = tuple(sym(name) for name in access.walked)
        if access.tensor in inside and access.index[: len(lead)] != own:
            return f"{name} reads other slices of {access.tensor}"
    return ""


def _walks(index: Sequence[Dim], iters: Sequence[Iter], lead: tuple[Dim, ...]) -> bool:
    """Whether the first dims of an index are iterators of these extents, each one by itself."""
    extents: dict[Dim, Dim] = {sym(i.name): i.extent for i in iters}
    first = tuple(index[: len(lead)])
    return len(set(first)) == len(lead) and tuple(extents.get(e) for e in first) == lead and not any(
        symbols(e) & {name for f in first for name in symbols(f)} for e in index[len(lead) :]
    )


def _accesses(stage: Task, count: int) -> Iterator[_Access]:
    """Every read and write of a tensor; the sums on which an epilogue works are none."""
    for c in stage.phases:
        walked, iters = _names(c.index[:count]), (*c.iters, *c.reds)
        for load in c.operands:
            yield _Access(load.tensor, load.index, iters, walked)
        yield _Access(c.target, c.index, iters, walked)
    for s in stage.stmts:
        at = s.index if s.index is not None else tuple(sym(i.name) for i in s.iters)
        inner = (i for node in walk(s.value) if isinstance(node, Reduction) for i in node.iters)
        iters, walked = (*s.iters, *inner), _names(at[:count])
        yield _Access(s.target, at, iters, walked)
        for load in loads_of(s):
            if load.tensor != ACCUMULATOR:
                yield _Access(load.tensor, load.index, iters, walked)


def _names(index: Sequence[Dim]) -> tuple[str, ...]:
    return tuple(next(iter(symbols(e))) for e in index)


# -- one slice ---------------------------------------------------------------------------------------------------------


def slice_of_stage(stage: Task, count: int) -> Task:
    """A stage over one slice: its leading iterators have one round."""
    return replace(
        stage,
        stmts=tuple(_one_slice(s, count) for s in stage.stmts),
        phases=tuple(_one_batch(c, count) for c in stage.phases),
    )


def _one_slice(s: Stmt, count: int) -> Stmt:
    at = s.index if s.index is not None else tuple(sym(i.name) for i in s.iters)
    return replace(s, iters=_once(s.iters, _names(at[:count])))


def _one_batch(c: Contraction, count: int) -> Contraction:
    walked = _names(c.index[:count])
    at: dict[str, Dim] = dict.fromkeys(walked, 0)

    def left(iters: tuple[Iter, ...]) -> tuple[Iter, ...]:
        return tuple(i for i in iters if i.name not in at)

    def first(index: tuple[Dim, ...]) -> tuple[Dim, ...]:
        return tuple(substitute(e, at) for e in index)

    return replace(
        c,
        iters=left(c.iters),
        batch=left(c.batch),
        rows=left(c.rows),
        a=replace(c.a, index=first(c.a.index)),
        b=replace(c.b, index=first(c.b.index)),
        index=first(c.index),
        shape=(*(1 for _ in range(count)), *c.shape[count:]),
    )


def _once(iters: tuple[Iter, ...], names: Sequence[str]) -> tuple[Iter, ...]:
    return tuple(Iter(i.name, 1) if i.name in names else i for i in iters)


def layout_of_slice(layout: Layout, count: int) -> Layout | None:
    """Where the elements of one slice lie, if it is in one piece: from 0 on."""
    lead = layout.axes[:count]
    if layout.offset != 0 or [(a.dim, a.div, a.size) for a in lead] != [(d, 1, None) for d in range(count)]:
        return None
    if any(axis.dim < count for axis in layout.axes[count:]) or any(b or a for b, a in layout.border[:count]):
        return None
    step = lead[-1].stride
    whole: Dim = step
    for axis, extent in zip(reversed(lead), reversed(layout.shape[:count]), strict=True):
        if axis.stride != whole:
            return None
        whole = mul(whole, extent)
    return replace(layout, shape=(*(1 for _ in range(count)), *layout.shape[count:]), elements=step)


def starts_of(stage: Task, lead: Sequence[Dim], homes: Mapping[str, Home]) -> dict[str, Dim] | None:
    """How far into each tensor that has a home a slice begins, in elements, by `start_name`s of the leading dims; None
    where that is not the same for all that the stage touches of it.
    """
    found: dict[str, Dim] = {}
    for access in _accesses(stage, len(lead)):
        home = homes.get(access.tensor)
        if home is None:
            continue
        place = home.layout.place(access.index, ranges_of(access.iters))
        first = simplify(substitute(place, dict.fromkeys(access.walked, 0)), ranges_of(access.iters))
        start = add(place, mul(first, -1))
        if symbols(start) & ({i.name for i in access.iters} - set(access.walked)):
            return None
        at: dict[str, Dim] = {name: sym(start_name(d)) for d, name in enumerate(access.walked)}
        if found.setdefault(access.tensor, substitute(start, at)) != substitute(start, at):
            return None
    return found


def start_name(dim: int) -> str:
    """The symbol of a slice's place along a leading dim."""
    return f"slice.{dim}"
