"""Folds: what they promise (a step is a merge with one point, merges do not see order), and their oracle."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import floordiv, sym
from mapsto.kernel.ast import (
    Cast,
    Const,
    Fold,
    Index,
    Iter,
    Kernel,
    Load,
    Op,
    Running,
    Scalar,
    State,
    Stmt,
    Tensor,
    over_nothing,
    over_one_point,
    simplify_scalar,
    substitute_iters,
    transform,
    walk,
    with_states,
)
from mapsto.kernel.compose import complexity, index_loads, inline, is_map, points, positional
from mapsto.kernel.facts import facts
from mapsto.kernel.folds import ElementAt, exponential_sum, extreme_place, moments
from mapsto.kernel.interpret import NEIGHBOURS, run_kernel
from mapsto.kernel.text import statement_text

F32, F64, I32, I64 = DType.F32, DType.F64, DType.I32, DType.I64
Array = np.ndarray
r, i = sym("r"), sym("i")

EXTREMES = [(kind, last) for kind in ("max", "min") for last in (False, True)]


def extreme(kind: str, last: bool, dtype: DType, extent: int = 64) -> Fold:
    return extreme_place(kind, Iter("r", extent), Load("x", (r,), dtype), last)


def squares_of(iters: tuple[Iter, ...], values: ElementAt) -> Fold:
    fold = moments(iters, values, 1, Load("x", (0,), F64), "squares")
    assert isinstance(fold, Fold)
    return fold


FOLDS = {
    **{f"{kind} {last} {t}": extreme(kind, last, t) for kind, last in EXTREMES for t in (F64, DType.I8, DType.U8)},
    "exponentials": exponential_sum((Iter("r", 64),), lambda k: Load("x", (r,), F64), 1, "sum"),
    "moments": squares_of((Iter("r", 64),), lambda k: Load("x", (r,), F64)),
}


# ---- one partial state, by hand --------------------------------------------------------------------------------------


def evaluated(e: Scalar, at: int, x: Array) -> Array:
    """An expression without states at one point."""
    stmt = Stmt("out", e.dtype, (Iter("one", 1),), substitute_iters(e, {"r": at}))
    shape = (Tensor("x", next((n.dtype for n in walk(e) if isinstance(n, Load)), F64), (len(x),)),)
    used = shape if any(isinstance(n, Load) for n in walk(e)) else ()
    kernel = Kernel("k", used, (Tensor("out", e.dtype, (1,)),), (), (stmt,))
    return run_kernel(kernel, {"x": x} if used else {})["out"][0]


States = dict[str, Const]


def start(fold: Fold) -> States:
    return {q.name: q.start for q in fold.running}


def stepped(fold: Fold, states: States, at: int, x: Array) -> States:
    known: dict[str, Scalar] = dict(states)
    return {q.name: _const(evaluated(with_states(q.step, known), at, x), q.dtype) for q in fold.running}


def merged(fold: Fold, a: States, b: States, x: Array) -> States:
    def both(e: Scalar) -> Scalar:
        return transform(e, lambda n: (b if n.other else a)[n.name] if isinstance(n, State) else None)

    return {q.name: _const(evaluated(both(q.merge), 0, x), q.dtype) for q in fold.running}


def _const(value: Array, dtype: DType) -> Const:
    return Const(value.item(), dtype)


def partial(fold: Fold, places: Sequence[int], x: Array) -> States:
    states = start(fold)
    for at in places:
        states = stepped(fold, states, at, x)
    return states


def result(fold: Fold, states: States, x: Array) -> Array:
    return evaluated(with_states(fold.result, dict(states)), 0, x)


def same(a: States, b: States) -> bool:
    return all(np.allclose(a[k].value, b[k].value, rtol=1e-9, atol=1e-12, equal_nan=True) for k in a)


def numbers(name: str, values: list[float]) -> Array:
    fold = FOLDS[name]
    dtype = next(n.dtype for step in fold.steps for n in walk(step) if isinstance(n, Load))
    if dtype.is_float:
        return np.array(values, dtype.numpy)
    return np.array([0 if not math.isfinite(v) else int(v) % 128 for v in values], dtype.numpy)


elements = st.sampled_from([0.0, 1.0, 1.0, 2.5, -3.0, 40.0, -700.0, math.inf, -math.inf, math.nan])
finite = st.sampled_from([0.0, 1.0, 1.0, 2.5, -3.0, 40.0, -700.0, 1e4])


@pytest.mark.parametrize("name", FOLDS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_a_step_is_a_merge_with_one_point(name: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(finite if name == "moments" else elements, min_size=1, max_size=6))
    fold, x = FOLDS[name], numbers(name, values)
    before = partial(fold, range(len(x) - 1), x)
    one = stepped(fold, start(fold), len(x) - 1, x)
    found, expected = merged(fold, before, one, x), stepped(fold, before, len(x) - 1, x)
    if name == "exponentials":  # of one meaning at any level
        found, expected = ({"sum": _const(result(fold, s, x), F64)} for s in (found, expected))
    assert same(found, expected)


@pytest.mark.parametrize("name", FOLDS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_partial_states_of_any_points_merge_either_way(name: str, data: st.DataObject) -> None:
    """Lanes hold every n-th point: the result is that of all points in order, whichever state comes first."""
    values = data.draw(st.lists(finite if name == "moments" else elements, min_size=2, max_size=7))
    fold, x = FOLDS[name], numbers(name, values)
    chosen = data.draw(st.sets(st.integers(0, len(x) - 1)))
    a = partial(fold, sorted(chosen), x)
    b = partial(fold, [k for k in range(len(x)) if k not in chosen], x)
    whole = partial(fold, range(len(x)), x)
    ways = (whole, merged(fold, a, b, x), merged(fold, b, a, x), merged(fold, start(fold), whole, x))
    results = [result(fold, s, x) for s in ways]
    for found in results[1:]:
        np.testing.assert_allclose(found, results[0], rtol=1e-9, atol=1e-12)


# ---- the oracle ------------------------------------------------------------------------------------------------------


def run_fold(fold: Scalar, x: Array, index: tuple = ()) -> Array:
    """A fold over the last axis of x, for each row."""
    dtype = next(n.dtype for n in walk(fold) if isinstance(n, Load))
    rows = tuple(Iter(name, extent) for name, extent in zip("ab", x.shape, strict=False))[: x.ndim - 1]
    stmt = Stmt("out", fold.dtype, rows, fold)
    kernel = Kernel("k", (Tensor("x", dtype, x.shape),), (Tensor("out", fold.dtype, x.shape[:-1]),), (), (stmt,))
    with np.errstate(all="ignore"):
        return run_kernel(kernel, {"x": x})["out"]


@pytest.mark.parametrize(("kind", "last"), EXTREMES)
@pytest.mark.parametrize("extent", [1, 2, NEIGHBOURS, NEIGHBOURS + 1, 5 * NEIGHBOURS + 3])
def test_places_of_extremes(kind: str, last: bool, extent: int) -> None:
    rng = np.random.default_rng(extent)
    x = rng.integers(-3, 3, (4, 3, extent)).astype(np.float32)
    x[1, :, rng.integers(extent)] = np.nan
    x[2] = -np.inf if kind == "max" else np.inf
    fold = extreme_place(kind, Iter("r", extent), Load("x", (sym("a"), sym("b"), r), F32), last)
    find = np.argmax if kind == "max" else np.argmin
    expected = extent - 1 - find(x[..., ::-1], axis=-1) if last else find(x, axis=-1)
    np.testing.assert_array_equal(run_fold(fold, x), expected)


def test_the_place_counts_in_64_bits_where_an_extent_may_need_them() -> None:
    x = Load("x", (r,), DType.U8)
    found = [extreme_place("max", Iter("r", n), x, False).dtype for n in (1 << 31, (1 << 31) - 1, sym("n"))]
    assert found == [I64, I32, I64]


@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_exponentials_in_one_pass(at_once: int) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((6, 120)).astype(np.float64) * 30
    x[1] = np.linspace(-900, 900, 120)  # every value raises the level
    x[2, 5] = -np.inf
    x[3] = -np.inf
    x[4, 7] = np.nan
    x[5, 100] = np.inf
    part = 120 // at_once
    fold = functools.partial(exponential_sum, (Iter("r", part),), lambda k: Load("x", (sym("a"), r + k * part), F64))
    most, total = (run_fold(fold(at_once, which), x) for which in ("max", "sum"))
    with np.errstate(all="ignore"):
        expected = np.exp(x - x.max(-1, keepdims=True)).sum(-1)
    np.testing.assert_array_equal(most, x.max(-1))
    np.testing.assert_allclose(total, expected, rtol=1e-12)


@pytest.mark.parametrize("at_once", [1, 4, 8])
def test_moments_in_one_pass(at_once: int) -> None:
    """A large mean cancels nothing: no less exact than two passes over f32."""
    x = (1e4 + np.random.default_rng(4).standard_normal((3, 4000))).astype(np.float32)
    x[1, 7] = -3e6  # far from all others
    x[2] = 7.0
    part = 4000 // at_once
    about = Load("x", (sym("a"), 0), F32)
    fold = functools.partial(moments, (Iter("r", part),), lambda k: Load("x", (sym("a"), r + k * part), F32), at_once)
    mean, squares = (run_fold(fold(about, which), x) for which in ("mean", "squares"))
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(-1), rtol=2e-7)
    np.testing.assert_allclose(squares, exact.var(-1) * 4000, rtol=2e-6)
    assert squares[2] == 0


def test_over_nothing_and_over_one_point() -> None:
    for name, fold in FOLDS.items():
        x = numbers(name, [2.5])
        nothing = evaluated(over_nothing(fold), 0, x)
        np.testing.assert_array_equal(nothing, result(fold, start(fold), x))
        np.testing.assert_array_equal(evaluated(over_one_point(fold), 0, x), result(fold, partial(fold, [0], x), x))
    empty = run_fold(extreme("max", False, F32, 0), np.zeros((0,), np.float32))
    assert empty.tolist() == 0


def test_several_iterators_are_walked_in_order_and_folds_nest() -> None:
    """The last place of the largest row sum: a fold whose step is a fold, over two iterators."""
    inner = Fold(
        (Iter("r", 5),),
        (Running("best", Const(0.0, F64), Op("add", (State("best", F64), Load("x", (i, sym("j"), r), F64)), F64),
                 Op("add", (State("best", F64), State("best", F64, True)), F64)),),
        State("best", F64),
    )  # fmt: skip
    outer = extreme_place("max", Iter("j", 4), inner, True)
    place = Index(i * 4 + sym("j"), I32)
    places = Fold(
        (Iter("i", 3), Iter("j", 4)),
        tuple(Running(q.name, q.start, _in_place(q.step, place), q.merge) for q in outer.running),
        outer.result,
    )
    x = np.random.default_rng(5).integers(0, 3, (3, 4, 5)).astype(np.float64)
    kernel = Kernel("k", (Tensor("x", F64, (3, 4, 5)),), (Tensor("out", I32, ()),), (), (Stmt("out", I32, (), places),))
    sums = x.sum(-1).ravel()
    assert run_kernel(kernel, {"x": x})["out"] == 11 - np.argmax(sums[::-1])


def _in_place(step: Scalar, place: Scalar) -> Scalar:
    return transform(step, lambda n: place if isinstance(n, Index) else None)


# ---- as kernels see them ---------------------------------------------------------------------------------------------


def summed(value: Scalar) -> Fold:
    total = State("t", F32)
    both = Op("add", (total, State("t", F32, True)), F32)
    running = Running("t", Const(0.0, F32), Op("add", (total, value), F32), both)
    return Fold((Iter("r", sym("n")),), (running,), total)


def test_text() -> None:
    stmt = Stmt("out", F32, (Iter("i", 3),), Op("mul", (summed(Load("x", (i, r), F32)), Const(2.0, F32)), F32))
    text = "out[i] = fold[r<n](t = 0 -> t + x[i, r] & t + t': t) * 2"
    assert statement_text(stmt, {"out": (3,)}) == text


def test_what_is_asked_of_scalars_is_asked_of_folds() -> None:
    fold = summed(Cast(Load("x", (floordiv(i, sym("n")), r), DType.F16), F32))
    told = facts(fold)
    assert told.reduces and not told.moves and told.divides and told.tensors == {"x"}
    stmt = Stmt("out", F32, (Iter("i", 3),), fold)
    assert not is_map(stmt) and not index_loads(stmt) and complexity(stmt) == 3
    assert points(stmt, told.loads[0]) == 3 * sym("n")


def test_a_producer_is_composed_into_the_steps() -> None:
    turned = Op("exp", (Load("y", (sym("b"), sym("a")), F32),), F32)
    producer = Stmt("x", F32, (Iter("a", 3), Iter("b", sym("n"))), turned)
    stmt = Stmt("out", F32, (Iter("i", 3),), summed(Load("x", (i, r), F32)))
    made = inline(stmt, producer)
    assert made.value == summed(Op("exp", (Load("y", (r, i), F32),), F32))
    named = positional(made, "q")
    assert statement_text(named) == "out[q0] = fold[q1<n](t = 0 -> t + exp(y[q1, q0]) & t + t': t)  for q0 < 3"
    low = simplify_scalar(summed(Load("x", (floordiv(r, sym("n")), r), F32)), {})
    assert {n.index for n in walk(low) if isinstance(n, Load)} == {(0, r)}
