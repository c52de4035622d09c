"""Reductions computed in the loop that makes what they reduce: the sum of a softmax in the loop of its exponentials."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mapsto.devices.generic.flat import FlatGroup, FlatLoad, FlatSegment, substituted
from mapsto.devices.generic.running import first_result
from mapsto.ir.expr import loads, sym
from mapsto.ir.expr_rewrite import substitute
from mapsto.kernel.ast import Fold, Index, Load, Reduction, Scalar, Where, bodies, children, reduced, walk


@dataclass(frozen=True)
class Follower:
    """A later reduction, and the same in terms of the loop's own iterator."""

    reduce: Reduction
    along: Reduction


def followers(segment: FlatSegment, at: int, handed: frozenset[str]) -> tuple[Follower, ...]:
    """Reductions of row-level steps after group `at` that read, element by element, what the group hands on, and
    nothing that is made between them."""
    group = segment.groups[at]
    if len(group.inner) != 1 or any(s.scan or s.ordered for s in group.steps):
        return ()
    made: set[str] = set()
    found: list[Follower] = []
    for later in segment.groups[at + 1 :]:
        if later.inner:
            break
        for step in later.steps:
            for reduce in _outermost(step.value):
                follower = _follower(reduce, group, made, handed)
                if follower is not None and all(f.reduce != reduce for f in found):
                    found.append(follower)
            made.add(step.target)
    return tuple(found)


def _outermost(e: Scalar) -> Iterator[Reduction]:
    if isinstance(e, Reduction):
        yield first_result(e) if isinstance(e, Fold) else e
    elif not isinstance(e, Where):  # a guard may keep the reduction from being wanted at all
        for child in children(e):
            yield from _outermost(child)


def _follower(reduce: Reduction, group: FlatGroup, made: set[str], handed: frozenset[str]) -> Follower | None:
    (inner,) = group.inner
    if len(reduce.iters) != 1 or reduce.iters[0].extent != inner.extent:
        return None
    renaming = {reduce.iters[0].name: sym(inner.name)}
    places = {s.target: s.place for s in group.steps}
    reads_group = False
    for node in (node for body in bodies(reduce) for node in walk(body)):
        if isinstance(node, Reduction) or _index_loads(node) & (made | set(places)):
            return None
        if not isinstance(node, FlatLoad):
            continue
        if node.tensor in made:
            return None
        if node.tensor in places:
            reads_group = True
            if node.tensor not in handed or substitute(node.place, renaming) != places[node.tensor]:
                return None
    along = reduced(reduce, group.inner, lambda part: substituted(part, renaming))
    return Follower(reduce, along) if reads_group else None


def only_followed(segment: FlatSegment, at: int, found: tuple[Follower, ...]) -> frozenset[str]:
    """Targets of group `at` that nobody reads outside of the group but the reductions computed with it: they need no
    memory.
    """
    own = {s.target for s in segment.groups[at].steps}
    followed = [f.reduce for f in found]
    outside: set[str] = set()
    for k, group in enumerate(segment.groups):
        for step in group.steps:
            outside |= loads(step.place).union(*(_index_loads(node) for node in walk(step.value)))  # read from memory
            if k != at:
                outside |= _read(step.value, followed) | {step.target}
    return frozenset(own - outside)


def _read(e: Scalar, but: list[Reduction]) -> set[str]:
    if isinstance(e, Reduction) and (first_result(e) if isinstance(e, Fold) else e) in but:
        return set()
    found = {e.tensor} if isinstance(e, Load) else set()
    return found.union(*(_read(c, but) for c in children(e)))


def _index_loads(e: Scalar) -> set[str]:
    """Tensors whose elements are used as indices by this node itself."""
    if isinstance(e, Load):
        return set().union(*(loads(d) for d in e.index))
    if isinstance(e, Index):
        return loads(e.expr)
    return set().union(*(loads(d) for d in e.conds)) if isinstance(e, Where) else set()
