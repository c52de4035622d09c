"""What rules of differentiation have in common: linear maps of one axis, products of all others, zeros."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mapsto.errors import UnsupportedError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr
from mapsto.ir.graph import Node, Value
from mapsto.ops.elementwise import scalar_like
from mapsto.ops.making import Making


def zeros(b: Making, shape: Sequence[Dim], dtype: DType) -> Value:
    return b.one("full", [], shape=tuple(shape), value=0.0, dtype=dtype)


def fixed(extent: Dim, node: Node) -> int:
    """An extent that is a number. Raises UnsupportedError for an open one."""
    if isinstance(extent, Expr):
        raise UnsupportedError(
            f"{node.op} -> {node.output.name}: no gradient along an axis of open size {extent}; fix it by `shapes`"
        )
    return int(extent)


def along(b: Making, g: Value, axis: int, table: np.ndarray) -> Value:
    """g along an axis multiplied by a matrix [its extent, the new one]: the gradient of any linear map of an axis, by
    the matrix [size, extent] of the map itself.
    """
    whole = _repeats(table)
    if whole is not None:
        lead, rest = g.shape[:axis], g.shape[axis + 1 :]
        parts = b.one("reshape", [g], shape=(*lead, table.shape[1], whole, *rest))
        return b.one("reduce", [parts], kind="sum", axes=(axis + 1,), keepdims=False)
    perm = [k for k in range(g.rank) if k != axis] + [axis]
    turned = b.one("transpose", [g], perm=tuple(perm))
    made = b.one("matmul", [turned, b.constant(table.astype(g.dtype.numpy), "table")])
    return b.one("transpose", [made], perm=tuple(perm.index(k) for k in range(g.rank)))


def _repeats(table: np.ndarray) -> int | None:
    """How often each element is repeated, one after the other, where that is all that the map does."""
    size, extent = table.shape
    if not extent or size % extent or size == extent:
        return None
    return size // extent if np.array_equal(table, np.repeat(np.eye(extent), size // extent, axis=0)) else None


def of_product(
    b: Making, x: Value, y: Value, multiplied: Callable[[Value], Value], summed: Callable[[Value], Value],
    spread: Callable[[Value], Value], fixed_factor: Value | None = None,
) -> Value:  # fmt: skip
    """The product of all factors but x's own element, where y is that of all, also where factors are zero.

    multiplied: takes the product of values like x as y does; summed: sums values like x to y's shape; spread: reads
    values of y's shape at the elements of x. fixed_factor: of y's shape, a factor that is not among x.
    """
    zero, one = scalar_like(b, 0.0, x), scalar_like(b, 1.0, x)
    is_zero = b.one("eq", [x, zero])
    safe = b.one("select", [is_zero, one, x])
    rest = multiplied(safe)
    if fixed_factor is not None:
        rest = b.one("mul", [rest, fixed_factor])
    count = spread(summed(b.one("cast", [is_zero], to=x.dtype)))
    alone = b.one("and", [is_zero, b.one("eq", [count, one])])
    others = b.one("select", [is_zero, zero, b.one("div", [spread(y), safe])])
    return b.one("select", [alone, spread(rest), others])
