"""Bounds before a conversion that saturates: left out where they are the integers' own, with the same results."""

from __future__ import annotations

import numpy as np
import pytest

from mapsto.devices.generic.saturation import RoundedToByte, conversions_whole, quantised, saturated
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.kernel.ast import Cast, Const, Iter, Load, Op, Scalar, Stmt
from mapsto.kernel.scalar import apply, convert
from mapsto.loop.arithmetic import nearest

F32, F64 = DType.F32, DType.F64
X = Load("x", (), F32)
HARD = np.array([
    np.nan, np.inf, -np.inf, -0.0, 0.5, -0.5, 254.9, 255, 256, 127, 128, -128, -129, 1e9, -1e9, 40000, -40000,
])  # fmt: skip


def bounded(low: float | None, high: float | None, swapped: bool = False) -> Scalar:
    value: Scalar = X
    limits = [("max", low), ("min", high)]
    for fn, limit in limits[::-1] if swapped else limits:
        if limit is not None:
            value = Op(fn, (value, Const(float(limit), F32)), F32)
    return value


def numbers(e: Scalar) -> np.ndarray:
    """By the meaning of kernels."""
    if isinstance(e, Load):
        return HARD.astype(np.float32)
    if isinstance(e, Const):
        return np.asarray(e.value, np.float32)
    if isinstance(e, Cast):
        return convert(numbers(e.arg), e.dtype)
    assert isinstance(e, Op)
    return apply(e.fn, [numbers(arg) for arg in e.args], e.dtype)


CASES = [
    (DType.U8, 0, 255, None), (DType.I8, -128, 127, None), (DType.I16, 0, 255, DType.U8), (DType.I32, 0, 255, DType.U8),
    (DType.I16, -128, 127, DType.I8), (DType.U8, -3, 300, None), (DType.U8, 0, None, None), (DType.I8, None, 127, None),
]  # fmt: skip


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("to, low, high, by", CASES)
def test_left_out(to: DType, low: float | None, high: float | None, by: DType | None, swapped: bool) -> None:
    value = Cast(bounded(low, high, swapped), to)
    assert saturated(value) == (X, by)
    inner = X if by is None else Cast(X, by)
    np.testing.assert_array_equal(numbers(Cast(inner, to)), numbers(value))


@pytest.mark.parametrize(
    "to, low, high",
    [(DType.U8, 1, 255), (DType.U8, 0, 254), (DType.I16, 0, 127), (DType.U16, -128, 127), (DType.I8, 0, 255)],
)
def test_bounds_that_stay(to: DType, low: float, high: float) -> None:
    value = Cast(bounded(low, high), to)
    assert saturated(value) == (value.arg, None)


def test_other_conversions() -> None:
    whole = Load("i", (), DType.I32)
    for value in (Cast(bounded(0, 255), F64), Cast(whole, DType.U8), Cast(bounded(0, 1), DType.BOOL)):
        assert saturated(value) == (value.arg, None)


def rounded(zero: float | None, value: Scalar = X) -> Scalar:
    made: Scalar = Op("round", (value,), F32)
    return made if zero is None else Op("add", (made, Const(float(zero), F32)), F32)


def within(value: Scalar, low: float = 0, high: float = 255) -> Scalar:
    for fn, limit in (("max", low), ("min", high)):
        value = Op(fn, (value, Const(float(limit), F32)), F32)
    return value


@pytest.mark.parametrize("to", [DType.U8, DType.I16, DType.I32])
@pytest.mark.parametrize("zero", [None, 0, 3, 255, -128])
def test_rounded_to_a_byte(zero: int | None, to: DType) -> None:
    value = Cast(within(rounded(zero)), to)
    by = zero or 0
    assert quantised(value) == RoundedToByte(X, -by, 255 - by, by)
    found = nearest(HARD.astype(np.float32), -by, 255 - by) + by
    np.testing.assert_array_equal(found, numbers(value))


@pytest.mark.parametrize(
    "value",
    [
        Cast(within(X), DType.U8), Cast(within(rounded(0.5)), DType.U8), Cast(within(rounded(3), 0, 254), DType.I16),
        Cast(within(rounded(3), -128, 127), DType.I8), Cast(within(rounded(3, Load("d", (), F64))), DType.I8),
        Cast(within(rounded(1e6)), DType.U8),
    ],
)  # fmt: skip
def test_other_roundings_are_done_step_by_step(value: Cast) -> None:
    assert quantised(value) is None


def steps() -> list[Stmt]:
    """a = round(x), b = max(a, 0), c = min(b, 255), q = u8(c)."""
    i = (Iter("i", 40),)

    def at(name: str) -> Load:
        return Load(name, (sym("i"),), F32)

    return [
        Stmt("a", F32, i, Op("round", (at("x"),), F32)),
        Stmt("b", F32, i, Op("max", (at("a"), Const(0.0, F32)), F32)),
        Stmt("c", F32, i, Op("min", (at("b"), Const(255.0, F32)), F32)),
        Stmt("q", DType.U8, i, Cast(at("c"), DType.U8)),
    ]


def test_steps_of_a_conversion_are_one() -> None:
    (whole,) = conversions_whole(steps(), ())
    assert isinstance(whole.value, Cast) and quantised(whole.value) is not None


@pytest.mark.parametrize("kept, left", [("a", "aq"), ("b", "abq"), ("c", "abcq")])
def test_steps_that_are_stored_or_read_again_stay(kept: str, left: str) -> None:
    assert "".join(stmt.target for stmt in conversions_whole(steps(), (kept,))) == left
    again = Stmt("r", F32, (Iter("i", 40),), Op("exp", (Load(kept, (sym("i"),), F32),), F32))
    assert "".join(stmt.target for stmt in conversions_whole([*steps(), again], ())) == left + "r"
