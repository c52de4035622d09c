"""What is loaded only where a guard holds, and loops that statements share only where none reads ahead of another."""

from __future__ import annotations

import numpy as np
import pytest
from tests.devices.generic.support import PROCESSOR, Case, all_schedules, check, floats

from mapsto.devices.generic.context import Lane
from mapsto.devices.generic.scalar import Emitter
from mapsto.devices.generic.scope import Code
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, mod, sym
from mapsto.kernel.ast import Cast, Const, Iter, Kernel, Load, Op, Reduce, Scalar, Stmt, Tensor, Where
from mapsto.loop import ast as loop

F32 = DType.F32
ZERO = Const(0.0, F32)
COLUMN, ROW = sym("i"), sym("r")


def load(tensor: str, *index: Dim) -> Load:
    return Load(tensor, index, F32)


def case_of(x: np.ndarray, shape: tuple[int, ...], *stmts: Stmt) -> Case:
    """From x to the last statement's target, all of one shape."""
    temps = tuple(Tensor(s.target, s.dtype, shape) for s in stmts[:-1])
    last = stmts[-1]
    out = Tensor(last.target, last.dtype, tuple(i.extent for i in last.iters))
    return Case(Kernel("k", (Tensor("x", F32, x.shape),), (out,), temps, stmts), {"x": x})


def test_an_element_that_two_guards_allow_differently() -> None:
    """The first guard leaves out lanes that the second wants."""
    iters = (Iter("i", 70),)
    narrow, wide = (Where((COLUMN - first,), load("x", COLUMN - 3), ZERO) for first in (20, 3))
    case = case_of(floats(67), (70,), Stmt("y", F32, iters, Op("sub", (wide, narrow), F32)))
    other = case_of(floats(67), (70,), Stmt("y", F32, iters, Op("sub", (narrow, wide), F32)))
    for each in (case, other):
        for schedule in all_schedules(each):
            check(each, schedule=schedule)


def test_an_element_for_all_lanes_that_none_wants() -> None:
    """x has fewer elements than there are rows: those of the rows past them are not touched."""
    rows, width = 5, 20
    iters = (Iter("r", rows + 2), Iter("i", width))
    inside: Dim = rows * width - 1 - (ROW * width + COLUMN)
    value: Scalar = Op("add", (Where((inside,), load("x", ROW), ZERO), Cast(Const(1, DType.I64), F32)), F32)
    case = case_of(floats(rows), (rows + 2, width), Stmt("y", F32, iters, value))
    for schedule in all_schedules(case):
        check(case, schedule=schedule)


@pytest.mark.parametrize("ahead", [-1, 1, 5])
def test_what_a_neighbour_has_written(ahead: int) -> None:
    """y of a place takes t of another place of the row: no loop can compute both as it goes."""
    iters = (Iter("r", 3), Iter("i", 40))
    there = COLUMN + ahead
    shifted = Where((there, 39 - there), load("t", ROW, there), ZERO)
    stmts = Stmt("t", F32, iters, Op("exp", (load("x", ROW, COLUMN),), F32)), Stmt("y", F32, iters, shifted)
    case = case_of(floats(3, 40), (3, 40), *stmts)
    for schedule in all_schedules(case):
        check(case, schedule=schedule)


def test_halves_are_summed_as_f32() -> None:
    """As halves, many small numbers would come to nothing beside their sum."""
    x = np.full((2, 20_000), 0.1, np.float16)
    total = Reduce("sum", (Iter("i", 20_000),), Load("x", (ROW, COLUMN), DType.F16))
    out = Tensor("y", DType.F16, (2,))
    stmt = Stmt("y", DType.F16, (Iter("r", 2),), total)
    case = Case(Kernel("k", (Tensor("x", DType.F16, x.shape),), (out,), (), (stmt,)), {"x": x})
    for schedule in all_schedules(case):
        check(case, schedule=schedule)


def test_masks_of_two_widths() -> None:
    """Of one count: each has the lanes of the vectors that it is for."""
    emitter = Emitter(Code(set()), {}, PROCESSOR)
    found = []
    for lanes in (16, 8, 16):
        with emitter.in_lanes(Lane(emitter.code.lane_symbol(lanes), lanes, COLUMN)):
            found.append(emitter.lane_mask(5))
    assert [mask.type for mask in found] == [loop.Type(DType.BOOL, lanes) for lanes in (16, 8, 16)]
    assert found[0] == found[2]


@pytest.mark.parametrize("padded", ["rows", "points"])
def test_a_padded_matrix_times_what_is_not_finite(padded: str) -> None:
    """0 times infinity is NaN, also where the 0 fills up a row or a sum."""
    rows, depth, columns = 5, 6, 20
    inside: Dim = 2 - ROW if padded == "rows" else 3 - sym("k")
    shape = (3, depth) if padded == "rows" else (rows, 4)
    a = Where((inside,), load("x", ROW, sym("k")), ZERO)
    total = Reduce("sum", (Iter("k", depth),), Op("mul", (a, load("w", sym("k"), COLUMN)), F32))
    w = floats(depth, columns)
    w[2, 1], w[5, 4], w[4, 0] = np.inf, np.nan, -np.inf
    kernel = Kernel(
        "k", (Tensor("x", F32, shape), Tensor("w", F32, w.shape)), (Tensor("y", F32, (rows, columns)),), (),
        (Stmt("y", F32, (Iter("r", rows), Iter("i", columns)), total),),
    )  # fmt: skip
    case = Case(kernel, {"x": floats(*shape), "w": w})
    for schedule in all_schedules(case):
        check(case, schedule=schedule)


@pytest.mark.parametrize("columns", [8, 72, 200])
def test_what_is_read_once_for_all_rows_where_the_last_one_is_cut(columns: int) -> None:
    """x repeats along the lanes, so that a vector of it serves all; in the last one lanes lie past the end."""
    iters, taps = (Iter("r", 3), Iter("i", columns)), (Iter("k", 2),)
    most = Reduce("max", taps, load("x", sym("k"), mod(COLUMN, 8)))
    out = Tensor("y", F32, (3, columns))
    kernel = Kernel("k", (Tensor("x", F32, (2, 8)),), (out,), (), (Stmt("y", F32, iters, most),))
    case = Case(kernel, {"x": floats(2, 8)})
    for schedule in all_schedules(case):
        check(case, schedule=schedule)
