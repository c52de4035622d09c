"""A function inlined into another one does what it does by itself."""

from __future__ import annotations

import numpy as np
from tests.loop.helpers import fresh_names

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import add, mul, sym
from mapsto.loop.ast import (
    Alloc,
    Binary,
    Declare,
    For,
    Function,
    Gather,
    IndexValue,
    Let,
    LetIndex,
    Load,
    Param,
    Scatter,
    Store,
    Type,
    Var,
)
from mapsto.loop.inlining import PartOf, inlined
from mapsto.loop.interpret import interpret

F32, I64 = Type(DType.F32), Type(DType.I64)


def _function() -> Function:
    """out[r] = a[r] + a[n - 1 - r], by way of a local array, a variable, a loaded and a computed index."""
    r = sym("r")
    body = (
        Alloc("kept", DType.F32, 1),
        For("r", sym("begin"), sym("end"), (
            LetIndex("other", add(sym("n"), add(mul(r, -1), -1))),
            Let("x", Load("a", r, F32)),
            Declare("y", Gather("a", IndexValue(sym("other"), I64), F32)),
            Store("kept", 0, Binary("add", Var("x", F32), Var("y", F32))),
            Scatter("out", IndexValue(r, I64), Load("kept", 0, F32)),
        )),
    )  # fmt: skip
    return Function("f", (Param("a", DType.F32), Param("out", DType.F32, True)), ("n",), body)


def _twice() -> Function:
    """Both halves of a buffer of 2*m, one after the other, from its second element on."""
    fresh, arrays, body = fresh_names(), [], []
    for half in range(2):
        start = add(mul(sym("m"), half), 1)
        operands = {"a": PartOf("p", start), "out": PartOf("q", start)}
        own, made = inlined(_function(), (0, sym("m")), operands, {"n": sym("m")}, fresh)
        arrays += own
        body += made
    whole = For("item", sym("begin"), sym("end"), tuple(body))
    return Function("g", (Param("p", DType.F32), Param("q", DType.F32, True)), ("m",), (*arrays, whole))


def test_parts_have_names_buffers_and_ranges_of_their_own() -> None:
    whole = _twice()
    assert [type(s) for s in whole.body] == [Alloc, Alloc, For]
    p = np.arange(9, dtype=np.float32) ** 2
    q = np.full(9, -1, np.float32)
    interpret(whole, [p, q], {"m": 4}, 0, 1)
    assert q[0] == -1
    for at in (1, 5):
        np.testing.assert_array_equal(q[at : at + 4], p[at : at + 4] + p[at : at + 4][::-1])


def test_names_do_not_meet() -> None:
    names = [s.var for s in _twice().body[-1].body if isinstance(s, For)]  # type: ignore[union-attr]
    assert len(set(names)) == 2
