"""Results of half precision are rounded when they are stored; what the model itself rounds stays rounded."""

from __future__ import annotations

import numpy as np
import pytest

from mapsto.devices.cpu.workers import Workers
from mapsto.devices.making.rounding import unrounded
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
