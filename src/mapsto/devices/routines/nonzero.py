"""nonzero: the row-major indices of the elements that are not zero, and their count."""

from __future__ import annotations

from contextlib import ExitStack

from mapsto.devices.routines.code import RoutineCall, RoutineCode
from mapsto.devices.routines.writer import Writer, as_value, cast, integer, row_major
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, add, minimum, mul, product
from mapsto.ir.graph import Node, Value
from mapsto.loop import ast as loop


def nonzero(node: Node, inputs: tuple[Value | None, ...], lanes: int, name: str) -> RoutineCode:
    """x[...] -> indices i64[rank, size], whose columns past the count are zero, and count i64[].

    One thread: the place of each index depends on every element before. A chunk of `lanes` zeros costs one test;
    elsewhere each index is written at the next place, and the place moves on only if its element was not zero.
    """
    x = inputs[0]
    assert x is not None
    indices, count = node.outputs
    shape = x.shape if x.shape else (1,)
    size = product(shape)
    w = Writer([*x.shape, *indices.shape])
    source = w.tensor("x", x)
    target = w.tensor("indices", indices, writes=True)
    total = w.tensor("count", count, writes=True)
    axes = x.rank  # a scalar has none: only its count is told
    with w.share("once"):
        found = w.declare("found", integer(0))
        row = w.index("size", size)
        with ExitStack() as loops:
            outer = [loops.enter_context(w.loop("i", 0, extent)) for extent in shape[:-1]]
            start = w.index("base", mul(row_major(shape[:-1], outer), shape[-1]))
            _scan_row(w, source, x.dtype, start, shape[-1], outer, lanes, target, found, row, axes)
        w.store(total, 0, found)
        _clear_rest(w, target, axes, row, found, lanes)
    return RoutineCode((RoutineCall(w.function(name), 1, w.operands),))


def _scan_row(
    w: Writer, source: str, element: DType, start: Dim, length: Dim, outer: list[Dim], lanes: int, target: str,
    found: loop.Var, size: Dim, axes: int,
) -> None:  # fmt: skip
    """Looks through `length` elements of the last axis in chunks."""
    with w.loop("chunk", 0, length, step=lanes) as chunk:
        mask = loop.LaneMask(length - chunk, loop.Type(DType.BOOL, lanes))
        loaded = loop.Load(source, add(start, chunk), loop.Type(element, lanes), mask=mask)
        with w.when(loop.ReduceLanes("any", _is_nonzero(loaded), loop.Type(DType.BOOL))):
            with w.loop("j", chunk, minimum(length, chunk + lanes)) as j:
                place = w.index("place", found)
                for axis, i in enumerate([*outer, j][:axes]):
                    w.store(target, mul(size, axis) + place, as_value(i))
                nonzero = _is_nonzero(loop.Load(source, add(start, j), loop.Type(element)))
                w.assign(found, loop.Binary("add", found, loop.Select(nonzero, integer(1), integer(0))))


def _is_nonzero(value: loop.Value) -> loop.Value:
    if value.type.element is DType.BOOL:
        return value
    if value.type.element.is_half:
        value = cast(value, DType.F32)
    return loop.Compare("ne", value, loop.Const(0, value.type))


def _clear_rest(w: Writer, target: str, rank: int, size: Dim, found: loop.Var, lanes: int) -> None:
    first = w.index("first", found)
    wide = loop.Type(DType.I64, max(1, lanes // 2))
    with w.loop("axis", 0, rank) as axis:
        with w.loop("at", first, size, step=wide.lanes) as at:
            mask = loop.LaneMask(size - at, loop.Type(DType.BOOL, wide.lanes))
            w.store(target, mul(axis, size) + at, loop.Const(0, wide), mask)
