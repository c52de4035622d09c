"""The interpreter: what it computes against exact arithmetic and numpy, what it refuses."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import add, load, mul, sym
from mapsto.loop.arithmetic import binary, convert, dot, fold_lanes, fused_multiply_add
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
    Fence,
    For,
    Function,
    Gather,
    If,
    IndexValue,
    LaneMask,
    Let,
    LetIndex,
    Load,
    Param,
    Prefetch,
    ReduceLanes,
    Scatter,
    Select,
    Shuffle,
    Statement,
    Store,
    Type,
    Value,
    Var,
    While,
)
from mapsto.loop.interpret import interpret

F32, F32X4, I64 = Type(DType.F32), Type(DType.F32, 4), Type(DType.I64)
X, Y = Param("x", DType.F32), Param("y", DType.F32, writes=True)


def run(
    body: list[Statement], x: list[float], size: int, dims: dict[str, int] | None = None, end: int = 1
) -> list[float]:
    """y after the body, from zeros; y has `size` elements."""
    y = np.zeros(size, np.float32)
    function = Function("f", (X, Y), tuple(dims or ()), tuple(body))
    interpret(function, [np.array(x, np.float32), y], dims or {}, 0, end)
    return [float(v) for v in y]


# ---- arithmetic -------------------------------------------------------------------------------


def exact_fma(a: float, b: float, c: float, dtype: type) -> np.floating:
    """By fractions: round to nearest, ties to even, overflow to infinity."""
    value = Fraction(a) * Fraction(b) + Fraction(c)
    if value == 0:
        return dtype(a * b + c)
    info = np.finfo(dtype)
    exponent = value.numerator.bit_length() - value.denominator.bit_length()  # that of |value|, or one more
    exponent -= abs(value) < Fraction(2) ** exponent
    unit = Fraction(2) ** (max(exponent, int(info.minexp)) - info.nmant)
    rounded = round(value / unit) * unit
    if abs(rounded) >= Fraction(2) ** int(info.maxexp):
        return dtype(math.inf if rounded > 0 else -math.inf)
    return dtype(float(rounded)) if rounded else dtype(math.copysign(0.0, value))


FLOATS32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
FLOATS64 = st.floats(allow_nan=False, allow_infinity=False)


@given(FLOATS32, FLOATS32, FLOATS32)
@example(1 + 2.0**-12, 1 + 2.0**-12, 2.0**-60)  # a tie in f32 that only the lowest bit of the sum breaks
@example(2.0**-100, 2.0**-49, -(2.0**-149))
def test_fma_f32_rounds_once(a: float, b: float, c: float) -> None:
    operands = [np.array([v], np.float32) for v in (a, b, c)]
    with np.errstate(all="ignore"):
        got = fused_multiply_add(*operands)[0]
        wanted = exact_fma(a, b, c, np.float32)
    assert got.tobytes() == wanted.tobytes()


@given(FLOATS64, FLOATS64, FLOATS64)
@example(1 + 2.0**-30, 1 + 2.0**-30, -1.0)
@example(2.0**-537, 2.0**-537, 2.0**-1074)
@example(1.7e308, 2.0, -1.7e308)
@example(1 + 2.0**-52, 2.0**-53, 1.0)
def test_fma_f64_rounds_once(a: float, b: float, c: float) -> None:
    operands = [np.array([v], np.float64) for v in (a, b, c)]
    with np.errstate(all="ignore"):
        got = fused_multiply_add(*operands)[0]
        wanted = exact_fma(a, b, c, np.float64)
    assert got.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fma_of_infinities_and_nan(dtype: type) -> None:
    inf, nan, big = math.inf, math.nan, np.finfo(dtype).max
    cases = [(inf, 1, 1, inf), (inf, 0, 1, nan), (inf, 1, -inf, nan), (big, big, -inf, -inf), (1, 1, nan, nan)]
    a, b, c, wanted = (np.array(column, dtype) for column in zip(*cases, strict=True))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(fused_multiply_add(a, b, c), wanted)


def test_integer_division_truncates_wraps_and_survives_zero() -> None:
    a, b = np.array([7, -7, 7, -7, -128, 5], np.int8), np.array([2, 2, -2, -2, -1, 0], np.int8)
    with np.errstate(all="ignore"):
        assert binary("div", a, b).tolist() == [3, -3, -3, 3, -128, 0]
        assert binary("rem", a, b).tolist() == [1, -1, 1, -1, 0, 0]


def test_shifts_by_the_width_or_more_empty_the_number() -> None:
    a, b = np.array([-8, -8, 3, 3], np.int32), np.array([1, 40, 31, 32], np.int32)
    assert binary("shr", a, b).tolist() == [-4, -1, 0, 0]
    assert binary("shl", a, b).tolist() == [-16, 0, -(2**31), 0]
    assert binary("shr", a.astype(np.uint32), b.astype(np.uint32)).tolist() == [2**31 - 4, 0, 0, 0]


def test_min_and_max_pass_nan_from_either_side() -> None:
    a, b = np.array([np.nan, 1.0, 2.0], np.float32), np.array([1.0, np.nan, 3.0], np.float32)
    for op, last in (("min", 2.0), ("max", 3.0)):
        got = binary(op, a, b)
        assert np.isnan(got[:2]).all() and got[2] == last


@pytest.mark.parametrize("element", [DType.I8, DType.U8, DType.I32, DType.U32, DType.I64, DType.U64])
@pytest.mark.parametrize("source", [np.float32, np.float64, np.float16])
def test_float_to_integer_truncates_and_saturates(element: DType, source: type) -> None:
    info = np.iinfo(element.numpy)
    values = np.array([1.9, -1.9, np.nan, np.inf, -np.inf, 300, -300, 2.0**31, 2.0**63, 2.0**64, -(2.0**63)])
    with np.errstate(over="ignore"):
        values = values.astype(source)
        got = convert(values, element).tolist()
    wanted = [
        0
        if v != v
        else min(max(info.min, math.trunc(v) if math.isfinite(v) else int(math.copysign(2**70, v))), info.max)
        for v in values.tolist()
    ]
    assert got == wanted


def test_f64_to_bf16_rounds_once() -> None:
    """Just above a tie of bf16: through f32 it would become the tie and then the even neighbour."""
    value = 1 + 2.0**-8 + 2.0**-40
    got = convert(np.array([value, -value, 1e300, np.nan]), DType.BF16).astype(np.float64)
    np.testing.assert_array_equal(got, [1 + 2.0**-7, -1 - 2.0**-7, np.inf, np.nan])


def test_lanes_are_folded_upper_half_onto_lower() -> None:
    big, values = np.float32(2.0**24), np.ones(8, np.float32)
    values[0], values[4] = big, -big  # met first by the tree: left to right the ones would be lost
    assert fold_lanes("add", values).tolist() == [6.0]
    assert fold_lanes("add", np.arange(6, dtype=np.int32)).tolist() == [15]
    assert fold_lanes("and", np.array([True, True, False])).tolist() == [False]


def test_dot_products_of_groups() -> None:
    a = np.array([255] * 4 + [1, 2, 3, 4], np.uint8)
    b = np.array([-128] * 4 + [1, -1, 1, -1], np.int8)
    assert dot("u8s8", a, b, np.array([5, 7], np.int32)).tolist() == [5 - 4 * 255 * 128, 7 - 2]
    x = np.array([1.5, 2.0, -1.0, 4.0], ml_dtypes.bfloat16)
    low = np.array([-32768, -32768, 32767, 1], np.int16)
    assert dot("s16", low, low, np.array([0, 7], np.int32)).tolist() == [-(2**31), 32767**2 + 8]
    assert dot("bf16", x, x, np.array([1.0, 0.0], np.float32)).tolist() == [7.25, 17.0]


# ---- memory -----------------------------------------------------------------------------------


def test_strided_masked_and_gathered_access() -> None:
    mask = LaneMask(sym("n"), Type(DType.BOOL, 4))
    index = Binary("mul", IndexValue(0, Type(DType.I64, 4), 1), Const(2, Type(DType.I64, 4)))
    body: list[Statement] = [
        Store("y", 0, Load("x", 1, F32X4, stride=2)),
        Store("y", 4, Load("x", 6, F32X4, mask=mask)),
        Store("y", 8, Gather("x", index, F32X4, mask)),
        Scatter("y", IndexValue(18, Type(DType.I64, 4), -2), Load("x", 0, F32X4)),
    ]
    got = run(body, list(range(10, 18)), 20, {"n": 2})
    assert got[:12] == [11, 13, 15, 17, 16, 17, 0, 0, 10, 12, 0, 0]
    assert got[12:] == [13, 0, 12, 0, 11, 0, 10, 0]


def test_a_scatter_keeps_the_last_lane_of_a_place() -> None:
    body = [Scatter("y", Const(1, Type(DType.I64, 4)), Load("x", 0, F32X4))]
    assert run(body, [1, 2, 3, 4], 2) == [0, 4]


@pytest.mark.parametrize(
    "statement",
    [
        Store("y", 0, Load("x", 2, F32X4)),
        Store("y", 0, Load("x", -1, F32X4)),
        Store("y", 1, Load("x", 0, F32X4)),
        Store("y", 0, Gather("x", Const(4, Type(DType.I64, 4)), F32X4)),
        Scatter("y", Const(-1, I64), Const(0.0, F32)),
        Store("y", 0, IndexValue(load("z", (9,)), F32)),
    ],
)
def test_an_access_outside_a_buffer_is_refused(statement: Statement) -> None:
    function = Function("f", (X, Y, Param("z", DType.I64)), (), (statement,))
    with pytest.raises(IndexError, match=r"f: lane \d touches [xyz]\["):
        interpret(function, [np.zeros(4, np.float32), np.zeros(4, np.float32), np.zeros(4, np.int64)], {}, 0, 1)


def test_a_prefetch_reads_nothing_wherever_it_points() -> None:
    body = [Prefetch("x", -(2**40)), Store("y", 0, Load("x", 0, F32X4)), Prefetch("y", sym("n") * 1000)]
    assert run(body, [1, 2, 3, 4], 4, {"n": 7}) == [1, 2, 3, 4]


def test_a_fence_names_what_there_is() -> None:
    with pytest.raises(KeyError):
        run([Fence(("nobody",))], [0.0], 1)


def test_a_fence_does_nothing() -> None:
    body = [Store("y", 0, Load("x", 0, F32X4)), Fence(), Store("y", 1, Load("x", 0, Type(DType.F32)))]
    assert run(body, [1, 2, 3, 4], 4) == [1, 1, 3, 4]


@pytest.mark.parametrize("statement", [Prefetch("nowhere", 0), Prefetch("x", sym("nobody"))])
def test_a_prefetch_names_what_there_is(statement: Statement) -> None:
    with pytest.raises(KeyError):
        run([statement], [0.0], 1)


def test_lanes_off_by_the_mask_may_point_anywhere() -> None:
    body = [Store("y", 0, Load("x", 0, F32X4, mask=LaneMask(2, Type(DType.BOOL, 4))))]
    assert run(body, [1, 2], 4) == [1, 2, 0, 0]


def test_a_store_to_an_input_is_refused() -> None:
    with pytest.raises(TypeError, match="does not declare as written"):
        run([Store("x", 0, Const(1.0, F32))], [0.0], 1)


@pytest.mark.parametrize(
    "value",
    [
        Binary("add", Const(1.0, F32), Const(1.0, F32X4)),
        Binary("add", Const(1.0, F32), Const(1.0, Type(DType.F64))),
        Load("x", 0, Type(DType.I32)),
        Bitcast(Const(1.0, F32), Type(DType.F64)),
        Broadcast(Const(1.0, F32X4), Type(DType.F32, 16)),
        Select(Const(True, Type(DType.BOOL)), Const(1.0, F32), Const(1, I64)),
        Shuffle(Const(1.0, F32X4), Const(1, Type(DType.I32, 4)), (0, 4)),
        Shuffle(Const(1.0, F32X4), Const(1.0, F32), (0, 4)),
    ],
)
def test_a_value_that_is_not_of_its_type_is_refused(value: Value) -> None:
    with pytest.raises((TypeError, ValueError)):
        run([Let("a", value)], [0.0] * 4, 4)


@pytest.mark.parametrize("lane", [-1, 8])
def test_a_shuffle_picks_lanes_that_there_are(lane: int) -> None:
    with pytest.raises(IndexError):
        run([Store("y", 0, Shuffle(Load("x", 0, F32X4), Load("x", 0, F32X4), (0, lane)))], [0.0] * 4, 4)


def test_lanes_of_a_shuffle_count_through_both_vectors() -> None:
    pair = Load("x", 0, F32X4), Load("x", 4, F32X4)
    body = [Store("y", 0, Shuffle(*pair, (7, 0, 4, 4, 3))), Store("y", 5, Shuffle(*pair, (6,)))]
    assert run(body, [0, 1, 2, 3, 4, 5, 6, 7], 6) == [7, 0, 4, 4, 3, 6]


def test_a_call_that_does_not_fit_is_refused() -> None:
    function = Function("f", (X,), ("n",), ())
    with pytest.raises(ValueError, match="takes 1 buffers"):
        interpret(function, [], {"n": 1}, 0, 1)
    with pytest.raises(ValueError, match="expected f32"):
        interpret(function, [np.zeros(3)], {"n": 1}, 0, 1)


def test_local_arrays_start_poisoned() -> None:
    body = [Alloc("t", DType.F32, 4), Store("t", 1, Const(5.0, F32)), Store("y", 0, Load("t", 0, F32X4))]
    got = run(body, [], 4)
    assert got[1] == 5.0 and all(math.isnan(v) for k, v in enumerate(got) if k != 1)


def test_a_bool_takes_a_byte_and_bits_are_kept() -> None:
    x = np.array([1.0, np.nan, -2.0, 0.0], np.float32)
    flags, words = np.zeros(4, np.bool_), np.zeros(8, np.uint16)
    function = Function(
        "f",
        (X, Param("b", DType.BOOL, True), Param("w", DType.U16, True)),
        (),
        (
            Store("b", 0, Compare("ne", Load("x", 0, F32X4), Load("x", 0, F32X4))),
            Store("w", 0, Bitcast(Load("x", 0, F32X4), Type(DType.U16, 8))),
        ),
    )
    interpret(function, [x, flags, words], {}, 0, 1)
    assert flags.tolist() == [False, True, False, False]
    np.testing.assert_array_equal(words, x.view(np.uint16))


# ---- control ----------------------------------------------------------------------------------


def test_loops_branches_and_accumulators() -> None:
    """y[0] = the sum of x[i] for even i in [0, n), y[1] = that many steps of halving n until 0."""
    i, n = sym("i"), sym("n")
    total, count, left = Var("total", F32), Var("count", F32), Var("left", I64)
    body: list[Statement] = [
        Declare("total", Const(0.0, F32)),
        For("i", 0, n, (Assign("total", Binary("add", total, Load("x", i, F32))),), step=2),
        Store("y", 0, total),
        Declare("left", IndexValue(n, I64)),
        Declare("count", Const(0.0, F32)),
        While(
            Compare("gt", left, Const(0, I64)),
            (
                Assign("left", Binary("div", left, Const(2, I64))),
                Assign("count", Binary("add", count, Const(1.0, F32))),
            ),
        ),
        Store("y", 1, count),
    ]
    assert run(body, [1, 2, 4, 8, 16], 2, {"n": 5}) == [21, 3]


@pytest.mark.parametrize(("n", "wanted"), [(0, 2.0), (3, 1.0), (5, 2.0)])
def test_a_branch_on_index_expressions_needs_all_of_them(n: int, wanted: float) -> None:
    cond = (add(sym("n"), -1), add(4, mul(sym("n"), -1)))
    body = [If(cond, (Store("y", 0, Const(1.0, F32)),), (Store("y", 0, Const(2.0, F32)),))]
    assert run(body, [], 1, {"n": n}) == [wanted]


def test_a_loaded_index_is_readable_in_index_expressions() -> None:
    body: list[Statement] = [
        LetIndex("k", Cast(Load("x", 0, F32), I64)),
        LetIndex("j", add(sym("k"), 1)),
        Store("y", sym("k"), Load("x", sym("j"), F32)),
    ]
    assert run(body, [2, 7, 8, 9], 4) == [0, 0, 9, 0]


def test_begin_and_end_are_the_share_of_the_call() -> None:
    y = np.zeros(6, np.float32)
    body = (For("i", sym("begin"), sym("end"), (Store("y", sym("i"), IndexValue(sym("i"), F32)),)),)
    interpret(Function("f", (Y,), (), body), [y], (), 2, 5)
    assert y.tolist() == [0, 0, 2, 3, 4, 0]


def test_reductions_and_selects_in_a_row() -> None:
    """The largest |x| of a row with a masked tail."""
    mask = LaneMask(3, Type(DType.BOOL, 4))
    row = Load("x", 0, F32X4, mask=mask)
    size = Select(Compare("lt", row, Const(0.0, F32X4)), Binary("sub", Const(0.0, F32X4), row), row)
    assert run([Store("y", 0, ReduceLanes("max", size, F32))], [1, -5, 2], 1) == [5]
