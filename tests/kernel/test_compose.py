"""Composition: what may stand in the place of a load, how often it would be computed, and what it then reads."""

from __future__ import annotations

import pytest

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, floordiv, load, mod, sym
from mapsto.kernel.ast import Const, Iter, Load, Op, Reduce, Scalar, Stmt, Where
from mapsto.kernel.compose import (
    divides_by_symbol,
    has_hard_index,
    identity_prefix,
    index_loads,
    inline,
    is_map,
    is_movement,
    is_pointwise,
    points,
    reads,
)

F32 = DType.F32
ROWS, J, K = Iter("i", 4), Iter("j", 8), Iter("k", 5)
i, j, k, n = (sym(name) for name in "ijkn")


def read(tensor: str, *index: Dim) -> Load:
    return Load(tensor, index, F32)


def stmt(value: Scalar, *iters: Iter, target: str = "y", index: tuple[Dim, ...] | None = None) -> Stmt:
    return Stmt(target, F32, iters, value, index)


@pytest.mark.parametrize(
    ("e", "hard"),
    [
        (floordiv(i, n), True),
        (mod(i, n), True),
        (mod(i + j, n) * 3 + 1, True),
        (floordiv(i, 4), False),  # a literal is a shift or a multiplication
        (mod(i, 4), False),
        (floordiv(n, sym("m")), False),  # the same all along the loop
        (floordiv(n, i + 1), False),
        (i * n + j, False),
        (0, False),
    ],
)
def test_a_division_by_a_size_is_dear_where_what_is_divided_moves(e: Dim, hard: bool) -> None:
    assert divides_by_symbol(e, {"i", "j"}) == hard
    assert has_hard_index(stmt(read("x", e), ROWS, J)) == hard
    assert has_hard_index(stmt(Where((e,), read("x", i), Const(0.0, F32)), ROWS, J)) == hard
    assert has_hard_index(stmt(Op("add", (read("x", i), read("x", e)), F32), ROWS, J)) == hard


def test_how_often_a_load_is_made() -> None:
    inner, outer = read("x", i, k), read("b", i)
    whole = stmt(Op("add", (Reduce("sum", (K,), inner), outer), F32), ROWS, J)
    assert points(whole, inner) == 4 * 8 * 5 and points(whole, outer) == 4 * 8


@pytest.mark.parametrize(
    ("value", "maps", "moves", "pointwise"),
    [
        (read("x", j, i), True, True, True),
        (Where((i - 1,), read("x", i - 1, j), Const(0.0, F32)), True, True, True),
        (Op("neg", (read("x", i, j),), F32), True, False, True),
        (Op("add", (read("x", i, j), read("y", i, j)), F32), True, False, True),
        (Reduce("sum", (K,), read("x", i, k)), False, False, False),
        (read("x", load("at", (i,)), j), True, False, False),
    ],
)
def test_kinds_of_statements(value: Scalar, maps: bool, moves: bool, pointwise: bool) -> None:
    made = stmt(value, ROWS, J)
    assert (is_map(made), is_movement(made), is_pointwise(made)) == (maps, moves, pointwise)
    assert not is_map(stmt(value, ROWS, J, index=(j, i)))


def test_what_is_read_as_an_index_is_read() -> None:
    made = stmt(read("x", load("at", (i,)), j), ROWS, J)
    assert index_loads(made) == {"at"} and reads(made) == {"x", "at"}
    assert index_loads(stmt(read("x", i, j), ROWS, J, index=(load("to", (i,)), j))) == {"to"}


@pytest.mark.parametrize(
    ("index", "count"),
    [((i, j), 2), ((i, j + 1), 1), ((j, i), 0), ((i, 0), 1), ((i,), 1), ((i + 0, j, 3), 2)],
)
def test_leading_axes_at_their_own_iterators(index: tuple[Dim, ...], count: int) -> None:
    assert identity_prefix(stmt(read("x", i, j), ROWS, J), index) == count


def test_an_axis_of_one_is_at_its_own_place() -> None:
    assert identity_prefix(stmt(read("x", i, j), Iter("i", 1), J), (0, j)) == 2


def test_a_producer_is_computed_where_it_is_read() -> None:
    """y[i, j] = sum over k of a[j, k], a[p, q] = -x[q, p + 1]."""
    p, q = Iter("p", 8), Iter("q", 5)
    producer = stmt(Op("neg", (read("x", sym("q"), sym("p") + 1),), F32), p, q, target="a")
    reader = stmt(Reduce("sum", (K,), Op("mul", (read("a", j, k), read("w", i, k)), F32)), ROWS, J)
    made = inline(reader, producer)
    assert made.value == Reduce("sum", (K,), Op("mul", (Op("neg", (read("x", k, j + 1),), F32), read("w", i, k)), F32))
