"""Which values hold rounding that another engine need not share: sums in an order, functions to some last bits.

What is computed from exact numbers by operations that IEEE 754 defines to the bit has the same bits everywhere, and may
be rounded to an integer or compared next. Only of what is not exact may a last bit be given away for speed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.kernel.ast import Cast, Const, Fold, Load, Op, Reduce, Scalar, State, Stmt, Where, walk
from mapsto.loop.functions import ERROR_ULP

_ROUNDING = frozenset(("add", "sub", "mul", "div", "fma", "sqrt"))
_PICKING = frozenset(("max", "min", "select", "abs", "neg"))
_APPROXIMATE = frozenset(fn for fn, _ in ERROR_ULP)


def is_rounded(e: Scalar, rounded: Collection[str]) -> bool:
    """Whether a value depends on rounding that is not defined. `rounded`: tensors whose elements do."""
    return any(
        (isinstance(node, Load) and node.tensor in rounded)
        or (isinstance(node, Op) and node.fn in _APPROXIMATE)
        or (isinstance(node, Reduce) and node.kind in ("sum", "prod") and node.dtype.is_float)
        or (isinstance(node, Fold) and any(_accumulates(step) for step in node.steps))
        for node in walk(e)
    )


def _accumulates(step: Scalar) -> bool:
    """Whether a step computes with floats what depends on the order of points (a choice between them does not)."""
    computed = (node for node in walk(step) if isinstance(node, Op) and node.dtype.is_float and node.fn in _ROUNDING)
    return any(map(_has_state, computed))


def _has_state(e: Scalar) -> bool:
    return any(isinstance(node, State) for node in walk(e))


def is_picked(e: Scalar, dtype: DType) -> bool:
    """Whether an f32 value is one of values that a narrower float type holds exactly, or the opposite of one."""
    if isinstance(e, Cast):
        return e.arg.dtype is dtype
    if isinstance(e, Const):
        return bool(np.float32(e.value) == np.float32(e.value).astype(dtype.numpy).astype(np.float32))
    if isinstance(e, Where):
        return is_picked(e.then, dtype) and is_picked(e.otherwise, dtype)
    if isinstance(e, Op):
        values = e.args[1:] if e.fn == "select" else e.args
        return e.fn in _PICKING and all(is_picked(arg, dtype) for arg in values)
    return isinstance(e, Reduce) and e.kind in ("max", "min") and is_picked(e.body, dtype)


def rounded_tensors(stmts: Sequence[Stmt], given: Collection[str] = ()) -> frozenset[str]:
    """Tensors that statements give such values, and those `given` to be so. What else comes into a kernel is taken for
    exact.
    """
    found = set(given)
    for stmt in stmts:
        if is_rounded(stmt.value, found) or (stmt.scan is not None and stmt.dtype.is_float):
            found.add(stmt.target)
    return frozenset(found)
