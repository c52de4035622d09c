"""Views: a transpose, reshape or slice whose composed index map is a layout again costs nothing."""

from __future__ import annotations

import functools
from dataclasses import replace

from mapsto.ir.expr import Dim, loads, sym, terms_of
from mapsto.ir.expr_rewrite import rejoined
from mapsto.kernel.ast import Iter, Load, Stmt, ranges_of
from mapsto.plan.layout import Layout, of_place
from mapsto.plan.task import Task


def view_source(task: Task) -> Load | None:
    """The load of a task that does nothing but move one tensor's elements; None otherwise."""
    if task.kind != "rows" or len(task.stmts) != 1:
        return None
    (stmt,) = task.stmts
    value = stmt.value
    if not isinstance(value, Load) or stmt.index is not None or stmt.scan is not None:
        return None
    return None if any(loads(e) for e in value.index) else value


def view_layout(stmt: Stmt, load: Load, source: Layout, block: int) -> Layout | None:
    """The layout of a moved tensor in its source's buffer, if its places are affine or in blocks of that size."""
    return _moved(stmt.iters, load.index, source, block)


@functools.lru_cache(maxsize=1 << 12)
def _moved(iters: tuple[Iter, ...], index: tuple[Dim, ...], source: Layout, block: int) -> Layout | None:
    """The same. Remembered: deciding asks about one movement several times, and layers repeat themselves."""
    names = [i.name for i in iters]
    place = rejoined(source.place(index, ranges_of(iters)))
    made = of_place([i.extent for i in iters], names, place, block, source.elements)
    if made is None:
        return None
    border = [(0, 0)] * len(names)
    for j, it in enumerate(iters):
        for d, e in enumerate(index):
            if e == sym(it.name) and source.shape[d] == it.extent and it.extent != 1:
                border[j] = source.border[d]
    offset = made.offset
    for axis in made.axes:
        if border[axis.dim][0] and axis.div == 1 and axis.size is None:
            offset = offset - axis.stride * border[axis.dim][0]
        elif border[axis.dim][0]:
            border[axis.dim] = (0, 0)
    return replace(made, offset=offset, border=tuple(border))


def is_shifted(e: Dim) -> bool:
    """Whether an index has a constant added to it."""
    terms = terms_of(e)
    return bool(terms) and terms[-1][0] == () and len(terms) > 1
