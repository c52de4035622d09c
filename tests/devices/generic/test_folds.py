"""Folds through the generic lowering, interpreted and native, against the kernel interpreter."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from tests.devices.generic.support import (
    PROCESSOR,
    Array,
    Case,
    Engine,
    Native,
    all_schedules,
    check,
    floats,
    fused,
    lowered,
    one,
    rng,
)

from mapsto.devices.generic.exactness import is_rounded
from mapsto.devices.generic.one_pass import in_one_pass as in_one_pass_kernel
from mapsto.devices.generic.schedule import choose_schedule, read_schedule, schedule_text
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, sym
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Cast, Const, Fold, Iter, Kernel, Load, Op, Scalar, Stmt, Tensor
from mapsto.kernel.folds import exponential_sum, extreme_place, moments
from mapsto.kernel.interpret import run_kernel
from mapsto.loop import ast as loop
from mapsto.loop.interpret import interpret
from mapsto.ops import composite
from mapsto.ops.builder import Builder

F32 = DType.F32


def numbers(dtype: DType, *shape: int) -> Array:
    """Few different ones, so that there are ties; NaN and infinities among floats."""
    if dtype is DType.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    low = 0 if not dtype.is_float and not dtype.is_signed else -3
    x = rng.integers(low, 4, shape).astype(dtype.numpy)
    if dtype.is_float and x.size:
        flat = x.reshape(-1)
        flat[rng.integers(0, x.size, 1 + x.size // 40)] = np.nan
        flat[rng.integers(0, x.size, 1 + x.size // 30)] = -np.inf
        x.reshape(-1, x.shape[-1])[0] = -np.inf
    return x


def place_case(dtype: DType, kind: str, last: bool, axis: int, keepdims: bool, open_sizes: bool, shape: tuple) -> Case:
    names = [{k: f"n{k}" for k in range(len(shape))}] if open_sizes else []
    x = numbers(dtype, *shape)
    return one(f"arg{kind}", [x], names, axis=axis, keepdims=keepdims, select_last=last)


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if not dtype.is_storage])
def test_places_of_every_type(dtype: DType, engine: Engine) -> None:
    for at, (kind, last) in enumerate([("max", False), ("max", True), ("min", False), ("min", True)]):
        check(place_case(dtype, kind, last, 1, at % 2 == 0, at >= 2, (5, 41)), engine)


@pytest.mark.parametrize("extent", [1, 2, 15, 33, 64, 200])
def test_places_in_rows_of_many_lengths(extent: int, engine: Engine) -> None:
    check(place_case(F32, "max", extent % 2 == 0, 2, False, False, (2, 3, extent)), engine)


@pytest.mark.parametrize("last", [False, True])
def test_places_in_rows_of_open_lengths(last: bool, engine: Engine) -> None:
    kernel = place_case(F32, "min", last, 2, True, True, (2, 3, 9)).kernel
    for extent in (0, 1, 16, 17, 70, 200):
        check(Case(kernel, {"x0": numbers(F32, 2, 3, extent)}, {"n0": 2, "n1": 3, "n2": extent}), engine)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_places_along_every_axis_in_every_schedule(axis: int) -> None:
    case = place_case(F32, "max", axis == 1, axis, False, False, (9, 20, 18))
    for schedule in all_schedules(case):
        check(case, interpret, schedule)
    for lanes in (1, 4, 8):
        case.lanes = lanes
        check(case, interpret)


def test_a_place_follows_the_loop_that_makes_its_values(engine: Engine) -> None:
    """The probabilities are not read again: what is folded is what the loop just made."""
    case = fused(_likeliest, [floats(5, 83)])
    check(case, engine)
    # rows, exponentials, quotients with the fold (the maximum of six vectors is written out)
    assert len(_loops(lowered(case)[0].body)) == 3


def _likeliest(b: Builder, x: Value) -> Value:
    return b.one("argmax", [composite.softmax(b, x, 1)], axis=1, keepdims=False, select_last=False)


def _statements(body: tuple[loop.Statement, ...]) -> list[loop.Statement]:
    found: list[loop.Statement] = []
    for s in body:
        found.append(s)
        for inner in (getattr(s, "body", ()), getattr(s, "then", ()), getattr(s, "otherwise", ())):
            found += _statements(inner)
    return found


def _loops(body: tuple[loop.Statement, ...]) -> list[loop.For]:
    return [s for s in _statements(body) if isinstance(s, loop.For)]


# ---- several results, nested folds, folds beside others -------------------------------------------------------------


ROW, RED = sym("i"), sym("r")


def op(fn: str, *args: Scalar) -> Scalar:
    return Op(fn, args, F32)


def case_of(stmts: list[Stmt], x: Array, temps: tuple[str, ...], sizes: dict[str, int] | None = None) -> Case:
    shape: tuple[Dim, ...] = tuple(stmts[0].iters[0].extent if k == 0 else d for k, d in enumerate(x.shape))
    tensors = {s.target: Tensor(s.target, s.dtype, tuple(it.extent for it in s.iters)) for s in stmts}
    outputs = tuple(t for n, t in tensors.items() if n not in temps)
    kernel = Kernel("k", (Tensor("x", F32, shape),), outputs, tuple(tensors[n] for n in temps), tuple(stmts))
    return Case(kernel, {"x": x}, sizes or {})


def softmax_in_one_pass(rows: Dim, extent: int, at_once: int) -> list[Stmt]:
    part = extent // at_once
    iters, whole = (Iter("i", rows),), (Iter("i", rows), Iter("j", extent))
    parts = (Iter("r", part),)
    fold = functools.partial(exponential_sum, parts, lambda k: Load("x", (ROW, RED + k * part), F32), at_once)
    most, total = (Stmt(n, F32, iters, fold(n)) for n in ("max", "sum"))
    below = op("exp", op("sub", Load("x", (ROW, sym("j")), F32), Load("max", (ROW,), F32)))
    return [most, total, Stmt("y", F32, whole, op("div", below, Load("sum", (ROW,), F32)))]


@pytest.mark.parametrize(("at_once", "extent"), [(1, 37), (8, 264), (4, 1000)])
def test_softmax_in_one_pass(at_once: int, extent: int, engine: Engine) -> None:
    x = floats(7, extent) * 20
    x[1, ::3] = -np.inf
    x[2] = -np.inf
    x[3] = np.linspace(-80, 80, extent)
    x[4, extent // 2] = np.nan
    x[5, extent - 1] = np.inf
    check(case_of(softmax_in_one_pass(7, extent, at_once), x, ("max", "sum")), engine)
    # and it is the softmax
    with np.errstate(all="ignore"):
        exact = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
        exact /= exact.sum(-1, keepdims=True)
    stmts = softmax_in_one_pass(sym("n"), extent, at_once)
    open_rows = case_of(stmts, x, ("max", "sum"), {"n": 7})
    found = run_kernel(open_rows.kernel, {"x": x}, {"n": 7})["y"]
    np.testing.assert_allclose(found, exact, rtol=2e-5, atol=1e-30)


def test_folds_that_run_alike_share_their_loops() -> None:
    """The maximum and the sum are two results of one loop, in two statements; then one loop writes."""
    function = lowered(case_of(softmax_in_one_pass(7, 128 * 8, 8), floats(7, 1024), ("max", "sum")))[0]
    assert len(_loops(function.body)) == 3  # rows, the fold, what is written


def test_a_fold_in_a_fold(engine: Engine) -> None:
    """The row whose mean is largest; states of one name are each fold's own."""
    x = floats(6, 9, 21)
    at = (ROW, sym("j"), RED)
    mean = moments((Iter("r", 21),), lambda k: Load("x", at, F32), 1, Load("x", (*at[:2], 0), F32), "mean")
    place = extreme_place("max", Iter("j", 9), mean, False)
    stmts = [Stmt("y", DType.I32, (Iter("i", 6),), place)]
    check(case_of(stmts, x, ()), engine)
    inner = extreme_place("max", Iter("r", 21), Load("x", at, F32), False)
    largest = Fold((Iter("j", 9),), extreme_place("min", Iter("j", 9), Op("neg", (_floats(inner),), F32), True).running,
                   extreme_place("min", Iter("j", 9), Const(0.0, F32), True).result)  # fmt: skip
    check(case_of([Stmt("y", DType.I32, (Iter("i", 6),), largest)], x, ()), engine)


def _floats(e: Scalar) -> Scalar:
    return Cast(e, F32)


def test_folds_over_nothing_and_over_one_point(engine: Engine) -> None:
    for extent in (0, 1):
        x = floats(5, extent)
        place = extreme_place("max", Iter("r", extent), Load("x", (ROW, RED), F32), True)
        total = exponential_sum((Iter("r", extent),), lambda k: Load("x", (ROW, RED), F32), 1, "sum")
        stmts = [Stmt("y", DType.I32, (Iter("i", 5),), place), Stmt("z", F32, (Iter("i", 5),), total)]
        check(case_of(stmts, x, ()), engine)


def test_a_place_is_exact_and_a_sum_in_an_order_is_not() -> None:
    x = Load("x", (ROW, RED), F32)
    assert not is_rounded(extreme_place("max", Iter("r", 9), op("mul", x, Const(2.0, F32)), False), ())
    assert is_rounded(moments((Iter("r", 9),), lambda k: x, 1, x, "squares"), ())
    assert is_rounded(extreme_place("max", Iter("r", 9), x, False), {"x"})


# ---- one pass for two ----------------------------------------------------------------------------------------------


def norm_case(rows: int, extent: int, mean: float = 0.0) -> Case:
    x = (floats(rows, extent) + np.float32(mean)).astype(np.float32)
    return fused(lambda b, v: composite.normalised(b, v, [1], 1e-5)[0], [x])


def in_one_pass(case: Case) -> Case:
    """The same case, which must then be walked in one pass."""
    assert choose_schedule(case.kernel, case.all_layouts(), case.processor).one_pass
    return case


def test_long_rows_are_normalised_in_one_pass(engine: Engine) -> None:
    for case in (norm_case(3, 2048), norm_case(1, 4 * 1031)):
        assert check(in_one_pass(case), engine).one_pass
    planes = fused(lambda b, v: composite.normalised(b, v, [2, 3], 1e-5)[0], [floats(1, 3, 40, 50)])
    assert check(in_one_pass(planes), engine).one_pass


def test_a_row_is_read_twice_and_nothing_is_kept_between() -> None:
    case = norm_case(3, 2048)
    function, _, scratch, _ = lowered(case)
    assert len(_loops(function.body)) == 3 and not scratch  # rows, the fold, what is written
    kept = [s for s in _statements(function.body) if isinstance(s, loop.Alloc)]
    assert sum(s.count for s in kept) <= 16 * 3  # states of lanes


@pytest.mark.parametrize("mean", [0.0, 1e4, -3e5])
def test_one_pass_is_no_less_exact_than_two(mean: float, native: Engine) -> None:
    """Against f64: beside a large mean distances from the mean would be lost in it."""
    case = norm_case(4, 4096, mean)
    case.inputs["x0"][1, 0] += 500  # far from all others
    x = case.inputs["x0"].astype(np.float64)
    centred = x - x.mean(1, keepdims=True)
    exact = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    worst = []
    for one_pass in (True, False):
        chosen = choose_schedule(case.kernel, case.all_layouts(), case.processor)
        text = schedule_text(chosen)
        text = text if one_pass else text.removesuffix(" in one pass")
        schedule = read_schedule(text, case.kernel, case.all_layouts(), case.processor)
        assert schedule.one_pass == one_pass
        found = _run(case, native, schedule)
        worst.append(np.abs(found - exact).max())
    assert worst[0] <= 1.5 * worst[1] + 1e-6


def _run(case: Case, engine: Engine, schedule) -> Array:  # type: ignore[no-untyped-def]
    function, extent, scratch, _ = lowered(case, schedule)
    x = case.inputs["x0"]
    buffers = {t.name: case.inputs[t.name].ravel().copy() for t in case.kernel.inputs}
    out = np.zeros(x.size, np.float32)
    temps = [np.zeros(x.size, np.float32) for _ in scratch]
    engine(function, [*buffers.values(), out, *temps], {}, 0, int(extent))  # type: ignore[arg-type]
    return out.reshape(x.shape)


def test_what_stays_in_two_passes() -> None:
    """Short rows, those that do not divide, open ones; a mean that somebody else reads; exponentials in near rows."""
    cases = {
        "short": norm_case(3, 256),
        "odd": norm_case(3, 2049),
        "open": fused(lambda b, v: composite.normalised(b, v, [1], 1e-5)[0], [floats(3, 2048)], [{1: "n"}]),
        "the mean goes out": fused(lambda b, v: composite.normalised(b, v, [1], 1e-5)[:2], [floats(3, 2048)]),
        "near": fused(lambda b, v: composite.softmax(b, v, 1), [floats(3, 2048)]),
    }
    for name, case in cases.items():
        assert not choose_schedule(case.kernel, case.all_layouts(), case.processor).one_pass, name
        check(case)


def test_exponentials_of_a_far_row_in_one_pass(engine: Engine) -> None:
    """Made to be in one pass though the row is short, as a plan can say."""
    case = fused(lambda b, v: composite.softmax(b, v, 1), [floats(3, 2048) * 9])
    if isinstance(engine, Native):
        case.lanes = engine.isa.lanes(F32)
    text = schedule_text(choose_schedule(case.kernel, case.all_layouts(), case.processor)) + " in one pass"
    schedule = read_schedule(text, case.kernel, case.all_layouts(), case.processor)
    assert schedule.one_pass and schedule_text(schedule) == text
    check(case, engine, schedule)


def test_schedules_that_do_not_fit_are_refused() -> None:
    alone = one("exp", [floats(3, 40)])
    pair = norm_case(3, 2048)
    for case, text in ((alone, "inner x16 of 2 in one pass"), (pair, "inner x16 of 1 in one pass in one pass")):
        with pytest.raises(ValueError, match="in one pass"):
            read_schedule(text, case.kernel, case.all_layouts(), PROCESSOR)


def test_squares_of_squares_do_not_grow_without_end() -> None:
    """Each value between the mean and a sum is read twice: put in the places of its loads it would double each time."""

    def squared(b: Builder, x: Value) -> Value:
        y = b.one("sub", [x, composite.reduce(b, x, "mean", [1])])
        for _ in range(40):
            y = b.one("mul", [y, y])
        return composite.reduce(b, y, "sum", [1])

    assert in_one_pass_kernel(fused(squared, [floats(2, 2048)]).kernel) is None
