"""Kernels print as mathematics."""

import math

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.kernel.ast import Cast, Const, Index, Iter, Kernel, Load, Op, Reduce, Scan, Stmt, Tensor, Where
from mapsto.kernel.text import kernel_text, scalar_text, statement_text

F32 = DType.F32


def _op(fn, *args, dtype=F32):
    return Op(fn, args, dtype)


def _load(name, *index):
    return Load(name, index, F32)


def test_convolution():
    n, o, y, x, c, i, j = (sym(s) for s in "noyxcij")
    inside = _load("x", n, c, y + i - 1, x + j - 1)
    guards = (y + i - 1, 55 - (y + i - 1), x + j - 1, 55 - (x + j - 1))
    product = _op("mul", Where(guards, inside, Const(0.0, F32)), _load("w", o, c, i, j))
    total = Reduce("sum", (Iter("c", 64), Iter("i", 3), Iter("j", 3)), product)
    value = _op("max", _op("add", _load("b", o), total), Const(0.0, F32))
    kernel = Kernel(
        "conv_relu",
        (Tensor("x", F32, (1, 64, 56, 56)), Tensor("w", F32, (64, 64, 3, 3)), Tensor("b", F32, (64,))),
        (Tensor("out", F32, (1, 64, 56, 56)),),
        (),
        (Stmt("out", F32, (Iter("n", 1), Iter("o", 64), Iter("y", 56), Iter("x", 56)), value),),
    )
    assert kernel_text(kernel) == (
        "kernel conv_relu(x: f32[1, 64, 56, 56], w: f32[64, 64, 3, 3], b: f32[64]) -> (out: f32[1, 64, 56, 56])\n"
        "  out[n, o, y, x] = "
        "max(b[o] + sum[c<64, i<3, j<3] (x[n, c, i + y - 1, j + x - 1] else 0) * w[o, c, i, j], 0)\n"
    )


def test_guards_that_say_more_are_written_out():
    t = sym("y") + 1
    value = Where((t, 7 - t, -sym("y")), _load("x", t), Const(-math.inf, F32))
    assert scalar_text(value, {"x": (8,)}) == "(x[y + 1] if y + 1 >= 0, -y + 6 >= 0, -y >= 0 else -inf)"


def test_parentheses_where_they_are_needed():
    a, b, c = (_load(name) for name in "abc")
    assert scalar_text(_op("sub", a, _op("sub", b, c))) == "a[] - (b[] - c[])"
    assert scalar_text(_op("sub", _op("sub", a, b), c)) == "a[] - b[] - c[]"
    assert scalar_text(_op("mul", _op("add", a, b), _op("neg", c))) == "(a[] + b[]) * -c[]"
    assert (
        scalar_text(_op("mul", Reduce("sum", (Iter("i", 2),), _op("add", a, b)), c)) == "(sum[i<2] (a[] + b[])) * c[]"
    )
    assert scalar_text(_op("and", _op("lt", a, b, dtype=DType.BOOL), Const(True, DType.BOOL))) == "a[] < b[] and true"


def test_leaves():
    assert scalar_text(Cast(Index(sym("i") * 2), F32)) == "f32(<2*i>)"
    assert [scalar_text(Const(v, F32)) for v in (1.0, 0.1, 1 / 3, -2.0)] == ["1", "0.1", "0.3333333333333333", "-2"]


def test_iterators_are_said_where_they_are_not_the_axes():
    stmt = Stmt("out", F32, (Iter("i", 4),), _load("x", sym("i")), index=(sym("i") + 2,))
    assert statement_text(stmt, {"out": (6,)}) == "out[i + 2] = x[i]  for i < 4"
    assert statement_text(Stmt("out", F32, (), Const(1.0, F32), index=(3,))) == "out[3] = 1"


def test_scan():
    stmt = Stmt("out", F32, (Iter("i", sym("n")),), _load("x", sym("i")), scan=Scan("i", "sum", exclusive=True))
    assert statement_text(stmt, {"out": (sym("n"),)}) == "out[i] = scan[i: sum, exclusive] x[i]"
