"""Which statements on the accumulators of a contraction are functions of one byte, and what their tables hold."""

from __future__ import annotations

import numpy as np

from mapsto.devices.making.tables import by_tables, table_of
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.kernel.ast import Cast, Const, Iter, Load, Op, Scalar, Stmt
from mapsto.loop import ast as loop

F32, U8 = DType.F32, DType.U8
ITERS = (Iter("i", 1), Iter("j", 40))


def load(name: str, dtype: DType, at: int | None = None) -> Load:
    return Load(name, (0, sym("j") if at is None else at), dtype)


def stmt(target: str, value: Scalar) -> Stmt:
    return Stmt(target, value.dtype, ITERS, value)


def op(fn: str, *args: Scalar) -> Op:
    return Op(fn, args, F32)


def chain(source: str = "q", other: Scalar | None = None) -> list[Stmt]:
    """q, x = f32(q) * 3, y = sigmoid(x) + other, r = u8(y * 200)."""
    return [
        stmt("q", Cast(load("sum", DType.I32), U8)),
        stmt("x", op("mul", Cast(load(source, U8), F32), Const(3.0, F32))),
        stmt("y", op("add", op("sigmoid", load("x", F32)), other or Const(0.5, F32))),
        stmt("r", Cast(op("mul", load("y", F32), Const(200.0, F32)), U8)),
    ]


def test_a_function_of_a_byte() -> None:
    stmts = chain()
    found = by_tables(stmts, ())
    assert list(found.looked_up) == ["r"]
    root, between = found.looked_up["r"]
    assert root == "q" and [each.target for each in between] == ["x", "y", "r"]
    assert [each.target for each in found.stmts] == ["q", "r"]


def test_what_others_need_is_computed_as_well() -> None:
    stmts = [*chain(), stmt("z", op("add", load("y", F32), Cast(load("r", U8), F32)))]
    assert [each.target for each in by_tables(stmts, ()).stmts] == ["q", "x", "y", "r", "z"]
    assert [each.target for each in by_tables(chain(), ("y",)).stmts] == ["q", "x", "y", "r"]


def test_functions_of_more_than_a_byte() -> None:
    for other in (load("t", F32), load("x", F32, 3), Cast(load("sum", DType.I32), F32)):
        stmts = chain(other=other)
        found = by_tables(stmts, ())
        assert not found.looked_up and found.stmts == tuple(stmts)


def test_bytes_in_memory_are_none_of_the_accumulators() -> None:
    assert not by_tables(chain(source="stored"), ()).looked_up


def test_a_short_way_is_computed() -> None:
    stmts = [chain()[0], stmt("r", Cast(op("mul", Cast(load("q", U8), F32), Const(2.0, F32)), U8))]
    found = by_tables(stmts, ())
    assert not found.looked_up and found.stmts == tuple(stmts)


def test_from_table_to_table() -> None:
    more = [
        stmt("x2", op("mul", Cast(load("r", U8), F32), Const(0.1, F32))),
        stmt("r2", Cast(op("mul", op("exp", load("x2", F32)), Const(0.25, F32)), U8)),
    ]
    found = by_tables([*chain(), *more], ())
    assert found.looked_up["r2"][0] == "q"
    assert [each.target for each in found.stmts] == ["q", "r2"]


def test_the_numbers_of_a_table() -> None:
    def emit(byte: loop.Value) -> tuple[list[loop.Statement], loop.Value]:
        wide = loop.Cast(byte, loop.Type(DType.I32, byte.type.lanes))
        return [loop.Let("twice", loop.Binary("add", wide, wide))], loop.Cast(
            loop.Var("twice", wide.type), loop.Type(U8, byte.type.lanes)
        )

    assert table_of(emit) == tuple((2 * np.arange(256) % 256).tolist())
