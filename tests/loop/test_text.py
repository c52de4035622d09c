"""Functions as text: one golden function that uses every statement, and the values."""

from __future__ import annotations

import pytest

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import add, mul, sym
from mapsto.loop.ast import (
    Alloc,
    Assign,
    Binary,
    Bitcast,
    Broadcast,
    Cast,
    Compare,
    Const,
    Declare,
    Dot,
    Fence,
    Fma,
    For,
    Function,
    Gather,
    If,
    IndexValue,
    LaneMask,
    Let,
    LetIndex,
    Load,
    Lookup,
    Nearest,
    Param,
    Prefetch,
    ReduceLanes,
    Scatter,
    Select,
    Shuffle,
    Store,
    Type,
    Unary,
    Value,
    Var,
    While,
)
from mapsto.loop.text import format_function, format_value

F32, F32X4, I64X4, BOOLX4 = Type(DType.F32), Type(DType.F32, 4), Type(DType.I64, 4), Type(DType.BOOL, 4)
AT, N = sym("i"), sym("n")

GOLDEN = """\
rows(x: f32, k: i64, y: out f32; n, m) over begin..end
  local t: f32[16]
  for i = begin .. end
    var s: f32x4 = 0.0
    index row = i*n
    for j = 0 .. n step 4
      let mask = lane < -j + n
      let a = x[j + row:+4 if mask]
      s = fma(a, a, s)
    for u = 0 .. 4 unrolled
      t[4*u:+4] = s
    index at = k[i]
    if i >= 0 and -i + n - 1 >= 0
      y[at] = sum_lanes(s)
    else
      y[at] = -1.0
    while y[0] < 1.0
      y[0] = y[0] + 0.5
    if lane < n
      y[k[lanes] if mask] = s * 2.0
      y[i:+4*2 if mask] = s
    prefetch x[i + 64]
    fence
    fence s
"""


def golden_function() -> Function:
    s, a, mask = Var("s", F32X4), Var("a", F32X4), Var("mask", BOOLX4)
    at = add(sym("row"), sym("j"))
    inner = (
        Let("mask", LaneMask(add(N, mul(sym("j"), -1)), BOOLX4)),
        Let("a", Load("x", at, F32X4, mask=mask)),
        Assign("s", Fma(a, a, s)),
    )
    y0 = Load("y", 0, F32)
    body = (
        Declare("s", Const(0.0, F32X4)),
        LetIndex("row", mul(AT, N)),
        For("j", 0, N, inner, step=4),
        For("u", 0, 4, (Store("t", mul(sym("u"), 4), s),), unroll=True),
        LetIndex("at", Load("k", AT, Type(DType.I64))),
        If(
            (AT, add(add(N, mul(AT, -1)), -1)),
            (Store("y", sym("at"), ReduceLanes("sum", s, F32)),),
            (Store("y", sym("at"), Const(-1.0, F32)),),
        ),
        While(Compare("lt", y0, Const(1.0, F32)), (Store("y", 0, Binary("add", y0, Const(0.5, F32))),)),
        If(
            LaneMask(N, Type(DType.BOOL)),
            (
                Scatter("y", Gather("k", Var("lanes", I64X4), I64X4), Binary("mul", s, Const(2.0, F32X4)), mask),
                Store("y", AT, s, stride=2, mask=mask),
            ),
        ),
        Prefetch("x", add(AT, 64)),
        Fence(),
        Fence(("s",)),
    )
    params = (Param("x", DType.F32), Param("k", DType.I64), Param("y", DType.F32, True))
    return Function("rows", params, ("n", "m"), (Alloc("t", DType.F32, 16), For("i", sym("begin"), sym("end"), body)))


def test_a_function_that_uses_every_statement() -> None:
    assert format_function(golden_function()) == GOLDEN


A, B, C = Var("a", F32X4), Var("b", F32X4), Var("c", F32X4)
SUM = Binary("add", A, B)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Const(0.1, F32), "0.1"),
        (Const(float("-inf"), F32), "-inf"),
        (Const(True, BOOLX4), "true"),
        (Const(-3, I64X4), "-3"),
        (Binary("mul", SUM, C), "(a + b) * c"),
        (Binary("sub", A, Binary("sub", B, C)), "a - (b - c)"),
        (Binary("max", SUM, C), "max(a + b, c)"),
        (Binary("shl", A, B), "a << b"),
        (Unary("neg", SUM), "-(a + b)"),
        (Unary("sqrt", SUM), "sqrt(a + b)"),
        (Unary("not", Compare("ge", A, B)), "~(a >= b)"),
        (Select(Compare("lt", A, B), SUM, C), "(a < b) ? (a + b) : c"),
        (Cast(SUM, Type(DType.I8, 4)), "i8x4(a + b)"),
        (Nearest(SUM, -3, 252, 3, DType.U8), "u8x4(nearest(a + b, -3, 252) + 3)"),
        (Lookup(A, (7, 5, 3)), "table 7 5 3[a]"),
        (Bitcast(A, Type(DType.BF16, 8)), "bits_bf16x8(a)"),
        (Broadcast(Load("x", AT, F32), F32X4), "splat4(x[i])"),
        (IndexValue(AT, Type(DType.F32)), "f32(i)"),
        (IndexValue(AT, F32X4, 1), "f32x4(i + 1*lane)"),
        (IndexValue(AT, F32X4, add(N, 1)), "f32x4(i + (n + 1)*lane)"),
        (Load("x", AT, F32X4, stride=N), "x[i:+4*(n)]"),
        (Dot("u8s8", A, B, C), "dot_u8s8(a, b, c)"),
        (Shuffle(SUM, C, (0, 4, 1, 5)), "shuffle(a + b, c; 0 4 1 5)"),
        (Dot("s16", A, B, C), "dot_s16(a, b, c)"),
        (ReduceLanes("any", Compare("ne", A, A), Type(DType.BOOL)), "any_lanes(a != a)"),
    ],
)
def test_values(value: Value, text: str) -> None:
    assert format_value(value) == text
