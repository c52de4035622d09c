"""Strided operands of reductions, gathered once a row into a local array of vectors (the weights of a depthwise
convolution).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mapsto.devices.generic.flat import FlatLoad, FlatSegment, FlatStep
from mapsto.ir.expr import Dim, linear, loads, sym, symbols
from mapsto.kernel.ast import Iter, Reduction, Scalar, reduced, transform
from mapsto.plan.loop_forms import FEWEST_ROWS, MOST_STAGED


@dataclass(frozen=True)
class Staged:
    """`array[number of the iterators' point] = load`, one vector a point."""

    array: str
    load: FlatLoad
    iters: tuple[Iter, ...]

    @property
    def place(self) -> Dim:
        at: Dim = 0
        for it in self.iters:
            at = at * it.extent + sym(it.name)
        return at

    @property
    def count(self) -> int:
        total = 1
        for it in self.iters:
            assert isinstance(it.extent, int)
            total *= it.extent
        return total


def stage(flat: FlatSegment, internal: frozenset[str]) -> tuple[FlatSegment, tuple[Staged, ...]]:
    """The segment with such loads replaced by loads from local arrays, and what fills these before the innermost row
    loop.
    """
    if flat.lane is None or len(flat.rows) < 2:
        return flat, ()
    last = flat.rows[-1]
    if isinstance(last.extent, int) and last.extent < FEWEST_ROWS:  # of unknown extent: taken to be long
        return flat, ()
    found: dict[FlatLoad, Staged] = {}
    outer = {i.name for i in flat.rows[:-1]}
    groups = []
    for group in flat.groups:
        if group.inner:
            groups.append(group)
            continue
        steps = tuple(_staged_step(s, flat.lane, outer, internal, found) for s in group.steps)
        groups.append(replace(group, steps=steps))
    return replace(flat, groups=tuple(groups)), tuple(found.values())


def _staged_step(
    step: FlatStep, lane: Iter, outer: set[str], internal: frozenset[str], found: dict[FlatLoad, Staged]
) -> FlatStep:
    return replace(step, value=_staged(step.value, (), lane, outer, internal, found))


def _staged(
    e: Scalar,
    around: tuple[Iter, ...],
    lane: Iter,
    outer: set[str],
    internal: frozenset[str],
    found: dict[FlatLoad, Staged],
) -> Scalar:
    def leaf(node: Scalar) -> Scalar | None:
        if isinstance(node, Reduction):
            inside = (*around, *node.iters)
            return reduced(node, node.iters, lambda part: _staged(part, inside, lane, outer, internal, found))
        if not isinstance(node, FlatLoad) or not around:
            return None
        if node not in found:
            own = _worth_it(node, around, lane, outer, internal)
            if own is None:
                return node
            found[node] = Staged(f"staged {len(found)}", node, own)
        return FlatLoad.of(found[node].array, node.dtype, found[node].place)

    return transform(e, leaf)


def _worth_it(
    load: FlatLoad, around: tuple[Iter, ...], lane: Iter, outer: set[str], internal: frozenset[str]
) -> tuple[Iter, ...] | None:
    """The reduction iterators that a load depends on, where staging it pays."""
    place = load.place
    names = symbols(place)
    if load.tensor in internal or not load.inside or lane.name not in names or loads(place):
        return None
    stride = linear(place, lane.name)
    if stride is not None and stride.coefficient in (0, 1):
        return None
    own = tuple(it for it in around if it.name in names)
    inside = {it.name for it in own}
    if not own or any(not isinstance(it.extent, int) for it in own):
        return None
    total = 1
    for it in own:
        total *= int(it.extent)  # type: ignore[arg-type]
    others = names - inside - outer - {lane.name}
    return own if 0 < total <= MOST_STAGED and not others else None
