"""The contraction template against numpy: sizes that fit nothing, strides, groups, borders, formats, instruction
sets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from benchmarks.contraction.cases import (
    BF16,
    FP32,
    FP64,
    INT8,
    Case,
    Convolution,
    Format,
    Product,
    convolution_case,
    product_case,
    random_operand,
)
from benchmarks.contraction.native import aligned, build, load, plain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.devices.contraction.plans import forced, in_slices, sized_product, with_groups, with_packed_stride
from tests.instruction_sets import instruction_sets

from mapsto.devices.contraction.template import (
    ContractionForm,
    Epilogue,
    LoopAxis,
    TilePlace,
    TilePlan,
    contraction,
    plan_contraction,
)
from mapsto.devices.contraction.tile import split_columns
from mapsto.devices.contraction.tile_plan import read_tiles, tiles_text
from mapsto.devices.cpu import isa as isas
from mapsto.devices.cpu.isa import Isa
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, evaluate, sym
from mapsto.loop import ast as loop
from mapsto.loop.ast import Param
from mapsto.loop.interpret import interpret

Array = NDArray[Any]
ISAS = instruction_sets()
FORMATS = (FP32, BF16, INT8)
each_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)


def check_all(cases: list[Case], plans: list[TilePlan], isa: Isa, epilogue: Epilogue = plain, parts: int = 1) -> None:
    """Compile all plans at once; results equal the reference bit for bit, in one call or in several shares of the
    range."""
    plans = [with_groups(case, plan) for case, plan in zip(cases, plans, strict=True)]
    for case, plan, (native, extent) in zip(cases, plans, build(plans, isa, epilogue), strict=True):
        out = np.full(case.reference.shape, 99, case.reference.dtype)
        operands = [aligned(case.a), aligned(plan.packing.pack(case.weights)), out]
        for part in range(parts):
            native(operands, [], extent * part // parts, extent * (part + 1) // parts)
        assert np.array_equal(out, case.reference), (case.form, plan)


CONVOLUTIONS = (
    Convolution(64, 64, 14),
    Convolution(24, 40, 26),
    Convolution(19, 21, 9, stride=2, dilation=2, batch=2),
    Convolution(3, 5, (4, 31), kernel=(1, 5)),
    Convolution(1, 1, 1, kernel=1),
    Convolution(17, 130, (1, 3), kernel=(3, 1)),
    Convolution(32, 48, 7, kernel=1),
    Convolution(33, 64, 5, kernel=1, stride=3),
    Convolution(16, 16, 57, kernel=2),
    Convolution(18, 24, 5, groups=2),
    Convolution(12, 12, 6, groups=4, batch=2),
)
PRODUCTS = (
    Product(37, 51, 77),
    Product(1, 8, 200),
    Product(130, 3, 1),
    Product(14, 64, 33, batch=3),
    Product(5, 1, 16),
)


def skip_twin(isa: Isa, fmt: Format) -> None:
    """In fp32, AVX-512 with its dot instructions makes the code that plain AVX-512 makes."""
    if fmt is FP32 and isa is isas.AVX512 and len(ISAS) == 4:
        pytest.skip("the same code as the host's")


@each_format
@pytest.mark.parametrize("blocked", [True, False], ids=["blocked", "row-major"])
def test_convolutions(isa: Isa, fmt: Format, blocked: bool) -> None:
    skip_twin(isa, fmt)
    cases = [convolution_case(conv, fmt, blocked=blocked, seed=i) for i, conv in enumerate(CONVOLUTIONS)]
    check_all(cases, [plan_contraction(case.form, isa.core) for case in cases], isa, parts=3)


@each_format
def test_matrix_products(isa: Isa, fmt: Format) -> None:
    cases = [product_case(product, fmt, seed=i) for i, product in enumerate(PRODUCTS)]
    check_all(cases, [plan_contraction(case.form, isa.core) for case in cases], isa)


def test_double_precision(isa: Isa) -> None:
    cases = [product_case(Product(9, 11, 21), FP64), convolution_case(Convolution(5, 7, 6), FP64)]
    check_all(cases, [plan_contraction(case.form, isa.core) for case in cases], isa)


@each_format
def test_block_sizes(fmt: Format) -> None:
    """Blocks of 4 to 64 channels, wider and narrower than a register."""
    cases = [convolution_case(Convolution(37, 41, 5), fmt, block=block) for block in (4, 8, 32, 64)]
    for isa in ISAS:
        check_all(cases, [plan_contraction(case.form, isa.core) for case in cases], isa)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_tile_in_any_order(data: st.DataObject) -> None:
    isa = data.draw(st.sampled_from(ISAS))
    cases, plans = [], []
    for _ in range(6):
        fmt = data.draw(st.sampled_from(FORMATS))
        kernel = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
        conv = Convolution(
            data.draw(st.integers(1, 40)),
            data.draw(st.integers(1, 90)),
            (data.draw(st.integers(1, 6)), data.draw(st.integers(1, 33))),
            kernel,
            data.draw(st.integers(1, 3)),
            data.draw(st.integers(1, 2)),
            batch=data.draw(st.integers(1, 2)),
        )
        blocked = data.draw(st.booleans())
        case = convolution_case(conv, fmt, blocked=blocked)
        vectors, rows = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 17))
        order, chunk = data.draw(st.booleans()), data.draw(st.integers(1, 5))
        cases.append(case)
        plan = forced(case, isa.core, vectors, rows, order, chunk)
        plans.append(in_slices(plan, data.draw(st.integers(1, 5))) if data.draw(st.booleans()) else plan)
    check_all(cases, plans, isa, parts=data.draw(st.integers(1, 4)))


@each_format
def test_panels_that_are_large_are_met_in_slices(isa: Isa, fmt: Format) -> None:
    cases = [
        product_case(Product(53, 70_000, 70), fmt),
        convolution_case(Convolution(900, 40, (7, 9), (3, 3)), fmt),
        convolution_case(Convolution(2050, 33, (1, 31)), fmt, blocked=False),
    ]
    plans = [plan_contraction(case.form, isa.core) for case in cases]
    assert plans[0].slice, "too small to try it"
    assert all(read_tiles(tiles_text(plan), plan.form, isa.core) == plan for plan in plans)
    check_all(cases, plans, isa, parts=3)


# ---- sizes known at run time -----------------------------------------------------------------------------------------


SIZES = [
    (1, 1, 1, 1),
    (2, 3, 5, 7),
    (1, 14, 64, 32),
    (3, 29, 17, 33),
    (2, 6, 1, 100),
    (1, 100, 40, 16),
    (1, 0, 3, 4),
    (2, 5, 0, 6),
]


def test_products_of_run_time_sizes_with_direct_b(isa: Isa) -> None:
    plan = plan_contraction(sized_product(True), isa.core)
    ((native, extent),) = build([plan], isa)
    rng = np.random.default_rng(0)
    for g, m, k, n in SIZES:
        a, b = (random_operand(rng, shape, DType.F32) for shape in ((g, m, k), (g, k, n)))
        out = np.full((g, m, n), 99, np.float32)
        native([a, b, out], [g, m, k, n], 0, evaluate(extent, {"g": g, "m": m, "k": k, "n": n}))
        assert np.array_equal(out, a @ b), (g, m, k, n)


def test_products_of_run_time_sizes_with_packed_b(isa: Isa) -> None:
    """B packed by `Packing.index` at sizes that are known only then."""
    plan = plan_contraction(sized_product(False), isa.core)
    pack = plan.packing
    stride = pack.size
    plan = with_packed_stride(plan)
    ((native, extent),) = build([plan], isa)
    rng = np.random.default_rng(0)
    for g, m, k, n in SIZES:
        values = {"g": g, "m": m, "k": k, "n": n}
        a, b = (random_operand(rng, shape, DType.F32) for shape in ((g, m, k), (g, k, n)))
        packed = np.zeros((g, evaluate(stride, values)), np.float32)
        place = pack.index(sym("o"), sym("c"))
        for o in range(n):
            for c in range(k):
                packed[:, evaluate(place, {**values, "o": o, "c": c})] = b[:, c, o]
        out = np.full((g, m, n), 99, np.float32)
        native([a, packed, out], [g, m, k, n], 0, evaluate(extent, values))
        assert np.array_equal(out, a @ b), (g, m, k, n)


@each_format
def test_convolutions_of_run_time_pixels(isa: Isa, fmt: Format) -> None:
    """Height, width and batch are symbols; channels are known."""
    shapes = [(1, 1, 1), (1, 3, 14), (2, 5, 31), (1, 9, 17), (2, 0, 5)]
    forms = []
    for _ in shapes:
        base = convolution_case(Convolution(20, 24, 3), fmt).form
        h, w, oh, ow = (sym(s) for s in ("h", "w", "oh", "ow"))
        forms.append(
            replace(
                base,
                rows=(LoopAxis(oh, w * 16, 0, ow * 16), LoopAxis(ow, 16, 0, 16)),
                batch=(LoopAxis(sym("n"), 2 * h * w * 16, 0, 2 * oh * ow * 16),),
                window=(LoopAxis(3, w * 16), LoopAxis(3, 16)),
                channel_block_stride=h * w * 16,
                out_block_stride=oh * ow * 16,
                dims=("n", "h", "w", "oh", "ow"),
            )
        )
    plan = plan_contraction(forms[0], isa.core)
    ((native, extent),) = build([plan], isa)
    for n, oh, ow in shapes:
        case = convolution_case(Convolution(20, 24, (oh, ow), batch=n), fmt)
        h, w = oh + 2, ow + 2
        out = np.full(case.reference.shape, 99, case.reference.dtype)
        sizes = {"n": n, "h": h, "w": w, "oh": oh, "ow": ow}
        operands = [aligned(case.a), aligned(plan.packing.pack(case.weights)), out]
        native(operands, list(sizes.values()), 0, evaluate(extent, sizes))
        assert np.array_equal(out, case.reference), sizes


# ---- strides ---------------------------------------------------------------------------------------------------------


def test_channels_apart_in_memory() -> None:
    """A as [C][H][W]: channels by stride, rows contiguous."""
    conv = Convolution(3, 24, 11)
    case = convolution_case(conv, FP32, blocked=False)
    h, w = conv.input
    form = replace(
        case.form,
        rows=(LoopAxis(11, w, 0, 11 * 24), LoopAxis(11, 1, 0, 24)),
        window=(LoopAxis(3, w), LoopAxis(3, 1)),
        batch=(LoopAxis(1),),
        channel_stride=h * w,
    )
    a = np.ascontiguousarray(case.a.transpose(0, 3, 1, 2))
    for isa in ISAS:
        check_all([replace(case, form=form, a=a)], [plan_contraction(form, isa.core)], isa)


def test_phases_of_a_transposed_convolution() -> None:
    """Stride 2: each of the four phases is a contraction whose output pixels lie 2 apart, written into one tensor."""
    rng = np.random.default_rng(0)
    c, o, h, w = 12, 20, 5, 9
    x = random_operand(rng, (h, w, c), DType.F32)
    weights = random_operand(rng, (o, c, 2, 2), DType.F32)
    wanted = np.zeros((2 * h, 2 * w, o), np.float32)
    for i in range(2):
        for j in range(2):
            wanted[i::2, j::2] = np.einsum("hwc,oc->hwo", x, weights[:, :, i, j])
    for isa in ISAS:
        got = np.zeros_like(wanted)
        for i in range(2):
            for j in range(2):
                form = ContractionForm(
                    name="phase",
                    a=Param("a", DType.F32),
                    b=Param("b", DType.F32),
                    out=Param("out", DType.F32, True),
                    accumulator=DType.F32,
                    columns=o,
                    rows=(LoopAxis(h, w * c, 0, 4 * w * o), LoopAxis(w, c, 0, 2 * o)),
                    channels=c,
                    out_start=i * 2 * w * o + j * o,
                )
                plan = plan_contraction(form, isa.core)
                ((native, extent),) = build([plan], isa)
                native([x, plan.packing.pack(weights[:, :, i, j]), got], [], 0, extent)
        assert np.array_equal(got, wanted), isa.name


def test_starts_and_borders() -> None:
    """A inside a tensor with a border, out inside a larger one: neither's surroundings are read wrongly or written."""
    case = convolution_case(Convolution(8, 16, 6), FP32, block=8)
    n, cb, h, w, block = case.a.shape
    big = np.full((n, cb, h + 4, w + 6, block), np.nan, np.float32)
    big[:, :, 1 : 1 + h, 2 : 2 + w] = case.a
    form = case.form
    wide, tall = (w + 6) * block, (h + 4) * (w + 6) * block
    out_w = 6 + 2
    form = replace(
        form,
        rows=(LoopAxis(6, wide, 0, out_w * 8), LoopAxis(6, block, 0, 8)),
        window=(LoopAxis(3, wide), LoopAxis(3, block)),
        channel_block_stride=tall,
        a_start=wide + 2 * block,
        out_start=(out_w + 1) * 8,
        out_block_stride=8 * out_w * 8,
    )
    for isa in ISAS:
        plan = plan_contraction(form, isa.core)
        ((native, extent),) = build([plan], isa)
        out = np.full((1, 2, 8, out_w, 8), 77, np.float32)
        native([big, plan.packing.pack(case.weights), out], [], 0, extent)
        assert np.array_equal(out[:, :, 1:7, 1:7], case.reference)
        out[:, :, 1:7, 1:7] = 77
        assert (out == 77).all()


# ---- epilogues -------------------------------------------------------------------------------------------------------


def bias_and_relu(value: loop.Value, place: TilePlace) -> tuple[list[loop.Statement], tuple[loop.Value, ...]]:
    """max(0, acc + bias[column]); the bias has exactly as many elements as there are columns."""
    bias = loop.Load("bias", place.column, value.type, mask=place.mask)
    return [], (loop.Binary("max", loop.Binary("add", value, bias), loop.Const(0, value.type)),)


def long_epilogue(value: loop.Value, place: TilePlace) -> tuple[list[loop.Statement], tuple[loop.Value, ...]]:
    """bias, then many steps that together change nothing: long enough to be kept in a loop."""
    statements, (result,) = bias_and_relu(value, place)
    row = loop.Broadcast(loop.Cast(_row_number(place), loop.Type(DType.F32)), value.type)
    for _ in range(10):
        result = loop.Binary("sub", loop.Binary("add", result, row), row)
    return statements, (result,)


def _row_number(place: TilePlace) -> loop.Value:
    from mapsto.loop.ast import IndexValue

    number: Dim = place.rows[-1] + 1
    return IndexValue(number, loop.Type(DType.I32))


@pytest.mark.parametrize("epilogue", [bias_and_relu, long_epilogue])
@pytest.mark.parametrize("blocked", [True, False])
def test_epilogues(isa: Isa, epilogue: Epilogue, blocked: bool) -> None:
    for conv in (Convolution(16, 40, 9), Convolution(5, 21, (3, 40), kernel=1), Convolution(8, 16, 12)):
        case = convolution_case(conv, FP32, blocked=blocked)
        form = replace(case.form, others=(Param("bias", DType.F32),))
        plan = plan_contraction(form, isa.core)
        ((native, extent),) = build([plan], isa, epilogue)
        bias = np.random.default_rng(1).integers(-40, 40, conv.columns).astype(np.float32)
        out = np.full(case.reference.shape, 99, np.float32)
        guarded = np.concatenate([bias, np.full(64, np.nan, np.float32)])
        native([case.a, plan.packing.pack(case.weights), out, guarded], [], 0, extent)
        if blocked:
            padded = np.zeros(case.reference.shape[1] * 16, np.float32)
            padded[: conv.columns] = bias
            wanted = np.maximum(case.reference + padded.reshape(1, -1, 1, 1, 16), 0)
        else:
            wanted = np.maximum(case.reference + bias, 0)
        assert np.array_equal(out, wanted), (conv, isa.name)


def test_blocks_are_filled_up_with_zeros_whatever_an_epilogue_makes_of_them(isa: Isa) -> None:
    def one_more(value: loop.Value, place: TilePlace) -> tuple[list[loop.Statement], tuple[loop.Value, ...]]:
        return [], (loop.Binary("add", value, loop.Const(1, value.type)),)

    for columns in (1, 7, 13, 21, 31, 47):
        case = convolution_case(Convolution(8, columns, 5), FP32)
        ((native, extent),) = build([plan_contraction(case.form, isa.core)], isa, one_more)
        out = np.full(case.reference.shape, 99, np.float32)
        native([case.a, plan_contraction(case.form, isa.core).packing.pack(case.weights), out], [], 0, extent)
        channels = out.transpose(0, 1, 4, 2, 3).reshape(1, -1, 5, 5)
        wanted = case.reference.transpose(0, 1, 4, 2, 3).reshape(1, -1, 5, 5)
        assert np.array_equal(channels[:, :columns], wanted[:, :columns] + 1), columns
        assert not channels[:, columns:].any(), columns


def test_an_epilogue_may_change_the_type(isa: Isa) -> None:
    """int8 in, int8 out: scaled, rounded, saturated."""

    def requantise(value: loop.Value, place: TilePlace) -> tuple[list[loop.Statement], tuple[loop.Value, ...]]:
        scaled = loop.Binary(
            "mul",
            loop.Cast(value, loop.Type(DType.F32, value.type.lanes)),
            loop.Const(0.125, loop.Type(DType.F32, value.type.lanes)),
        )
        return [], (loop.Cast(scaled, loop.Type(DType.U8, value.type.lanes)),)

    case = convolution_case(Convolution(20, 36, 7), INT8)
    form = replace(case.form, out=Param("out", DType.U8, True))
    plan = plan_contraction(form, isa.core)
    ((native, extent),) = build([plan], isa, requantise)
    out = np.full(case.reference.shape, 99, np.uint8)
    native([aligned(case.a), plan.packing.pack(case.weights), out], [], 0, extent)
    assert np.array_equal(out, np.clip(np.trunc(case.reference * 0.125), 0, 255).astype(np.uint8))


# ---- packing and plan ------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 40),
    st.integers(1, 3),
    st.sampled_from([0, 4, 16]),
    st.sampled_from(FORMATS),
    st.integers(1, 4),
)
def test_the_packed_index_is_where_pack_puts_it(
    columns: int, channels: int, window: int, block: int, fmt: Format, vectors: int
) -> None:
    from mapsto.devices.contraction.packing import Packing

    panel, last, _ = split_columns(columns, 16, vectors)
    pack = Packing(columns, channels, (window, 2), fmt.interleave, block, sum(panel), sum(last))
    logical = np.arange(1, columns * channels * window * 2 + 1).reshape(columns, channels, window, 2)
    packed = pack.pack(logical)
    assert packed.shape == (pack.size,)
    place = pack.index(sym("o"), sym("c"), (sym("i"), sym("j")))
    seen = set()
    for o, c, i, j in np.ndindex(*logical.shape):
        at = evaluate(place, {"o": o, "c": c, "i": i, "j": j})
        assert packed[at] == logical[o, c, i, j]
        seen.add(at)
    assert all(packed[at] == 0 for at in range(packed.size) if at not in seen)


def test_the_interpreter_agrees() -> None:
    """The template is plain loop language: the oracle runs it too, checking every access against its buffer."""
    for fmt in FORMATS:
        for blocked in (True, False):
            case = convolution_case(Convolution(5, 21, (2, 9)), fmt, blocked=blocked)
            plan = plan_contraction(case.form, ISAS[-1].core)
            function, extent = contraction(plan, plain)
            out = np.full(case.reference.size, 99, case.reference.dtype)
            assert isinstance(extent, int)
            interpret(function, [case.a.reshape(-1), plan.packing.pack(case.weights).reshape(-1), out], [], 0, extent)
            assert np.array_equal(out.reshape(case.reference.shape), case.reference)


def test_shares_of_the_range_do_not_overlap() -> None:
    """Every output element is written by exactly one item: threads may take any shares."""
    case = convolution_case(Convolution(16, 48, (6, 20)), FP32)
    for order in (True, False):
        plan = forced(case, ISAS[-1].core, 2, 7, order, 2)
        ((native, extent),) = build([plan], ISAS[-1])
        operands = [aligned(case.a), aligned(plan.packing.pack(case.weights))]
        written = np.zeros(case.reference.shape, int)
        for item in range(extent):
            out = np.full(case.reference.shape, np.nan, np.float32)
            native([*operands, out], [], item, item + 1)
            written += ~np.isnan(out)
        assert (written == 1).all()


def test_loads_of_functions_use_unique_names() -> None:
    case = product_case(Product(2, 3, 4), FP32)
    function, _ = contraction(plan_contraction(case.form, ISAS[0].core), plain)
    assert isinstance(function.body[0], loop.For)
    first, second = load([function], ISAS[0]), load([function], ISAS[0])
    assert first[0].entry is not second[0].entry
