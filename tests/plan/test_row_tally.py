"""What plain loops do, counted: by hand for small kernels, and properties that hold of all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import load, sym
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Cast, Const, Iter, Load, Op, Reduce, Scalar, Stmt, Where
from mapsto.machine.cost import Tally, busy_seconds, price
from mapsto.machine.spec import MULTIPLY_ADD
from mapsto.plan.layout import Layout, blocked, permuted, plain
from mapsto.plan.row_tally import rows_tally

from ..machine.test_spec import simple_spec

SPEC = simple_spec()  # 16 lanes
F32 = DType.F32
ROW, COL, RED = sym("i"), sym("j"), sym("k")


def tally_of(
    stmts: list[Stmt], layouts: dict[str, Layout], sizes: dict[str, int] | None = None, **shapes: tuple[int, ...]
) -> Tally:
    values = {name: Value(name, F32, layout.shape) for name, layout in layouts.items()}
    values |= {name: Value(name, F32, shape) for name, shape in shapes.items()}
    return rows_tally(stmts, values, layouts, sizes or {}, SPEC)


def one(value: Scalar, extent: int = 64, index: int = 1) -> Stmt:
    return Stmt("out", F32, (Iter("i", extent),), value, None if index == 1 else (index * ROW,))


def at(name: str, *index: object, dtype: DType = F32) -> Load:
    return Load(name, index, dtype)  # type: ignore[arg-type]


def test_an_addition_reads_twice_adds_once_and_stores() -> None:
    value = Op("add", (at("x", ROW), at("y", ROW)), F32)
    found = tally_of([one(value)], {n: plain((64,)) for n in ("x", "y", "out")})
    assert found.elements == {"add": 64}
    assert found.moves == {"contiguous": 128, "store": 64}
    assert sorted((s.bytes, s.writes) for s in found.streams) == [(256, False), (256, False), (256, True)]
    assert found.operations == 64 and found.loops == 1


def test_lanes_past_the_end_are_counted() -> None:
    found = tally_of([one(Op("exp", (at("x", ROW),), F32), 17)], {n: plain((17,)) for n in ("x", "out")})
    assert found.elements == {"exp": 32}


def test_equal_values_are_computed_once() -> None:
    x = at("x", ROW)
    sigmoid = Op("sigmoid", (x,), F32)
    value = Op("add", (Op("mul", (x, sigmoid), F32), sigmoid), F32)
    found = tally_of([one(value)], {n: plain((64,)) for n in ("x", "out")})
    assert found.elements == {"sigmoid": 64, "add": 128} and found.moves["contiguous"] == 64


def test_a_product_that_is_added_is_one_multiply_add() -> None:
    """At the peak's rate, whatever an addition takes: adders may stand beside the multiply-adders."""
    product = Op("mul", (at("x", RED, ROW), at("y", RED, ROW)), F32)
    layouts = {"x": plain((8, 64)), "y": plain((8, 64)), "out": plain((64,))}
    found = tally_of([one(Reduce("sum", (Iter("k", 8),), product))], layouts)
    assert found.elements == {MULTIPLY_ADD: 8 * 64} and found.operations == 2 * 8 * 64
    quick = replace(SPEC, rates={**SPEC.rates, "add": SPEC.rates["add"] / 1000})
    assert busy_seconds(Tally(elements=found.elements), quick) == pytest.approx(8 * 64 / quick.peak(F32, F32, F32))


def test_a_product_that_is_used_besides_is_counted_besides() -> None:
    product = Op("mul", (at("x", ROW), at("y", ROW)), F32)
    value = Op("add", (Reduce("sum", (Iter("k", 8),), product), product), F32)
    found = tally_of([one(value)], {n: plain((64,)) for n in ("x", "y", "out")})
    assert found.elements["add"] == 2 * 64


def test_elements_of_eight_bytes_take_two_vectors() -> None:
    value = Op("add", (at("x", ROW, dtype=DType.F64), at("x", ROW, dtype=DType.F64)), DType.F64)
    stmt = Stmt("out", DType.F64, (Iter("i", 64),), value)
    found = tally_of([stmt], {n: plain((64,)) for n in ("x", "out")})
    assert found.elements == {"add": 128} and found.moves == {"contiguous": 128, "store": 128}


def test_places_apart_and_places_that_are_loaded_are_picked_one_by_one() -> None:
    strided = tally_of([one(at("x", 9 * ROW))], {"x": plain((640,)), "out": plain((64,))})
    assert strided.moves == {"strided_load": 64, "store": 64}
    scattered = tally_of([one(at("x", ROW), index=9)], {"x": plain((64,)), "out": plain((640,))})
    assert scattered.moves == {"contiguous": 64, "strided_store": 64}
    gathered = tally_of(
        [one(at("x", load("at", (ROW,))))], {"x": plain((640,)), "at": plain((64,)), "out": plain((64,))}
    )
    assert gathered.moves["gather"] == 64
    assert next(s.bytes for s in gathered.streams if not s.writes) == 256  # not the whole table


def test_a_window_over_a_blocked_dim_is_picked_element_by_element() -> None:
    """It begins anywhere in a block; one over another dim is read in vectors."""
    shape = (32, 8)
    iters = (Iter("c", 32), Iter("x", 8))

    def moves(index: tuple[object, object]) -> set[str]:
        value = Reduce("sum", (Iter("k", 3),), at("x", *index))
        stmt = Stmt("out", F32, iters, value)
        layouts = {"x": blocked(shape, 0, 16), "out": blocked(shape, 0, 16)}
        return set(tally_of([stmt], layouts).moves)

    assert moves((sym("c"), sym("x") + RED)) == {"contiguous", "store"}
    assert not moves((sym("c") + RED, sym("x"))) <= {"contiguous", "store"}


def test_lanes_run_along_the_blocked_dim() -> None:
    shape = (1, 32, 5, 5)
    iters = tuple(Iter(n, e) for n, e in zip("nchw", shape, strict=True))
    value = Op("add", (at("x", *map(sym, "nchw")), Const(1.0, F32)), F32)
    found = tally_of([Stmt("out", F32, iters, value)], {n: blocked(shape, 1, 16) for n in ("x", "out")})
    assert found.moves == {"contiguous": 800, "store": 800}


def moved(source: Layout, target: Layout) -> Tally:
    """Of a copy, where picking one element takes as long as some shuffles of whole vectors."""
    picky = replace(SPEC, moves={**SPEC.moves, "strided_load": 2e-8, "strided_store": 2e-8})
    iters = tuple(Iter(name, extent) for name, extent in zip("ij", target.shape, strict=True))
    stmt = Stmt("out", F32, iters, at("x", ROW, COL))
    values = {name: Value(name, F32, layout.shape) for name, layout in (("x", source), ("out", target))}
    return rows_tally([stmt], values, {"x": source, "out": target}, {}, picky)


def transpose(rows: int, columns: int) -> Tally:
    return moved(plain((rows, columns)), permuted((rows, columns), (1, 0)))


def test_a_transpose_shuffles_whole_vectors() -> None:
    """Tiles of 16 x 16: four shuffles for each vector."""
    found = transpose(64, 48)
    assert found.moves == {"contiguous": 3072, "store": 3072} and found.elements == {"add": 4 * 3072}


@pytest.mark.parametrize(("shape", "left"), [((65, 48), 48), ((64, 50), 128)])
def test_what_fills_no_tile_is_picked_one_by_one(shape: tuple[int, int], left: int) -> None:
    found = transpose(*shape)
    picked = found.moves.get("strided_load", 0.0) + found.moves.get("strided_store", 0.0)
    assert left * 0.99 < picked < left * 3  # the last vector is full of lanes that do nothing


@pytest.mark.parametrize("shape", [(640, 3), (3, 640)])
def test_channels_side_by_side_are_taken_apart_or_put_together(shape: tuple[int, int]) -> None:
    found = transpose(*shape)
    assert found.moves == {"contiguous": 1920, "store": 1920} and found.elements == {"add": 2 * 1920}


def test_rows_that_lie_apart_are_no_stream() -> None:
    """Three of each four channels."""
    wide = plain((640, 4)).slice(1, 0, 3)
    assert "add" not in moved(wide, permuted((640, 3), (1, 0))).elements


def test_what_no_inner_loop_changes_is_computed_outside_of_it() -> None:
    stmt = Stmt(
        "out", F32, (Iter("i", 8), Iter("j", 64)), Op("mul", (at("x", COL), Op("exp", (at("y", ROW),), F32)), F32)
    )
    found = tally_of([stmt], {"x": plain((64,)), "y": plain((8,)), "out": plain((8, 64))})
    assert "exp" not in found.elements  # eight times, for single elements
    assert found.elements["add"] == 512


def test_a_long_sum_waits_for_its_additions_and_a_short_one_does_not() -> None:
    def total(extent: int) -> Tally:
        value = Reduce("sum", (Iter("k", extent),), at("x", RED))
        return tally_of([Stmt("out", F32, (), value)], {"x": plain((extent,)), "out": plain(())})

    assert total(16 * 64).chain == 64 / 4 and total(16 * 8).chain == 0


def window(extent: int, guarded: bool, between: int = 1) -> Tally:
    """Each of three rows adds up five neighbours, those outside being zero. between: points of a row from one of these
    to the lanes.
    """
    inside = at("x", ROW + RED - 2, sym("b"), COL)
    read: Scalar = (
        Where((ROW + RED - 2, -1 * ROW - RED + extent + 1), inside, Const(0.0, F32))
        if guarded
        else at("x", ROW, sym("b"), COL)
    )
    value = Reduce("sum", (Iter("k", 5),), read)
    shape = (extent, between, 32)
    iters = tuple(Iter(name, e) for name, e in zip("ibj", shape, strict=True))
    return tally_of([Stmt("out", F32, iters, value)], {"x": plain(shape), "out": plain(shape)})


def test_rounds_that_guards_rule_out_are_not_counted() -> None:
    whole = window(3, guarded=False).elements["add"]
    assert window(3, guarded=True).elements["add"] == pytest.approx(whole * 9 / 15)


def test_a_guard_on_an_outer_row_keeps_its_loop() -> None:
    assert window(3, guarded=True, between=4).loops > window(3, guarded=False, between=4).loops


def test_a_row_of_windows_is_innermost_and_decides_its_guards() -> None:
    """Two vectors of neighbours in one piece are counted outside of it: a loop over them, and one over rows in each."""
    assert window(3, guarded=True).loops == 1 + 2


def test_vectors_along_windows_stay_innermost() -> None:
    """Windows of 3 x 3 in rows of 64: four vectors in each of 16 rows."""
    y, x, k, m = (sym(n) for n in "yxkm")
    value = Reduce("sum", (Iter("k", 3), Iter("m", 3)), at("x", y + k, x + m))
    stmt = Stmt("out", F32, (Iter("y", 16), Iter("x", 64)), value)
    found = tally_of([stmt], {"x": plain((18, 66)), "out": plain((16, 64))})
    assert found.loops == 1 + 16


def test_what_statements_pass_on_stays_near() -> None:
    """Softmax over rows of 64: three passes, one operand, one result."""
    iters = (Iter("i", 4), Iter("j", 64))
    stmts = [
        Stmt("top", F32, (Iter("i", 4),), Reduce("max", (Iter("k", 64),), at("x", ROW, RED))),
        Stmt("e", F32, iters, Op("exp", (Op("sub", (at("x", ROW, COL), at("top", ROW)), F32),), F32)),
        Stmt("total", F32, (Iter("i", 4),), Reduce("sum", (Iter("k", 64),), at("e", ROW, RED))),
        Stmt("out", F32, iters, Op("div", (at("e", ROW, COL), at("total", ROW)), F32)),
    ]
    found = tally_of(stmts, {"x": plain((4, 64)), "out": plain((4, 64))}, top=(4,), e=(4, 64), total=(4,))
    assert found.elements["exp"] == 256 and found.elements["divide"] == 256
    assert sorted((s.bytes, s.writes) for s in found.streams) == [(1024, False), (1024, True)]
    assert found.shares == 4
    # what stays near is written at half the price: e, and a vector for each top and total
    assert found.moves["store"] == 256 / 2 + 2 * 4 * 16 / 2 + 256


@pytest.mark.parametrize("length", [64, 1 << 20])
def test_rows_too_long_for_the_nearest_memory_go_through_it(length: int) -> None:
    iters = (Iter("i", 4), Iter("j", length))
    stmts = [
        Stmt("e", F32, iters, Op("exp", (at("x", ROW, COL),), F32)),
        Stmt("out", F32, (Iter("i", 4),), Reduce("sum", (Iter("k", length),), at("e", ROW, RED))),
    ]
    found = tally_of(stmts, {"x": plain((4, length)), "out": plain((4,))}, e=(4, length))
    between = [s for s in found.streams if s.distance == 2 * 4.0 * length]
    assert [s.writes for s in between] == ([] if length == 64 else [True, False])
    assert all(s.bytes == 16.0 * length for s in between)


def test_open_sizes_take_the_guess_that_is_given() -> None:
    n = sym("n")
    stmt = Stmt("out", F32, (Iter("i", n),), Op("exp", (at("x", ROW),), F32))
    layouts = {name: plain((n,)) for name in ("x", "out")}
    assert tally_of([stmt], layouts, {"n": 160}).elements == {"exp": 160}
    assert tally_of([stmt], layouts).elements == {"exp": 64}


def test_nothing_is_nothing() -> None:
    assert tally_of([one(at("x", ROW), 0)], {n: plain((0,)) for n in ("x", "out")}) == Tally()


def test_integers_and_conversions_have_classes_of_their_own() -> None:
    i32 = DType.I32
    divide = Op("div", (at("x", ROW, dtype=i32), at("x", ROW, dtype=i32)), i32)
    found = tally_of([Stmt("out", i32, (Iter("i", 64),), divide)], {n: plain((64,)) for n in ("x", "out")})
    assert found.elements == {"integer_divide": 64}
    found = tally_of(
        [Stmt("out", i32, (Iter("i", 64),), Cast(at("x", ROW), i32))], {n: plain((64,)) for n in ("x", "out")}
    )
    assert found.elements == {"truncate": 64}
    found = tally_of([one(Op("max", (at("x", ROW), at("y", ROW)), F32))], {n: plain((64,)) for n in ("x", "y", "out")})
    assert found.elements == {"max": 64}
    found = tally_of([one(Op("max", (at("x", ROW), Const(0.0, F32)), F32))], {n: plain((64,)) for n in ("x", "out")})
    assert found.elements == {"add": 64}  # a constant is no NaN


FUNCTIONS = st.sampled_from(["add", "mul", "div", "max"])


@st.composite
def kernels(draw: st.DrawFn) -> tuple[int, int, Scalar]:
    i, j = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    value: Scalar = at("x", ROW, COL)
    for fn in draw(st.lists(FUNCTIONS, max_size=4)):
        value = Op(fn, (value, at("y", COL)), F32)
    return i, j, value


def seconds(i: int, j: int, value: Scalar) -> float:
    stmt = Stmt("out", F32, (Iter("i", i), Iter("j", j)), value)
    found = tally_of([stmt], {"x": plain((i, j)), "y": plain((j,)), "out": plain((i, j))})
    return price(found, SPEC).seconds


@given(kernels(), st.integers(1, 20))
def test_more_rows_never_cost_less(kernel: tuple[int, int, Scalar], more: int) -> None:
    i, j, value = kernel
    assert seconds(i + more, j, value) >= seconds(i, j, value)


@given(kernels(), FUNCTIONS)
def test_another_operation_never_costs_less(kernel: tuple[int, int, Scalar], fn: str) -> None:
    i, j, value = kernel
    assert seconds(i, j, Op(fn, (value, at("z", ROW, COL)), F32)) >= seconds(i, j, value)


def test_weights_that_rows_share_are_picked_once_a_row() -> None:
    """A depthwise product: lanes along 32 channels in blocks, whose three weights each lie 9 apart."""
    value = Reduce("sum", (Iter("k", 3),), Op("mul", (at("x", COL, RED, ROW), at("w", 9 * COL + RED)), F32))
    iters = (Iter("j", 32), Iter("i", 50))
    layouts = {"x": blocked((32, 3, 50), 0, 16), "w": plain((288,)), "out": blocked((32, 50), 0, 16)}
    found = tally_of([Stmt("out", F32, iters, value)], layouts)
    assert found.moves["store"] == 32 * 50 and found.moves["strided_load"] <= 3 * 32
