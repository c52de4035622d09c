"""The row of Unique: the different elements of a tensor, or slices along an axis, with places and counts.

Elements are sorted, and a new one begins wherever two neighbours differ; how many there are only a run knows. Slices
are put in order by how many others come before each, which compares all pairs. -0 equals 0, NaN equals NaN.
"""

from __future__ import annotations

import numpy as np

from mapsto.importers.onnx.rows.indexing import nonzero
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, product
from mapsto.ir.graph import Value
from mapsto.ops.arranging import positions, reshape, slice_axis, transpose
from mapsto.ops.builder import Builder
from mapsto.ops.composite import cast

# The most slices of which all pairs are compared.
_SLICES = 1 << 14


@row("Unique")
def _unique(call: NodeCall) -> Result:
    """Y, and where each first stands, which of Y each element is, and how often each occurs."""
    b, x = call.builder, call.input()
    if call.has_attribute("axis"):
        axis = call.axis(x.rank)
        if x.rank == 0:
            raise call.wrong("a scalar has no axis")
    else:
        x, axis = reshape(b, x, (product(x.shape),)), 0
    perm = (axis, *(k for k in range(x.rank) if k != axis))
    turned = transpose(b, x, perm)
    count = turned.shape[0]
    rows = reshape(b, turned, (count, product(turned.shape[1:])))
    order, begins = _sorted(b, rows) if call.has_attribute("axis") else _sorted_elements(b, rows)
    firsts = nonzero(b, begins)
    found = firsts.shape[1]
    starts = reshape(b, firsts, (found,))
    group = _op(b, "sub", b.one("cumsum", [cast(b, begins, DType.I64)], axis=0, exclusive=False, reverse=False), 1)
    borders = b.one("concat", [starts, reshape(b, b.known(count), (1,))], axis=0)
    counts = b.one("sub", [slice_axis(b, borders, 0, 1, found), starts])
    places = b.one("gather", [order, starts], axis=0)
    inverse = _scattered(b, order, group)
    if not call.integer("sorted", 1):
        places, by = b.add("topk", [places], {"k": found, "axis": 0, "largest": False, "sorted": True})
        counts = b.one("gather", [counts, by], axis=0)
        inverse = b.one("gather", [_scattered(b, by, positions(b, found)), inverse], axis=0)
    y = transpose(b, b.one("gather", [turned, places], axis=0), [perm.index(k) for k in range(x.rank)])
    return [y, places, inverse, counts]


def _op(b: Builder, name: str, x: Value, y: Value | int) -> Value:
    return b.one(name, [x, y if isinstance(y, Value) else b.constant(np.asarray(y, x.dtype.numpy))])


def _scattered(b: Builder, at: Value, values: Value) -> Value:
    """A vector that has values[k] at place at[k]."""
    zeros = b.one("full", [], shape=at.shape, value=0, dtype=values.dtype)
    return b.one("scatter_elements", [zeros, at, values], axis=0, reduction="none")


def _sorted_elements(b: Builder, rows: Value) -> tuple[Value, Value]:
    """The places of elements [n, 1] in ascending order, and where in it a new one begins."""
    count = rows.shape[0]
    keys = reshape(b, cast(b, rows, DType.U8) if rows.dtype is DType.BOOL else rows, (count,))
    _, order = b.add("topk", [keys], {"k": count, "axis": 0, "largest": False, "sorted": True})
    keys = reshape(b, _keys(b, b.one("gather", [keys, order], axis=0)), (count, 1))
    return order, _begins(b, keys)


def _sorted(b: Builder, rows: Value) -> tuple[Value, Value]:
    """The places of rows[n, m] in lexicographic order, and where in it a new one begins."""
    count, width = rows.shape
    b.require(_SLICES - count, f"there are more than {_SLICES} slices")
    keys = _keys(b, rows)
    one, other = reshape(b, keys, (count, 1, width)), reshape(b, keys, (1, count, width))
    column = positions(b, width)
    differing = b.one("select", [b.one("ne", [one, other]), column, b.known(width)])
    # the first column in which two rows differ; the width where there is none
    last = reshape(b, b.known(width), (1,))
    wide = b.one("concat", [differing, b.one("expand", [last], shape=(count, count, 1))], axis=2)
    first = b.one("reduce", [wide], kind="min", axes=(2,), keepdims=False)
    flat = reshape(b, keys, (product(keys.shape),))
    padded = b.one("concat", [flat, b.constant(np.zeros(1, keys.dtype.numpy))], axis=0)
    same = b.one("eq", [first, b.known(width)])

    def element(of: Value) -> Value:
        """The element of a row in that column."""
        at = b.one("add", [_op(b, "mul", of, b.known(width)), first])
        return b.one("gather", [padded, b.one("min", [at, b.known(product(keys.shape))])], axis=0)

    mine, others = reshape(b, positions(b, count), (count, 1)), reshape(b, positions(b, count), (1, count))
    earlier = b.one("and", [same, b.one("lt", [others, mine])])
    below = b.one("and", [b.one("not", [same]), b.one("lt", [element(others), element(mine)])])
    before = cast(b, b.one("or", [earlier, below]), DType.I64)
    rank = b.one("reduce", [before], kind="sum", axes=(1,), keepdims=False)
    last_place = _op(b, "max", _op(b, "sub", b.known(count), 1), 0)
    order = _scattered(b, b.one("min", [rank, last_place]), positions(b, count))
    return order, _begins(b, b.one("gather", [keys, order], axis=0))


def _begins(b: Builder, keys: Value) -> Value:
    """Which of the rows [n, m] differ from the one before; the first does."""
    count: Dim = keys.shape[0]
    at = positions(b, count)
    before = b.one("gather", [keys, _op(b, "max", _op(b, "sub", at, 1), 0)], axis=0)
    differs = b.one("reduce", [b.one("ne", [keys, before])], kind="any", axes=(1,), keepdims=False)
    return b.one("or", [differs, _op(b, "eq", at, 0)])


def _keys(b: Builder, x: Value) -> Value:
    """Numbers in the order of the elements: of floats integers, of which NaN is the largest."""
    if x.dtype is DType.BOOL:
        return cast(b, x, DType.U8)
    if not x.dtype.is_float:
        return x
    wide = x.dtype is DType.F64
    real = x if wide else cast(b, x, DType.F32)
    real = b.one("add", [real, b.constant(np.asarray(0.0, real.dtype.numpy))])  # -0 + 0 is 0
    bits = b.one("bitcast", [real], to=DType.I64 if wide else DType.I32)
    top = (1 << (63 if wide else 31)) - 1
    flipped = _op(b, "bitxor", bits, top)  # the bits of a negative number count downwards
    ordered = b.one("select", [_op(b, "lt", bits, 0), flipped, bits])
    return b.one("select", [b.one("isnan", [real]), b.constant(np.asarray(top, ordered.dtype.numpy)), ordered])
