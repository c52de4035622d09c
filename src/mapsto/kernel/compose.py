"""Composition of kernels: a statement's value put in the place of a load of its target (index maps compose)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from mapsto.ir.expr import Call, Dim, atoms, loads, product, sym, symbols
from mapsto.ir.expr_rewrite import substitute
from mapsto.kernel.ast import (
    Cast,
    Const,
    Index,
    Iter,
    Load,
    Op,
    Reduce,
    Scalar,
    Stmt,
    Where,
    children,
    ranges_of,
    simplify_scalar,
    transform,
    walk,
    with_value,
)


def loads_of(stmt: Stmt) -> Iterator[Load]:
    """Every load of a statement's value (not those inside index expressions)."""
    for node in walk(stmt.value):
        if isinstance(node, Load):
            yield node


def index_loads(stmt: Stmt) -> set[str]:
    """Tensors whose elements are used as indices, in the value, its guards or the target's index."""
    found: set[str] = set()
    for node in walk(stmt.value):
        if isinstance(node, Load):
            for e in node.index:
                found |= loads(e)
        elif isinstance(node, Index):
            found |= loads(node.expr)
        elif isinstance(node, Where):
            for e in node.conds:
                found |= loads(e)
    for e in stmt.index or ():
        found |= loads(e)
    return found


def reads(stmt: Stmt) -> set[str]:
    """Every tensor that a statement reads."""
    return {load.tensor for load in loads_of(stmt)} | index_loads(stmt)


def is_map(stmt: Stmt) -> bool:
    """One value for each point, nothing accumulated: what may be put in the place of a load."""
    return stmt.scan is None and stmt.index is None and not any(isinstance(n, Reduce) for n in walk(stmt.value))


def is_movement(stmt: Stmt) -> bool:
    """A map that only moves, repeats or pads the elements of at most one tensor, or makes them from indices: free to
    be done again by each reader.
    """
    if not is_map(stmt) or index_loads(stmt):
        return False
    nodes = list(walk(stmt.value))
    if not all(isinstance(n, (Load, Const, Index, Where, Cast)) for n in nodes):
        return False
    return sum(isinstance(n, Load) for n in nodes) <= 1


def is_pointwise(stmt: Stmt) -> bool:
    return is_map(stmt) and not index_loads(stmt)


def has_hard_index(stmt: Stmt) -> bool:
    """Whether some index still divides by something that is not a literal, after simplification: dear inside a loop."""
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
    return product(i.extent for i in (*stmt.iters, *_reductions_around(stmt.value, load)))


def _reductions_around(e: Scalar, load: Load) -> tuple[Iter, ...]:
    if e is load:
        return ()
    for child in children(e):
        if any(node is load for node in walk(child)):
            inner = _reductions_around(child, load)
            return (*e.iters, *inner) if isinstance(e, Reduce) else inner
    return ()


def inline(stmt: Stmt, producer: Stmt) -> Stmt:
    """`stmt` with every load of the producer's target replaced by the producer's value at that index."""

    def leaf(node: Scalar) -> Scalar | None:
        if not isinstance(node, Load) or node.tensor != producer.target:
            return None
        at = {i.name: e for i, e in zip(producer.iters, node.index, strict=True)}
        return transform(producer.value, lambda s: None, lambda d: substitute(d, at))

    ranges = dict(ranges_of(stmt.iters))
    return with_value(stmt, simplify_scalar(transform(stmt.value, leaf), ranges))


def renamed_iters(stmt: Stmt, fresh: Callable[[str], str]) -> Stmt:
    """The same statement with iterator names (those of reductions included) that nobody else has."""
    names: dict[str, Dim] = {i.name: sym(fresh("i")) for i in stmt.iters}
    for node in walk(stmt.value):
        if isinstance(node, Reduce):
            names.update({i.name: sym(fresh("k")) for i in node.iters})

    def new(i: Iter) -> Iter:
        return Iter(str(names[i.name]), i.extent)

    def leaf(node: Scalar) -> Scalar | None:
        if not isinstance(node, Reduce):
            return None
        return Reduce(
            node.kind,
            tuple(Iter(str(names[i.name]), substitute(i.extent, names)) for i in node.iters),
            rename(node.body),
        )

    def rename(e: Scalar) -> Scalar:
        return transform(e, leaf, lambda d: substitute(d, names))

    scan = replace(stmt.scan, iter=str(names[stmt.scan.iter])) if stmt.scan else None
    index = None if stmt.index is None else tuple(substitute(e, names) for e in stmt.index)
    return replace(stmt, iters=tuple(new(i) for i in stmt.iters), value=rename(stmt.value), index=index, scan=scan)


def simplified(stmt: Stmt) -> Stmt:
    return with_value(stmt, simplify_scalar(stmt.value, ranges_of(stmt.iters)))


def complexity(stmt: Stmt) -> int:
    """Number of scalar operations and loads: a bound on how large composition may make a statement."""
    return sum(isinstance(n, (Op, Load, Where)) for n in walk(stmt.value))


def identity_prefix(stmt: Stmt, load_index: tuple[Dim, ...]) -> int:
    """How many leading axes of a load are read at the statement's own leading iterators."""
    count = 0
    for it, e in zip(stmt.iters, load_index, strict=False):
        if e != sym(it.name) and not (it.extent == 1 and e == 0):
            break
        count += 1
    return count
