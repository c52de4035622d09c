"""Composition of kernels: a statement's value put in the place of a load of its target (index maps compose)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from mapsto.ir.expr import Call, Dim, atoms, loads, product, sym, symbols
from mapsto.ir.expr_rewrite import substitute
from mapsto.kernel.ast import (
    Cast,
    Iter,
    Load,
    Op,
    Reduction,
    Scalar,
    Stmt,
    Where,
    children,
    ranges_of,
    reduced,
    simplify_scalar,
    transform,
    walk,
    with_value,
)
from mapsto.kernel.facts import facts


def loads_of(stmt: Stmt) -> tuple[Load, ...]:
    """Every load of a statement's value (not those inside index expressions)."""
    return facts(stmt.value).loads


def index_loads(stmt: Stmt) -> frozenset[str]:
    """Tensors whose elements are used as indices, in the value, its guards or the target's index."""
    found = facts(stmt.value).indexing
    return found.union(*map(loads, stmt.index)) if stmt.index else found


def reads(stmt: Stmt) -> frozenset[str]:
    """Every tensor that a statement reads."""
    loaded, indexing = facts(stmt.value).tensors, index_loads(stmt)
    return loaded | indexing if indexing else loaded


def is_map(stmt: Stmt) -> bool:
    """One value for each point, nothing accumulated: what may be put in the place of a load."""
    return stmt.scan is None and stmt.index is None and not facts(stmt.value).reduces


def is_movement(stmt: Stmt) -> bool:
    """A map that only moves, repeats or pads the elements of at most one tensor, or makes them from indices: free to
    be done again by each reader.
    """
    known = facts(stmt.value)
    return is_map(stmt) and not known.indexing and known.moves and len(known.loads) <= 1


def is_pointwise(stmt: Stmt) -> bool:
    return is_map(stmt) and not index_loads(stmt)


def has_hard_index(stmt: Stmt) -> bool:
    """Whether some index still divides by something that is not a literal, after simplification: dear inside a loop."""
    if not facts(stmt.value).divides:
        return False
    names = {i.name for i in stmt.iters}
    for node in walk(stmt.value):
        exprs = node.index if isinstance(node, Load) else node.conds if isinstance(node, Where) else ()
        if any(divides_by_symbol(e, names) for e in exprs):
            return True
    return False


def divides_by_symbol(e: Dim, names: set[str]) -> bool:
    return any(
        isinstance(a, Call)
        and a.fn in ("floordiv", "mod")
        and not isinstance(a.args[1], int)
        and symbols(a.args[0]) & names
        for a in atoms(e)
    )


def points(stmt: Stmt, load: Load) -> Dim:
    """How often a load is evaluated: the product of the extents of the iterators around it."""
    around = _reductions_around(stmt.value, load) if facts(stmt.value).reduces else ()
    return product(i.extent for i in (*stmt.iters, *around))


def _reductions_around(e: Scalar, load: Load) -> tuple[Iter, ...]:
    if e is load:
        return ()
    for child in children(e):
        if any(known is load for known in facts(child).loads):
            inner = _reductions_around(child, load)
            return (*e.iters, *inner) if isinstance(e, Reduction) else inner
    return ()


def inline(stmt: Stmt, producer: Stmt) -> Stmt:
    """`stmt` with every load of the producer's target replaced by the producer's value at that index; what is not in
    its way is shared, not made anew.
    """
    return with_value(stmt, _inlined(stmt.value, producer, ranges_of(stmt.iters)))


def _inlined(e: Scalar, producer: Stmt, ranges: dict[str, tuple[Dim, Dim]]) -> Scalar:
    if isinstance(e, Load):
        if e.tensor != producer.target:
            return e
        at = {i.name: index for i, index in zip(producer.iters, e.index, strict=True) if index != sym(i.name)}
        if not at:
            return producer.value
        return _plain(transform(producer.value, lambda s: None, lambda d: substitute(d, at)), ranges)
    if producer.target not in facts(e).tensors:
        return e
    if isinstance(e, Op):
        return Op(e.fn, tuple([_inlined(a, producer, ranges) for a in e.args]), e.dtype)
    if isinstance(e, Cast):
        return Cast(_inlined(e.arg, producer, ranges), e.dtype)
    if isinstance(e, Where):
        return Where(e.conds, _inlined(e.then, producer, ranges), _inlined(e.otherwise, producer, ranges))
    assert isinstance(e, Reduction)
    inner = {**ranges, **ranges_of(e.iters)}
    return reduced(e, e.iters, lambda part: _inlined(part, producer, inner))


def _renamed(stmt: Stmt, names: dict[str, Dim]) -> Stmt:
    scan = replace(stmt.scan, iter=str(names[stmt.scan.iter])) if stmt.scan else None
    index = None if stmt.index is None else tuple(substitute(e, names) for e in stmt.index)
    iters = tuple(Iter(str(names[i.name]), i.extent) for i in stmt.iters)
    return replace(stmt, iters=iters, value=_with_names(stmt.value, names), index=index, scan=scan)


def _with_names(e: Scalar, names: dict[str, Dim]) -> Scalar:
    return transform(e, partial(_reduction_renamed, names=names), lambda d: substitute(d, names))


def _reduction_renamed(node: Scalar, names: dict[str, Dim]) -> Scalar | None:
    if not isinstance(node, Reduction):
        return None
    iters = tuple(Iter(str(names[i.name]), substitute(i.extent, names)) for i in node.iters)
    return reduced(node, iters, partial(_with_names, names=names))


def positional(stmt: Stmt, prefix: str) -> Stmt:
    """The same statement with its iterators called by their position: `prefix`0, `prefix`1..., those of reductions
    after them. What reads a target at the reader's own iterators then names them as the target's statement does.
    """
    inner = [i.name for node in walk(stmt.value) if isinstance(node, Reduction) for i in node.iters] if facts(
        stmt.value
    ).reduces else []
    names = {name: f"{prefix}{k}" for k, name in enumerate(dict.fromkeys((*(i.name for i in stmt.iters), *inner)))}
    if all(old == new for old, new in names.items()):
        return stmt
    return _renamed(stmt, {old: sym(new) for old, new in names.items()})


def simplified(stmt: Stmt) -> Stmt:
    return with_value(stmt, _plain(stmt.value, ranges_of(stmt.iters)))


def _plain(e: Scalar, ranges: dict[str, tuple[Dim, Dim]]) -> Scalar:
    """The expression with its indices simplified: sums of products are as they should be."""
    return simplify_scalar(e, ranges) if facts(e).calls else e


def complexity(stmt: Stmt) -> int:
    """Number of scalar operations and loads: a bound on how large composition may make a statement."""
    return facts(stmt.value).size


def identity_prefix(stmt: Stmt, load_index: tuple[Dim, ...]) -> int:
    """How many leading axes of a load are read at the statement's own leading iterators."""
    count = 0
    for it, e in zip(stmt.iters, load_index, strict=False):
        if e != sym(it.name) and not (it.extent == 1 and e == 0):
            break
        count += 1
    return count
