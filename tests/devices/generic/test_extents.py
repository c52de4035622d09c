"""Symbolic and zero extents, every element type, and kernels that hypothesis makes up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.devices.generic.support import (
    Case,
    Engine,
    Native,
    all_schedules,
    begin_anew,
    check,
    floats,
    fused,
    one,
    rng,
)

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import floordiv, mod, sym
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Cast, Const, Index, Iter, Kernel, Load, Op, Reduce, Scalar, Scan, Stmt, Tensor, Where
from mapsto.loop.interpret import interpret
from mapsto.ops import composite
from mapsto.ops.builder import Builder
from mapsto.plan.layout import blocked

# ---- symbolic ------------------------------------------------------------------------------------------------------


def softmax(n: int, k: int) -> Case:
    return fused(lambda b, x: composite.softmax(b, x, -1), [floats(n, k)], [{0: "n", 1: "k"}])


def norm_over_channels(n: int, k: int) -> Case:
    return fused(
        lambda b, x, s: b.one("mul", [composite.normalised(b, x, [1], 1e-5)[0], s]),
        [floats(n, 24, k), floats(24, 1)],
        [{0: "n", 2: "k"}],
    )


def norm_over_a_symbol(n: int, k: int) -> Case:
    """The normalised extent itself is known at run time alone: its temporaries need buffers."""
    return fused(lambda b, x: composite.normalised(b, x, [1], 1e-5)[0], [floats(n, k, 5)], [{0: "n", 1: "k"}])


def transposed(n: int, k: int) -> Case:
    return fused(lambda b, x: b.one("transpose", [b.one("exp", [x])], perm=(1, 0)), [floats(n, k)], [{0: "n", 1: "k"}])


def column_sum(n: int, k: int) -> Case:
    return fused(
        lambda b, x: b.one("reduce", [x], kind="sum", axes=(0,), keepdims=False), [floats(n, k)], [{0: "n", 1: "k"}]
    )


def total(n: int, k: int) -> Case:
    return fused(
        lambda b, x: b.one("reduce", [x], kind="sum", axes=(0, 1), keepdims=False), [floats(n, k)], [{0: "n", 1: "k"}]
    )


def padded_conv(n: int, k: int) -> Case:
    def build(b: Builder, x: Value, w: Value) -> Value:
        return b.one("conv", [x, w], strides=(1,), pads=(2, 2), dilations=(1,), group=1)

    return fused(build, [floats(n, 3, k), floats(4, 3, 5)], [{0: "n", 2: "k"}])


def running(n: int, k: int) -> Case:
    return fused(
        lambda b, x: b.one("cumsum", [x], axis=1, exclusive=True, reverse=False), [floats(n, k)], [{0: "n", 1: "k"}]
    )


def joined(n: int, k: int) -> Case:
    return fused(
        lambda b, x, y: b.one("concat", [x, y], axis=1), [floats(n, k), floats(n, 3)], [{0: "n", 1: "k"}, {0: "n"}]
    )


def channel_scale(n: int, k: int) -> Case:
    return fused(lambda b, x, y: b.one("mul", [x, y]), [floats(n, 3, k), floats(3, 1)], [{0: "n", 2: "k"}])


MAKERS = [
    softmax,
    norm_over_channels,
    norm_over_a_symbol,
    transposed,
    column_sum,
    total,
    padded_conv,
    running,
    joined,
    channel_scale,
]
SIZES = [(0, 5), (3, 0), (1, 1), (2, 16), (5, 37)]
MEASURED = [(m, *s) for m in MAKERS for s in SIZES if (m, s[1]) != (padded_conv, 0)]  # no window over nothing


@pytest.mark.parametrize(("maker", "n", "k"), MEASURED)
def test_symbolic(maker: Any, n: int, k: int) -> None:
    case = maker(n, k)
    for schedule in all_schedules(case):
        check(case, interpret, schedule)


@pytest.mark.parametrize("maker", MAKERS)
def test_symbolic_native(maker: Any, native: Native) -> None:
    check(maker(6, 75), native)


def test_wide_and_symbolic() -> None:
    for maker in (softmax, norm_over_a_symbol):
        check(maker(17, 70))


# ---- element types -------------------------------------------------------------------------------------------------

FLOATS = [DType.F16, DType.BF16, DType.F32, DType.F64]
INTEGERS = [DType.I8, DType.U8, DType.I16, DType.U16, DType.I32, DType.U32, DType.I64, DType.U64]


def sample(dtype: DType, *shape: int) -> np.ndarray:
    if dtype is DType.BOOL:
        return rng.random(shape) > 0.5
    if dtype.is_float:
        return rng.standard_normal(shape).astype(dtype.numpy)
    return rng.integers(-9 if dtype.is_signed else 0, 20, shape).astype(dtype.numpy)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
def test_arithmetic(dtype: DType, engine: Engine) -> None:
    def build(b: Builder, x: Value, y: Value) -> list[Value]:
        total = b.one("add", [b.one("mul", [x, y]), x])
        return [b.one("max", [total, y]), b.one("sub", [x, y]), b.one("lt", [x, y])]

    check(fused(build, [sample(dtype, 5, 21), sample(dtype, 21)]), engine)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, DType.BOOL])
def test_reductions(dtype: DType, engine: Engine) -> None:
    kinds = ("any", "all") if dtype is DType.BOOL else ("sum", "max", "min")

    def build(b: Builder, x: Value) -> list[Value]:
        return [b.one("reduce", [x], kind=kind, axes=(axis,), keepdims=False) for kind in kinds for axis in (0, 1)]

    check(fused(build, [sample(dtype, 19, 53)]), engine)


SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -1.0], np.float32)


@pytest.mark.parametrize("length", [3, 16, 40, 300])
def test_extremes_keep_nan(length: int, engine: Engine) -> None:
    """One NaN anywhere is the maximum and the minimum; infinities are not lost."""
    x = np.stack([np.roll(np.resize(np.concatenate([SPECIAL[1:], floats(length)]), length), k) for k in range(12)])
    x[3, length // 2] = x[7, length - 1] = x[9, 0] = np.nan

    def build(b: Builder, v: Value) -> list[Value]:
        return [b.one("reduce", [v], kind=k, axes=(axis,), keepdims=False) for k in ("max", "min") for axis in (0, 1)]

    check(fused(build, [x]), engine)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integer_division(dtype: DType, engine: Engine) -> None:
    y = sample(dtype, 40)
    y[3] = 0
    for name, attrs in (("div", {}), ("mod", {"fmod": False})):
        where = y if name == "div" else np.where(y == 0, 1, y).astype(y.dtype)
        check(one(name, [sample(dtype, 3, 40), where], **attrs), engine)


@pytest.mark.parametrize("source", [*FLOATS, *INTEGERS, DType.BOOL])
def test_casts(source: DType, engine: Engine) -> None:
    x = sample(source, 37)

    def build(b: Builder, v: Value) -> list[Value]:
        wanted = [DType.F32, DType.F64, DType.F16, DType.BF16, DType.I32, DType.I64, DType.BOOL]
        wanted += [DType.U8] if not source.is_float else []
        return [b.one("cast", [v], to=to) for to in wanted if to is not source]

    check(fused(build, [x]), engine)


@pytest.mark.parametrize("dtype", [DType.I8, DType.F16, DType.F64, DType.BOOL])
def test_movement_of_any_type(dtype: DType, engine: Engine) -> None:
    for case in (
        one("transpose", [sample(dtype, 9, 70)], perm=(1, 0)),
        one("concat", [sample(dtype, 9, 70), sample(dtype, 9, 3)], axis=1),
        one("gather", [sample(dtype, 9, 70), rng.integers(0, 9, 5)], axis=0),
    ):
        check(case, engine)


# ---- made up -------------------------------------------------------------------------------------------------------

F32 = DType.F32
EXTENTS = st.sampled_from([0, 1, 2, 3, 5, 8, 15, 16, 17, 33])


@st.composite
def kernels(draw: Any) -> Case:
    """A few statements over the same rows: maps with shifted, reversed, divided, loaded indices, reductions, scans."""
    begin_anew()  # the same example has the same numbers
    rows, inner = draw(EXTENTS), draw(EXTENTS)
    shape = (sym("r") if draw(st.booleans()) else rows, sym("k") if draw(st.booleans()) else inner)
    sizes = {"r": rows, "k": inner}
    inputs = {
        "x": floats(rows, inner),
        "w": floats(inner),
        "at": rng.integers(-inner, max(inner, 1), (rows, inner)).astype(np.int64),
    }
    tensors = (Tensor("x", F32, shape), Tensor("w", F32, shape[1:]), Tensor("at", DType.I64, shape))
    stmts: list[Stmt] = []
    made: list[tuple[str, int]] = []
    for number in range(draw(st.integers(1, 4))):
        name = f"t{number}"
        r, k = f"r{number}", f"k{number}"
        whole = draw(st.booleans())
        value = draw(scalars(r, k, shape, made, whole))
        iters = (Iter(r, shape[0]), Iter(k, shape[1]))[: 1 + whole]
        scan = None
        if whole and draw(st.integers(0, 4)) == 0:
            scan = Scan(k, "sum", draw(st.booleans()), draw(st.booleans()))
        stmts.append(Stmt(name, F32, iters, value, None, scan))
        made.append((name, 1 + whole))
    kept = {made[-1][0], *draw(st.sets(st.sampled_from([n for n, _ in made])))}
    own = [Tensor(n, F32, shape[:rank]) for n, rank in made]
    kernel = Kernel(
        "made_up",
        tensors,
        tuple(t for t in own if t.name in kept),
        tuple(t for t in own if t.name not in kept),
        tuple(stmts),
    )
    case = Case(kernel, inputs, sizes, tolerance=1e-3, lanes=draw(st.sampled_from([1, 4, 16])))
    if draw(st.booleans()):
        case.layouts["x"] = blocked(shape, draw(st.sampled_from([0, 1])), 16)
    return case


@st.composite
def scalars(draw: Any, r: str, k: str, shape: Any, made: list[tuple[str, int]], whole: bool) -> Scalar:
    """A value at row r: at (r, k), or reduced over k."""
    j = k if whole else f"{k}i"
    points: list[Scalar] = [
        Load("x", (sym(r), sym(j)), F32),
        Load("x", (sym(r), shape[1] - 1 - sym(j)), F32),
        Load("w", (sym(j),), F32),
        Load("x", (sym(r), mod(sym(j) * 3 + 1, shape[1])), F32) if shape[1] != 0 else Const(1.0, F32),
        Load("x", (sym(r), floordiv(sym(j), 2)), F32),
        Load("x", (sym(r), mod(_loaded(r, j), shape[1])), F32) if shape[1] != 0 else Const(2.0, F32),
        Where((sym(j) - 2, shape[1] - sym(j) - 2), Load("x", (sym(r), sym(j) - 2), F32), Const(0.5, F32)),
        Where((sym(r) - 1, sym(j) - sym(r)), Load("x", (sym(r) - 1, sym(j) - sym(r)), F32), Const(0.0, F32)),
        Cast(Index(sym(r) + sym(j) * 2), F32),
        *(Load(name, (sym(r), sym(j)) if rank == 2 else (sym(r),), F32) for name, rank in made),
    ]
    a, b = draw(st.sampled_from(points)), draw(st.sampled_from(points))
    fn = draw(st.sampled_from(["add", "mul", "max", "sub"]))
    value: Scalar = Op(fn, (a, b), F32)
    if draw(st.booleans()):
        value = Op("tanh", (value,), F32)
    if not whole:
        value = Reduce(draw(st.sampled_from(["sum", "max", "min"])), (Iter(j, shape[1]),), value)
    return value


def _loaded(r: str, j: str) -> Any:
    from mapsto.ir.expr import load

    return load("at", (sym(r), sym(j)))


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(kernels())
def test_made_up(case: Case) -> None:
    for schedule in all_schedules(case):
        check(case, interpret, schedule, shares=2)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(kernels())
def test_made_up_native(native: Native, case: Case) -> None:
    check(case, native)
