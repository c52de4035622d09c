"""Folds that kernels are made of: the place of an extreme, a sum of exponentials, mean and squared deviation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.kernel.ast import Const, Fold, Index, Iter, Op, Running, Scalar, State
from mapsto.kernel.scalar import neutral


def together(parts: Sequence[Scalar], combine: Callable[[Scalar, Scalar], Scalar]) -> Scalar:
    """One of many, neighbours first."""
    while len(parts) > 1:
        pairs = [combine(a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = [*pairs, parts[-1]] if len(parts) % 2 else pairs
    return parts[0]


# ---- the place of an extreme -----------------------------------------------------------------------------------------


def extreme_place(kind: str, along: Iter, value: Scalar, last: bool) -> Fold:
    """Where along an iterator a value is largest or smallest (`kind` max, min); a NaN is more extreme than any number.

    The place starts as one that no element of the start's value comes before (or after): 0, or -1 for the last.
    """
    start = neutral(kind, value.dtype)
    counts = DType.I32 if isinstance(along.extent, int) and along.extent < 1 << 31 else DType.I64
    best, at = State("best", value.dtype), State("at", counts)
    best2, at2 = State("best", value.dtype, other=True), State("at", counts, other=True)
    place = Index(sym(along.name), counts)
    later = _extremer(kind, value, best, ties=last)
    tie = _test("and", _same(best2, best), _test("gt" if last else "lt", at2, at))
    second = _test("or", _extremer(kind, best2, best, ties=False), tie)

    def running(state: State, first: float | int | bool, step: Scalar, other: State) -> Running:
        merge = Op("select", (second, other, state), state.dtype)
        return Running(state.name, Const(first, state.dtype), Op("select", (later, step, state), state.dtype), merge)

    return Fold((along,), (running(best, start, value, best2), running(at, -1 if last else 0, place, at2)), at)


def _test(fn: str, *args: Scalar) -> Scalar:
    return Op(fn, args, DType.BOOL)


def _extremer(kind: str, x: Scalar, best: Scalar, ties: bool) -> Scalar:
    """Whether x takes the place of `best`: it is beyond it (or, with `ties`, as far), or NaN and `best` is not (or is).

    Comparisons with NaN do not hold, so x is beyond or NaN where it is not within.
    """
    if not x.dtype.is_float:
        return _test(("gt", "lt", "ge", "le")[2 * ties + (kind == "min")], x, best)
    within = _test(("le", "ge", "lt", "gt")[2 * ties + (kind == "min")], x, best)
    number = _test("eq", best, best)
    return _test("and", _test("not", within), _test("or", number, _test("isnan", x)) if ties else number)


def _same(a: Scalar, b: Scalar) -> Scalar:
    equal = _test("eq", a, b)
    if not a.dtype.is_float:
        return equal
    return _test("or", equal, _test("and", _test("isnan", a), _test("isnan", b)))


# ---- sums of exponentials --------------------------------------------------------------------------------------------

# How far a value may be above the level before the level is raised: e^16 is far from the end of f32, and what was
# summed is scaled so seldom that its roundings do not add up.
_HEADROOM = 16.0


def exponential_sum(iters: tuple[Iter, ...], values: Sequence[Scalar], result: str) -> Fold:
    """The maximum m of values ("max"), or the sum of e^(value - m) over them ("sum"), in one pass; at each point there
    are several values (Milakov and Gimelshein, 2018).

    e^(value - level) is summed. Where a point has a value that is more than the headroom above the level, its largest
    is the next level, and the sum is scaled down to it. The level starts at the lowest number, below which -inf lies as
    well: it adds 0. Over -inf alone, and where a value is +inf or NaN, the sum is NaN, as inf - inf is; a maximum
    beside a NaN is NaN (of +inf and NaN it is +inf).
    """
    dtype = values[0].dtype

    def op(fn: str, *args: Scalar) -> Scalar:
        return Op(fn, args, dtype)

    def exp(x: Scalar, level: Scalar) -> Scalar:
        return op("exp", op("sub", x, level))

    def larger(a: Scalar, b: Scalar) -> Scalar:
        """The larger one; beside a NaN the second."""
        return op("select", _test("gt", a, b), a, b)

    def states(name: str) -> tuple[State, State]:
        return State(name, dtype), State(name, dtype, other=True)

    (level, level2), (total, total2), (most, most2) = states("level"), states("total"), states("most")
    highest = together(values, larger)
    raised = _test("gt", op("sub", highest, level), Const(_HEADROOM, dtype))
    next_level = op("select", raised, highest, level)
    own = together([exp(v, next_level) for v in values], lambda a, b: op("add", a, b))
    higher = larger(level2, level)
    both = op("add", op("mul", total, exp(level, higher)), op("mul", total2, exp(level2, higher)))
    running = (
        Running("most", Const(neutral("max", dtype), dtype), larger(highest, most), larger(most2, most)),
        Running("level", Const(float(-np.finfo(dtype.numpy).max), dtype), next_level, higher),
        Running("total", Const(0.0, dtype), op("fma", total, exp(level, next_level), own), both),
    )
    if result == "sum":
        return Fold(iters, running, op("mul", total, exp(level, most)))
    lost = _test("and", _test("isnan", total), _test("lt", most, Const(math.inf, dtype)))
    return Fold(iters, running, op("select", lost, Const(math.nan, dtype), most))


# ---- mean and squared deviation --------------------------------------------------------------------------------------


def moments(iters: tuple[Iter, ...], values: Sequence[Scalar], about: Scalar, result: str) -> Scalar:
    """The mean of values ("mean"), or the sum of their squared distances from it ("squares"), in one pass; at each
    point there are several values. `about`: one of all the values, the same at each point.

    Welford (1962), as Chan, Golub and LeVeque (1979) merge partial results: what is squared are distances from a mean,
    so nothing cancels. Partial means are of distances from `about`, which is no farther from the mean of n values than
    sqrt(n) deviations, and the nearer the better: rounded as they are, they would be as wrong as the values are large.
    The values of a point are first taken together, so that there is one division for all of them.
    """
    dtype = about.dtype

    def op(fn: str, *args: Scalar) -> Scalar:
        return Op(fn, args, dtype)

    def total(parts: Sequence[Scalar]) -> Scalar:
        return together(parts, lambda a, b: op("add", a, b))

    number = float(len(values))
    count, count2 = State("count", dtype), State("count", dtype, other=True)
    mean, mean2 = State("mean", dtype), State("mean", dtype, other=True)
    squares, squares2 = State("squares", dtype), State("squares", dtype, other=True)
    near = [op("sub", v, about) for v in values]
    own = op("mul", total(near), Const(1.0 / number, dtype)) if len(near) > 1 else near[0]
    apart = [op("sub", v, own) for v in near]
    spread = total([op("mul", d, d) for d in apart]) if len(near) > 1 else Const(0.0, dtype)

    def merged(n: Scalar, m: Scalar, q: Scalar) -> tuple[Scalar, Scalar, Scalar]:
        """Count, mean and squares together with those of n values more."""
        both = op("add", count, n)
        share = op("div", n, op("max", both, Const(1.0, dtype)))
        distance = op("sub", m, mean)
        moved = op("mul", distance, share)
        between = op("mul", op("mul", moved, count), distance)
        return both, op("add", mean, moved), op("add", op("add", squares, q), between)

    steps = merged(Const(number, dtype), own, spread)
    merges = merged(count2, mean2, squares2)
    names = ("count", "mean", "squares")
    running = tuple(Running(n, Const(0.0, dtype), s, m) for n, s, m in zip(names, steps, merges, strict=True))
    return op("add", Fold(iters, running, mean), about) if result == "mean" else Fold(iters, running, squares)
