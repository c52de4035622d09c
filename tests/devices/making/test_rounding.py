"""Results of half precision are rounded when they are stored; what the model itself rounds stays rounded."""

from __future__ import annotations

import numpy as np
import pytest

from mapsto.devices.cpu.workers import Workers
from mapsto.devices.making.rounding import unrounded, unrounded_between
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ir.graph import Graph
from mapsto.kernel.ast import Cast, Iter, Load, Op, Scalar, Stmt
from mapsto.ops.builder import Builder
from mapsto.passes import run_passes
from mapsto.plan.contraction import ACCUMULATOR
from mapsto.session.compile import build

F16, F32 = DType.F16, DType.F32
ITER, AT = Iter("i", 4), (sym("i"),)


def read(name: str, dtype: DType = F16) -> Load:
    return Load(name, AT, dtype)


def stmt(target: str, value: Scalar) -> Stmt:
    return Stmt(target, value.dtype, (ITER,), value)


def test_what_follows_takes_a_sum_as_it_was() -> None:
    first = stmt("m", Cast(read(ACCUMULATOR, F32), F16))
    second = stmt("y", Cast(Op("neg", (Cast(read("m"), F32),), F32), F16))
    wide, stored, wider, last = unrounded((first, second))
    assert (wide.target, wide.dtype, wide.value) == ("m.wide", F32, read(ACCUMULATOR, F32))
    assert (stored.target, stored.value) == ("m", Cast(read("m.wide", F32), F16))
    assert wider.value == Op("neg", (read("m.wide", F32),), F32)
    assert (last.target, last.value) == ("y", Cast(read("y.wide", F32), F16))


def test_a_conversion_of_the_model_and_what_moves_stay() -> None:
    own = (stmt("h", Cast(read("m", F32), F16)), stmt("y", Op("neg", (Cast(read("h"), F32),), F32)))
    assert unrounded(own) == own
    moved = (stmt("m", Cast(read(ACCUMULATOR, F32), F16)), stmt("y", read("m")))
    assert unrounded(moved)[-1] == moved[-1]


def product(rounded: bool) -> Graph:
    """(x w) - x w as it was rounded to f16, in f32."""
    b = Builder("g")
    x = b.input("x", F32, (8, 32))
    m = b.one("matmul", [x, b.constant(np.random.default_rng(0).standard_normal((32, 16)).astype(np.float32), "w")])
    h = b.one("cast", [b.one("cast", [m], to=F16)], to=F32) if rounded else m
    return b.finish([b.one("sub", [m, h])], names=["y"])


@pytest.mark.parametrize("rounded", [False, True])
def test_rounding_that_the_model_asks_for_shows(rounded: bool, workers: Workers) -> None:
    x = np.random.default_rng(1).standard_normal((8, 32)).astype(np.float32)
    found = build(run_passes(product(rounded)), workers, 1, None).run({"x": x})["y"]
    assert bool(np.any(found != 0)) == rounded


# ---- rows ------------------------------------------------------------------------------------------------------------


def wide(name: str) -> Scalar:
    return Cast(read(name), F32)


def half(fn: str, *args: Scalar) -> Scalar:
    return Cast(Op(fn, args, F32), F16)


def test_an_inexact_half_is_not_rounded_on_the_way() -> None:
    gate = half("sigmoid", wide("x"))
    (found,), names = unrounded_between([stmt("y", half("mul", wide("x"), Cast(gate, F32)))], ["y"])
    assert found.value == half("mul", wide("x"), Op("sigmoid", (wide("x"),), F32)) and not names


def test_an_exact_one_is() -> None:
    """A sum of two elements has the bits that IEEE 754 defines, whoever computes it."""
    stmts = [stmt("y", half("floor", Cast(half("add", wide("a"), wide("b")), F32)))]
    assert unrounded_between(stmts, ["y"]) == (stmts, {})


def test_what_statements_hand_on_is_wide() -> None:
    stmts = [
        stmt("t", half("exp", wide("x"))),
        stmt("y", half("mul", wide("t"), wide("t"))),
    ]
    (first, second), names = unrounded_between(stmts, ["y"])
    assert names == {"t": "t.wide"}
    assert (first.target, first.dtype, first.value) == ("t.wide", F32, Op("exp", (wide("x"),), F32))
    assert second.value == half("mul", read("t.wide", F32), read("t.wide", F32))


@pytest.mark.parametrize("stored", [["t", "y"], ["y"]])
def test_what_is_stored_or_read_as_a_half_stays_one(stored: list[str]) -> None:
    stmts = [stmt("t", half("exp", wide("x"))), stmt("y", read("t") if len(stored) == 1 else wide("t"))]
    found, names = unrounded_between(stmts, stored)
    assert found == stmts and not names


def test_what_one_reader_takes_as_a_half_stays_one_for_all() -> None:
    stmts = [stmt("t", half("exp", wide("x"))), stmt("y", half("neg", wide("t"))), stmt("z", read("t"))]
    assert unrounded_between(stmts, ["y", "z"]) == (stmts, {})


def gated(dtype: DType, asked: bool) -> Graph:
    """x sigmoid(x) in a half type; asked: in f32, with the sigmoid rounded by a conversion of the model."""
    b = Builder("g")
    x = b.input("x", F32 if asked else dtype, (4, 257))
    s = b.one("sigmoid", [x])
    s = b.one("cast", [b.one("cast", [s], to=dtype)], to=F32) if asked else s
    return b.finish([b.one("mul", [x, s])], names=["y"])


@pytest.mark.parametrize("dtype", [F16, DType.BF16])
def test_rows_are_nearer_to_the_truth_without(dtype: DType, workers: Workers) -> None:
    x = np.random.default_rng(1).standard_normal((4, 257)).astype(dtype.numpy)
    found = build(run_passes(gated(dtype, False)), workers, 1, None).run({"x": x})["y"]
    exact = x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64)))
    assert (found == exact.astype(np.float32).astype(dtype.numpy)).mean() > 0.99


@pytest.mark.parametrize("dtype", [F16, DType.BF16])
def test_rounding_that_the_model_asks_for_shows_in_rows(dtype: DType, workers: Workers) -> None:
    x = np.random.default_rng(1).standard_normal((4, 257)).astype(np.float32)
    found = build(run_passes(gated(dtype, True)), workers, 1, None).run({"x": x})["y"]
    gate = (1 / (1 + np.exp(-x.astype(np.float64)))).astype(np.float32).astype(dtype.numpy).astype(np.float32)
    assert np.isclose(found, x * gate, rtol=1e-6).mean() > 0.99
