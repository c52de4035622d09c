"""What is asked of scalar expressions again and again while kernels are composed: told once for each node, from what
its operands told. Expressions are shared, so composing n of them takes n steps and not n * n.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from mapsto.ir.expr import Call, Dim, Expr, atoms, loads
from mapsto.kernel.ast import Const, Index, Load, Op, Reduce, Scalar, Where, children

_ATTRIBUTE = "_facts"  # beside a node's fields: no part of what it is equal by
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Facts:
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
    """The facts of an expression."""
    known: Facts | None = e.__dict__.get(_ATTRIBUTE)
    if known is None:
        known = _facts(e)
        object.__setattr__(e, _ATTRIBUTE, known)
    return known


def _facts(e: Scalar) -> Facts:
    if isinstance(e, Load):
        if not any(isinstance(i, Expr) and i.extent[1] for i in e.index):  # sums of products: most of them
            return Facts(1, (e,), frozenset((e.tensor,)), _NONE, False, True, False, False)
        return Facts(1, (e,), frozenset((e.tensor,)), _indexing(e.index), False, True, *_calls(e.index))
    if isinstance(e, Const):
        return Facts(0, (), _NONE, _NONE, False, True, False, False)
    if isinstance(e, Index):
        return Facts(0, (), _NONE, _indexing((e.expr,)), False, True, *_calls((e.expr,)))
    parts = [facts(child) for child in children(e)]
    conds = e.conds if isinstance(e, Where) else ()
    if isinstance(e, Op):
        return _of_operation(parts)
    calls, divides = _calls((*conds, *(i.extent for i in e.iters)) if isinstance(e, Reduce) else conds)
    return Facts(
        sum(p.size for p in parts) + isinstance(e, Where),
        parts[0].loads if len(parts) == 1 else tuple(load for p in parts for load in p.loads),
        parts[0].tensors if len(parts) == 1 else _NONE.union(*(p.tensors for p in parts)),
        _indexing(conds).union(*(p.indexing for p in parts)),
        isinstance(e, Reduce) or any(p.reduces for p in parts),
        not isinstance(e, Reduce) and all(p.moves for p in parts),
        calls or any(p.calls for p in parts),
        divides or any(p.divides for p in parts),
    )


def _of_operation(parts: list[Facts]) -> Facts:
    first = parts[0]
    if len(parts) == 1:
        return Facts(
            first.size + 1, first.loads, first.tensors, first.indexing, first.reduces, False, first.calls, first.divides
        )
    return Facts(
        sum(p.size for p in parts) + 1,
        tuple(itertools.chain.from_iterable(p.loads for p in parts)),
        first.tensors.union(*(p.tensors for p in parts[1:])),
        first.indexing.union(*(p.indexing for p in parts[1:])),
        any(p.reduces for p in parts),
        False,
        any(p.calls for p in parts),
        any(p.divides for p in parts),
    )


def _indexing(exprs: tuple[Dim, ...]) -> frozenset[str]:
    found = [loads(e) for e in exprs if isinstance(e, Expr)]
    return _NONE.union(*found) if any(found) else _NONE


def _calls(exprs: tuple[Dim, ...]) -> tuple[bool, bool]:
    """Whether any holds a division, a minimum, a loaded element..., and whether one divides by no literal."""
    found = [a for e in exprs if isinstance(e, Expr) for a in atoms(e) if isinstance(a, Call)]
    return bool(found), any(a.fn in ("floordiv", "mod") and not isinstance(a.args[1], int) for a in found)
