"""What is asked of scalar expressions again and again while kernels are composed: told once for each node, from what
its operands told. Expressions are shared, so composing n of them takes n steps and not n * n.
"""

from __future__ import annotations

from typing import NamedTuple

from mapsto.ir.expr import Call, Dim, Expr, atoms, loads
from mapsto.kernel.ast import Const, Index, Load, Op, Reduction, Scalar, State, Where, children

_ATTRIBUTE = "_facts"  # beside a node's fields: no part of what it is equal by
_NONE: frozenset[str] = frozenset()


class Facts(NamedTuple):
    """`size`: operations, loads and choices. `loads`: left before right, not those in index expressions. `tensors`:
    what they read. `indexing`: tensors whose elements are used in indices or guards. `reduces`: there is a reduction.
    `moves`: nothing is computed. `calls`: an index, guard or extent is more than sums of products. `divides`: one of
    them divides by what is no literal.
    """

    size: int
    loads: tuple[Load, ...]
    tensors: frozenset[str]
    indexing: frozenset[str]
    reduces: bool
    moves: bool
    calls: bool
    divides: bool


def facts(e: Scalar) -> Facts:
    """The facts of an expression. (Those of a load name itself: kept beside it, they would keep it alive.)"""
    known: Facts | None = getattr(e, _ATTRIBUTE, None)
    if known is None:
        known = _facts(e)
        object.__setattr__(e, _ATTRIBUTE, known._replace(loads=()) if isinstance(e, Load) else known)
    elif isinstance(e, Load):
        return Facts(1, (e,), *known[2:])
    return known


def _facts(e: Scalar) -> Facts:
    if isinstance(e, Op):
        return _of_operation(e.args)
    if isinstance(e, Load):
        if _is_plain(e):
            return Facts(1, (e,), frozenset((e.tensor,)), _NONE, False, True, False, False)
        return Facts(1, (e,), frozenset((e.tensor,)), _indexing(e.index), False, True, *_calls(e.index))
    if isinstance(e, Const | State):
        return Facts(0, (), _NONE, _NONE, False, True, False, False)
    if isinstance(e, Index):
        return Facts(0, (), _NONE, _indexing((e.expr,)), False, True, *_calls((e.expr,)))
    parts = [facts(child) for child in children(e)]
    conds = e.conds if isinstance(e, Where) else ()
    calls, divides = _calls((*conds, *(i.extent for i in e.iters)) if isinstance(e, Reduction) else conds)
    return Facts(
        sum(p.size for p in parts) + isinstance(e, Where),
        parts[0].loads if len(parts) == 1 else tuple(load for p in parts for load in p.loads),
        parts[0].tensors if len(parts) == 1 else _NONE.union(*(p.tensors for p in parts)),
        _indexing(conds).union(*(p.indexing for p in parts)),
        isinstance(e, Reduction) or any(p.reduces for p in parts),
        not isinstance(e, Reduction) and all(p.moves for p in parts),
        calls or any(p.calls for p in parts),
        divides or any(p.divides for p in parts),
    )


def _is_plain(load: Load) -> bool:
    """Whether its index is sums of products, as most are: nothing in it is loaded or divided."""
    return not any(isinstance(i, Expr) and i.extent[1] for i in load.index)


def _of_operation(args: tuple[Scalar, ...]) -> Facts:
    """An operation's facts; a plain load among the operands, as most are, needs none of its own."""
    size, tensors, indexing = 1, _NONE, _NONE
    found: tuple[Load, ...] = ()
    reduces = calls = divides = False
    for arg in args:
        if isinstance(arg, Load) and _is_plain(arg):
            size, found, tensors = size + 1, (*found, arg), tensors | {arg.tensor}
            continue
        part = facts(arg)
        size += part.size
        found, tensors = found + part.loads, tensors | part.tensors
        indexing |= part.indexing
        reduces, calls, divides = reduces or part.reduces, calls or part.calls, divides or part.divides
    return Facts(size, found, tensors, indexing, reduces, False, calls, divides)


def _indexing(exprs: tuple[Dim, ...]) -> frozenset[str]:
    found = [loads(e) for e in exprs if isinstance(e, Expr)]
    return _NONE.union(*found) if any(found) else _NONE


def _calls(exprs: tuple[Dim, ...]) -> tuple[bool, bool]:
    """Whether any holds a division, a minimum, a loaded element..., and whether one divides by no literal."""
    found = [a for e in exprs if isinstance(e, Expr) for a in atoms(e) if isinstance(a, Call)]
    return bool(found), any(a.fn in ("floordiv", "mod") and not isinstance(a.args[1], int) for a in found)
