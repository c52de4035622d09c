"""Conversions of floats to integers saturate, and make 0 of NaN, which bounds hand on: bounds that are those of the
integers change nothing before them.

    u8(min(max(x, 0), 255))   ->   u8(x)
    i16(min(max(x, 0), 255))  ->   i16(u8(x))

Of what is rounded and converted to a byte, both are one instruction (`loop.ast.Nearest`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.kernel.ast import Cast, Const, Load, Op, Scalar, Stmt, children
from mapsto.kernel.compose import inline, loads_of

_BYTES = (DType.U8, DType.I8)


def saturated(e: Cast) -> tuple[Scalar, DType | None]:
    """What is converted, without such bounds, and the bytes that it is converted to before (None: none)."""
    to = e.dtype
    if not (to.is_integer and e.arg.dtype.is_float) or to.is_storage:
        return e.arg, None
    value, low, high = _bounded(e.arg)
    for by in (to, *_BYTES):
        limits = np.iinfo(by.numpy)
        if by is to and low <= limits.min and high >= limits.max:
            return value, None
        if by.size < to.size and (low, high) == (limits.min, limits.max) and (to.is_signed or not by.is_signed):
            return value, by
    return e.arg, None


@dataclass(frozen=True)
class RoundedToByte:
    """value, rounded to the nearest integer between low and high, plus zero."""

    value: Scalar
    low: int
    high: int
    zero: int


def quantised(e: Cast) -> RoundedToByte | None:
    """What is rounded, moved by a whole number and bounded to a byte without sign, of which NaN makes the least: in f32

        u8(round(x) + p)  ==  nearest(x between -p and 255 - p) + p
    """
    value, by = saturated(e)
    limits = np.iinfo(np.uint8)
    if (by or e.dtype) is not DType.U8 or value.dtype is not DType.F32:
        return None
    zero = 0
    if isinstance(value, Op) and value.fn == "add":
        moved = next((arg for arg in value.args if isinstance(arg, Const)), None)
        if moved is None or not float(moved.value).is_integer() or abs(moved.value) > limits.max:
            return None
        zero, value = int(moved.value), next(arg for arg in value.args if arg is not moved)
    if not isinstance(value, Op) or value.fn != "round":
        return None
    return RoundedToByte(value.args[0], int(limits.min) - zero, int(limits.max) - zero, zero)


_ON_THE_WAY = ("min", "max", "add", "round")


def conversions_whole(stmts: Sequence[Stmt], kept: Collection[str]) -> tuple[Stmt, ...]:
    """Statements with roundings and bounds in the conversions that alone read them. kept: targets that are stored."""
    counts = Counter(load.tensor for stmt in stmts for load in loads_of(stmt))
    done: list[Stmt] = []
    for stmt in stmts:
        if isinstance(stmt.value, Cast) and stmt.value.dtype.is_integer and stmt.value.arg.dtype.is_float:
            while (source := _on_the_way(stmt, done)) is not None:
                if counts[source.target] != 1 or source.target in kept:
                    break
                done.remove(source)
                stmt = inline(stmt, source)
        done.append(stmt)
    return tuple(done)


def _on_the_way(stmt: Stmt, before: Sequence[Stmt]) -> Stmt | None:
    """The statement of what is converted, before its bounds and its rounding."""
    value: Scalar | None = stmt.value
    while isinstance(value, Cast) or (isinstance(value, Op) and value.fn in _ON_THE_WAY):
        value = next((a for a in children(value) if not isinstance(a, Const)), None)
    found = next((each for each in before if isinstance(value, Load) and each.target == value.tensor), None)
    return found if found is not None and isinstance(found.value, Op) and found.value.fn in _ON_THE_WAY else None


def _bounded(e: Scalar) -> tuple[Scalar, float, float]:
    """A value before bounds that are constant, and these."""
    low, high = -np.inf, np.inf
    while isinstance(e, Op) and e.fn in ("min", "max"):
        bound = next((arg for arg in e.args if isinstance(arg, Const)), None)
        if bound is None or bound.value != bound.value:
            break
        number = float(bound.value)
        if e.fn == "min":
            high = min(high, number)
        else:
            low = max(low, number)
        if low > high:
            break
        e = next(arg for arg in e.args if arg is not bound)
    return e, low, high
