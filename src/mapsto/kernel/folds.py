"""Folds that kernels are made of: the place of an extreme, a sum of exponentials, mean and squared deviation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, sym
from mapsto.kernel.ast import Const, Fold, Index, Iter, Op, Reduce, Running, Scalar, State
from mapsto.kernel.scalar import neutral

# What a fold takes in at a point, by its number among the values of that point.
ElementAt = Callable[[Dim], Scalar]


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


def exponential_sum(iters: tuple[Iter, ...], values: ElementAt, count: int, result: str) -> Fold:
    """The maximum m of values ("max"), or the sum of e^(value - m) over them ("sum"), in one pass; at each point there
    are `count` values (Milakov and Gimelshein, 2018).

    e^(value - level) is summed. Where a point has a value that is more than the headroom above the level, its largest
    is the next level, and the sum is scaled down to it. The level starts at the lowest number, below which -inf lies as
    well: it adds 0. Over -inf alone, and where a value is +inf or NaN, the sum is NaN, as inf - inf is.
    """
    dtype = values(0).dtype

    def op(fn: str, *args: Scalar) -> Scalar:
        return Op(fn, args, dtype)

    def exp(x: Scalar, level: Scalar) -> Scalar:
        return op("exp", op("sub", x, level))

    (level, level2), (total, total2), (most, most2) = (_states(n, dtype) for n in ("level", "total", "most"))
    highest = _over("max", iters, count, values, "of")
    next_level = op("select", _test("gt", op("sub", highest, level), Const(_HEADROOM, dtype)), highest, level)
    own = _over("sum", iters, count, lambda at: exp(values(at), next_level), "again")
    higher = op("select", _test("gt", level2, level), level2, level)
    both = op("add", op("mul", total, exp(level, higher)), op("mul", total2, exp(level2, higher)))
    running = (
        Running("most", Const(neutral("max", dtype), dtype), op("max", most, highest), op("max", most, most2)),
        Running("level", Const(float(-np.finfo(dtype.numpy).max), dtype), next_level, higher),
        Running("total", Const(0.0, dtype), op("fma", total, exp(level, next_level), own), both),
    )
    return Fold(iters, running, most if result == "max" else op("mul", total, exp(level, most)))


def _states(name: str, dtype: DType) -> tuple[State, State]:
    return State(name, dtype), State(name, dtype, other=True)


def _over(kind: str, iters: tuple[Iter, ...], count: int, value: ElementAt, hint: str) -> Scalar:
    """A reduction of the values of a point."""
    if count == 1:
        return value(0)
    own = Iter(f"{iters[0].name}_{hint}", count)
    return Reduce(kind, (own,), value(sym(own.name)))


# ---- mean and squared deviation --------------------------------------------------------------------------------------


def moments(iters: tuple[Iter, ...], values: ElementAt, count: int, about: Scalar, result: str) -> Scalar:
    """The mean of values ("mean"), or the sum of their squared distances from it ("squares"), in one pass; at each
    point there are `count` values. `about`: one of all the values, the same at each point.

    Welford (1962), as Chan, Golub and LeVeque (1979) merge partial results: what is squared are distances from a mean,
    so nothing cancels. Partial means are of distances from `about`, which is no farther from the mean of n values than
    sqrt(n) deviations, and the nearer the better: rounded as they are, they would be as wrong as the values are large.
    The values of a point are first taken together, so that there is one division for all of them.
    """
    dtype = about.dtype

    def op(fn: str, *args: Scalar) -> Scalar:
        return Op(fn, args, dtype)

    def near(at: Dim) -> Scalar:
        return op("sub", values(at), about)

    def squared(at: Dim) -> Scalar:
        apart = op("sub", near(at), own)
        return op("mul", apart, apart)

    (number, number2), (mean, mean2), (squares, squares2) = (_states(n, dtype) for n in ("count", "mean", "squares"))
    total = _over("sum", iters, count, near, "of")
    own = op("mul", total, Const(1.0 / count, dtype)) if count > 1 else total
    spread = _over("sum", iters, count, squared, "again") if count > 1 else Const(0.0, dtype)

    def merged(n: Scalar, m: Scalar, q: Scalar) -> tuple[Scalar, Scalar, Scalar]:
        """Count, mean and squares together with those of n values more."""
        both = op("add", number, n)
        distance = op("sub", m, mean)
        moved = op("mul", distance, op("div", n, op("max", both, Const(1.0, dtype))))
        between = op("mul", op("mul", moved, number), distance)
        return both, op("add", mean, moved), op("add", op("add", squares, q), between)

    steps = merged(Const(float(count), dtype), own, spread)
    merges = merged(number2, mean2, squares2)
    names = ("count", "mean", "squares")
    running = tuple(Running(n, Const(0.0, dtype), s, m) for n, s, m in zip(names, steps, merges, strict=True))
    return op("add", Fold(iters, running, mean), about) if result == "mean" else Fold(iters, running, squares)
