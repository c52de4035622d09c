"""The row of Det: small matrices by Leibniz' formula, larger ones by elimination with the largest pivots, in f64."""

from __future__ import annotations

from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.ops.arranging import positions, reshape, slice_axis
from mapsto.ops.builder import Builder
from mapsto.ops.composite import cast

# Rows of the largest matrix: each is a step of some ten nodes.
_LARGEST = 32


@row("Det")
def _det(call: NodeCall) -> Result:
    """Determinants of the matrices x[..., n, n]."""
    b, x = call.builder, call.input()
    if x.rank < 2 or all(isinstance(d, int) for d in x.shape[-2:]) and x.shape[-1] != x.shape[-2]:
        raise call.wrong(f"{x} is no square matrix")
    size = x.shape[-1]
    if not isinstance(size, int) or size != x.shape[-2] or size > _LARGEST:
        raise call.unsupported(
            f"{x}: matrices of up to {_LARGEST} rows are supported, and how many must be known when compiling; "
            "fix them by `shapes`",
            x.shape[-2:],
        )
    if size == 0:
        return b.one("full", [], shape=x.shape[:-2], value=1.0, dtype=x.dtype)
    if size <= 3:
        return _by_leibniz(b, x, size)
    return cast(b, _by_elimination(call, cast(b, x, DType.F64), size), x.dtype)


def _at(b: Builder, x: Value, i: int, j: int) -> Value:
    """One element of each matrix."""
    return reshape(b, slice_axis(b, slice_axis(b, x, x.rank - 2, i, 1), x.rank - 1, j, 1), x.shape[:-2])


def _by_leibniz(b: Builder, x: Value, size: int) -> Value:
    if size == 1:
        return _at(b, x, 0, 0)

    def minor(i: int, p: int, q: int) -> Value:
        """x[i, p] * x[i + 1, q] - x[i, q] * x[i + 1, p]"""
        ends = (b.one("mul", [_at(b, x, i, j), _at(b, x, i + 1, k)]) for j, k in ((p, q), (q, p)))
        return b.one("sub", list(ends))

    if size == 2:
        return minor(0, 0, 1)
    terms = [b.one("mul", [_at(b, x, 0, j), minor(1, (j + 1) % 3, (j + 2) % 3)]) for j in range(3)]
    return b.one("add", [b.one("add", terms[:2]), terms[2]])


def _by_elimination(call: NodeCall, x: Value, size: int) -> Value:
    """The product of the pivots, with its sign turned by each exchange of rows. Each step leaves one row and one column
    less: the first row takes the place of the pivot's, and a multiple of that is taken from all others.
    """
    b = call.builder
    rows, columns = x.rank - 2, x.rank - 1
    total: Value | None = None
    for left in range(size, 1, -1):
        first = slice_axis(b, x, columns, 0, 1)
        at = b.one("argmax", [b.one("abs", [first])], axis=rows, keepdims=True, select_last=False)
        chosen = b.one("expand", [at], shape=(*x.shape[:-2], 1, left))
        pivots = b.one("gather_elements", [x, chosen], axis=rows)
        place = reshape(b, positions(b, left), (left, 1))
        swapped = b.one("select", [b.one("eq", [place, at]), slice_axis(b, x, rows, 0, 1), x])
        pivot = slice_axis(b, pivots, columns, 0, 1)
        zero = call.scalar(0.0, pivot)
        rest = slice_axis(b, swapped, rows, 1, left - 1)
        factor = b.one("div", [slice_axis(b, rest, columns, 0, 1), pivot])
        factor = b.one("select", [b.one("eq", [pivot, zero]), zero, factor])
        taken = b.one("mul", [factor, slice_axis(b, pivots, columns, 1, left - 1)])
        x = b.one("sub", [slice_axis(b, rest, columns, 1, left - 1), taken])
        own = b.one("select", [b.one("eq", [at, call.scalar(0, at)]), pivot, b.one("neg", [pivot])])
        total = own if total is None else b.one("mul", [total, own])
    assert total is not None
    return reshape(b, b.one("mul", [total, x]), x.shape[:-2])
