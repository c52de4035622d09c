"""The part of a row loop where no guard and no tail is needed."""

from __future__ import annotations

from mapsto.devices.generic.flat import FlatSegment, reductions
from mapsto.ir.expr import Dim, HalfLine, half_line, linear, loads, maximum, minimum, symbols
from mapsto.ir.expr_proofs import bounds
from mapsto.kernel.ast import Iter, Where, ranges_of, walk


def guard_free(segment: FlatSegment, last: Iter) -> tuple[Dim, Dim] | None:
    """[low, high) of the last row iterator inside which every guard on it holds for all inner iterators and lanes;
    None without such guards.

    Guards that depend on other row iterators too are left alone: they are decided once a row.
    """
    low: Dim = 0
    high = last.extent
    found = False
    for group in segment.groups:
        for step in group.steps:
            known = dict(ranges_of(group.inner))
            known.update(ranges_of((segment.lane,)) if segment.lane is not None else {})
            for r in reductions(step.value):
                known.update(ranges_of(r.iters))
            rows = {i.name for i in segment.rows}
            for node in walk(step.value):
                for cond in node.conds if isinstance(node, Where) else ():
                    bound = _bound(cond, last, rows, known)
                    if bound is None:
                        continue
                    found = True
                    start, stop = bound
                    low = low if start is None else maximum(low, start)
                    high = high if stop is None else minimum(high, stop)
    return (low, high) if found else None


def _bound(cond: Dim, last: Iter, rows: set[str], known: dict[str, tuple[Dim, Dim]]) -> HalfLine | None:
    """The rows where a guard holds whatever the inner iterators are."""
    names = symbols(cond)
    if last.name not in names or names & (rows - {last.name}) or loads(cond):
        return None
    found = linear(cond, last.name)
    if found is None:
        return None
    coefficient, rest = found
    least, _ = bounds(rest, known)
    return None if least is None else half_line(coefficient, least)
