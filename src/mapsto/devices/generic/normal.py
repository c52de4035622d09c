"""Kernels brought to a normal form: unique iterator names, explicit target indices, no iterators of extent 1, decided
guards gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Call, Dim, atoms, sym, symbols
from mapsto.ir.expr_proofs import Ranges, bounds, known_at_least
from mapsto.ir.expr_rewrite import simplify, substitute
from mapsto.kernel.ast import (
    Const,
    Index,
    Iter,
    Kernel,
    Load,
    Reduce,
    Reduction,
    Scalar,
    Scan,
    Stmt,
    Where,
    children,
    over_nothing,
    over_one_point,
    ranges_of,
    reduced,
    transform,
    walk,
)
from mapsto.kernel.scalar import neutral


@dataclass(frozen=True)
class NormalStmt:
    """A statement in normal form: `target[index] = value` over `iters`."""

    target: str
    dtype: DType
    iters: tuple[Iter, ...]
    index: tuple[Dim, ...]
    value: Scalar
    scan: Scan | None = None

    @cached_property
    def ordered(self) -> bool:
        """Whether its writes may meet in one place, so that their order counts: the index holds loaded integers, or it
        does not depend on an iterator (a scatter into an axis of extent 1, or with indices of depth 0).
        """
        if any(isinstance(a, Call) and a.fn == "load" for e in self.index for a in atoms(e)):
            return True
        named = {s for e in self.index for s in symbol_names(e)}
        return any(i.extent != 1 and i.name not in named for i in self.iters)

    @cached_property
    def reads(self) -> tuple[ElementRead, ...]:
        """Every element that is read: (tensor, index), by the value and by the target's index."""
        return (*accesses(self.value), *(a for e in self.index for a in index_accesses(e)))

    @cached_property
    def tensors(self) -> frozenset[str]:
        """Tensors that are read."""
        return frozenset(t for t, _ in self.reads)

    @cached_property
    def indexed_by(self) -> frozenset[str]:
        """Tensors whose elements are parts of indices."""
        found = {t for e in self.index for t, _ in index_accesses(e)}
        for node in walk(self.value):
            own = node.index if isinstance(node, Load) else node.conds if isinstance(node, Where) else ()
            own = (node.expr,) if isinstance(node, Index) else own
            found |= {t for e in own for t, _ in index_accesses(e)}
        return frozenset(found)

    def extent(self, name: str) -> Dim:
        return next(i.extent for i in self.iters if i.name == name)


def normal_form(kernel: Kernel) -> tuple[NormalStmt, ...]:
    """The kernel's statements as steps, in order, without those over nothing and those that nothing comes of."""
    counter = [0]
    taken = {s for t in (*kernel.inputs, *kernel.outputs, *kernel.temps) for d in t.shape for s in symbol_names(d)}
    for stmt in kernel.stmts:
        taken |= _free_names(stmt)

    def fresh(hint: str) -> str:
        name = hint
        while name in taken:
            counter[0] += 1
            name = f"{hint.rstrip('0123456789')}{counter[0]}"
        taken.add(name)
        return name

    steps = (_normal(stmt, fresh) for stmt in kernel.stmts)
    wanted = {t.name for t in kernel.outputs}
    kept: list[NormalStmt] = []
    for step in reversed([s for s in steps if all(i.extent != 0 for i in s.iters)]):
        if step.target in wanted:
            wanted |= step.tensors
            kept.append(step)
    return tuple(reversed(kept))


def symbol_names(e: Dim) -> set[str]:
    return symbols(e)


def _free_names(stmt: Stmt) -> set[str]:
    """Every symbol that a statement mentions, less its own iterators (those may keep their names)."""
    found: set[str] = set()
    bound = {i.name for i in stmt.iters}
    dims: list[Dim] = [*(stmt.index or ()), *(i.extent for i in stmt.iters)]
    for node in walk(stmt.value):
        if isinstance(node, Load):
            dims += node.index
        elif isinstance(node, Where):
            dims += node.conds
        elif isinstance(node, Index):
            dims.append(node.expr)
        elif isinstance(node, Reduction):
            dims += [i.extent for i in node.iters]
            bound |= {i.name for i in node.iters}
    for e in dims:
        found |= symbol_names(e)
    return found - bound


def _normal(stmt: Stmt, fresh: Callable[[str], str]) -> NormalStmt:
    names, iters = _renamed(stmt.iters, {}, fresh, keep=stmt.scan.iter if stmt.scan else "")
    index = stmt.index if stmt.index is not None else tuple(sym(i.name) for i in stmt.iters)
    ranges = ranges_of(iters)
    scan = replace(stmt.scan, iter=str(names[stmt.scan.iter])) if stmt.scan else None
    value = settle_guards(_rename(stmt.value, names, fresh), ranges)
    placed = tuple(simplify(substitute(e, names), ranges) for e in index)
    return NormalStmt(stmt.target, stmt.dtype, iters, placed, value, scan)


def _renamed(
    iters: tuple[Iter, ...], names: dict[str, Dim], fresh: Callable[[str], str], keep: str = ""
) -> tuple[dict[str, Dim], tuple[Iter, ...]]:
    """Fresh iterators; one of extent 1 stands for 0 (unless a scan runs along it)."""
    names = dict(names)
    kept: list[Iter] = []
    for it in iters:
        extent = substitute(it.extent, names)
        if extent == 1 and it.name != keep:
            names[it.name] = 0
            continue
        kept.append(Iter(fresh(it.name), extent))
        names[it.name] = sym(kept[-1].name)
    return names, tuple(kept)


def _rename(e: Scalar, names: dict[str, Dim], fresh: Callable[[str], str]) -> Scalar:
    def leaf(node: Scalar) -> Scalar | None:
        if not isinstance(node, Reduction):
            return None
        inner, iters = _renamed(node.iters, names, fresh)
        if any(i.extent == 0 for i in iters):
            return Const(neutral(node.kind, node.dtype), node.dtype) if isinstance(node, Reduce) else over_nothing(node)
        made = reduced(node, iters, lambda part: _rename(part, inner, fresh))
        if iters:
            return made
        return made.body if isinstance(made, Reduce) else over_one_point(made)

    return transform(e, leaf, lambda d: substitute(d, names))


def settle_guards(e: Scalar, ranges: Ranges) -> Scalar:
    """Simplify every integer expression and drop the guards that the ranges decide."""

    def leaf(node: Scalar) -> Scalar | None:
        if isinstance(node, Reduction):
            inner = {**ranges, **ranges_of(node.iters)}
            return reduced(node, node.iters, lambda part: settle_guards(part, inner))
        return _settled_guard(node, ranges) if isinstance(node, Where) else None

    return transform(e, leaf, lambda d: simplify(d, ranges))


def _settled_guard(node: Where, ranges: Ranges) -> Scalar:
    conds: list[Dim] = []
    for cond in (simplify(c, ranges) for c in node.conds):
        holds = decided(cond, ranges)
        if holds is False:
            return settle_guards(node.otherwise, ranges)
        if holds is None and cond not in conds:
            conds.append(cond)
    then = settle_guards(node.then, ranges)
    return Where(tuple(conds), then, settle_guards(node.otherwise, ranges)) if conds else then


def decided(cond: Dim, ranges: Ranges) -> bool | None:
    """Whether `cond >= 0` always or never holds under the ranges; None where that is not known."""
    low, high = bounds(cond, ranges)
    if low is not None and known_at_least(low, 0):
        return True
    if high is not None and known_at_least(-high - 1, 0):
        return False
    return None


ElementRead = tuple[str, tuple[Dim, ...]]


def accesses(e: Scalar) -> list[ElementRead]:
    """Every element that a value reads: (tensor, index), those inside index expressions included."""
    own: tuple[Dim, ...] = ()
    found: list[ElementRead] = []
    if isinstance(e, Load):
        found.append((e.tensor, e.index))
        own = e.index
    elif isinstance(e, Index):
        own = (e.expr,)
    elif isinstance(e, Where):
        own = e.conds
    for d in own:
        found += index_accesses(d)
    for child in children(e):
        found += accesses(child)
    return found


def index_accesses(e: Dim) -> list[ElementRead]:
    if isinstance(e, int):
        return []
    return [(a.tensor, a.args) for a in atoms(e) if isinstance(a, Call) and a.fn == "load"]


def renamed_step(step: NormalStmt, names: dict[str, str]) -> NormalStmt:
    """The same step with some of its statement-level iterators renamed."""
    values: dict[str, Dim] = {old: sym(new) for old, new in names.items() if old != new}
    if not values:
        return step
    return NormalStmt(
        step.target,
        step.dtype,
        tuple(Iter(names.get(i.name, i.name), i.extent) for i in step.iters),
        tuple(substitute(e, values) for e in step.index),
        transform(step.value, lambda s: None, lambda d: substitute(d, values)),
        replace(step.scan, iter=names.get(step.scan.iter, step.scan.iter)) if step.scan else None,
    )
