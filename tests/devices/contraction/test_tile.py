"""The tile rule: what it must respect, and that it prefers what was measured to be better."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benchmarks.contraction.cases import FP32, Convolution, Product, convolution_case, product_case
from benchmarks.contraction.shapes import GOALS
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.devices.contraction.template import plan_contraction
from mapsto.devices.contraction.tile import ProductShape, choose, row_limit, split_columns, split_rows, tile_cycles
from mapsto.devices.cpu import isa as isas
from mapsto.devices.cpu.isa import AVX2, AVX512_FULL, SSE2, Isa
from mapsto.ir.expr import evaluate

ZEN4 = isas.tuned(AVX512_FULL, "znver4")
ISAS = [SSE2, AVX2, isas.AVX512, ZEN4]


@given(st.integers(1, 3000), st.sampled_from([4, 8, 16]), st.integers(1, 8))
def test_columns_are_covered_once(columns: int, lanes: int, vectors: int) -> None:
    panel, last, full = split_columns(columns, lanes, vectors)
    assert full is not None and len(panel) == vectors
    spare = full * sum(panel) + sum(last) - columns
    assert 0 <= spare < lanes
    assert all(width <= lanes and width & (width - 1) == 0 for width in last)
    assert len(last) <= vectors


@given(st.integers(0, 5000), st.integers(1, 31))
def test_known_rows_are_covered_once_by_nearly_equal_tiles(rows: int, largest: int) -> None:
    sizes, counts = split_rows(rows, largest)
    assert counts is not None
    assert sum(s * c for s, c in zip(sizes, counts, strict=True)) == rows
    assert max(sizes) <= largest and max(sizes) - min(sizes) <= 1
    assert sum(counts) == -(-rows // largest)


@given(st.integers(1, 31), st.integers(0, 400))
def test_any_number_of_rows_is_a_sum_of_run_time_tiles(largest: int, rows: int) -> None:
    sizes, counts = split_rows(None, largest)
    assert counts is None and sizes[0] == largest and sizes[-1] == 1
    for size in sizes:
        rows -= rows // size * size
    assert rows == 0


def test_a_panel_that_meets_one_row_comes_from_afar() -> None:
    """It is used once, so the first-level cache has no part in it, however small it is."""
    panel = (16,) * 3
    one, more = (tile_cycles(ZEN4.core, panel, 1, ProductShape(rows, 512, 128, None)) for rows in (1, 2))
    assert one > more
    assert len(choose(ZEN4.core, ProductShape(1, 512, 128, None)).panel) > 3


shapes = st.builds(
    ProductShape,
    st.one_of(st.none(), st.integers(1, 300)),
    st.one_of(st.none(), st.integers(1, 300)),
    st.integers(1, 2000),
    st.one_of(st.none(), st.sampled_from([64, 256, 3072, 4096, 8192])),
    masked=st.booleans(),
)


@settings(max_examples=150)
@given(shapes, st.sampled_from(ISAS))
def test_tiles_fit_the_registers(shape: ProductShape, isa: Isa) -> None:
    tiling = choose(isa.core, shape)
    for vectors in (tiling.panel if tiling.full_panels != 0 else (), tiling.last):
        used = len(vectors) * (tiling.sizes[0] + 1) + 1 if vectors else 0
        assert used <= isa.registers
    if shape.row_bytes is None:
        assert tiling.sizes[0] <= 6


def test_rows_a_page_apart_are_few() -> None:
    """14 rows of A that share a set of the first-level cache push each other out of its 8 ways at every step."""
    assert row_limit(ZEN4.core, 2, ProductShape(140, 512, 1024, 4096)) == 6
    assert row_limit(ZEN4.core, 2, ProductShape(140, 512, 1024, 2048)) == 12
    assert row_limit(ZEN4.core, 2, ProductShape(140, 512, 1024, 3072)) == 14


def test_narrow_last_vectors_where_they_cost_less() -> None:
    """40 columns: two whole vectors and a half one; a Zen 4 core does that half in half the time."""
    tiling = choose(ZEN4.core, ProductShape(26, 40, 216, 64))
    assert tiling.last == (16, 16, 8) and tiling.full_panels == 0
    whole = tile_cycles(ZEN4.core, (16, 16, 16), 9, ProductShape(26, 48, 216, 64))
    assert tile_cycles(ZEN4.core, (16, 16, 8), 9, ProductShape(26, 40, 216, 64)) < 0.9 * whole


def test_few_rows_take_more_vectors() -> None:
    """A single row needs several accumulators to hide the latency of the multiply-add."""
    for isa in (AVX2, ZEN4):
        tiling = choose(isa.core, ProductShape(1, 1024, 64, 256))
        assert len(tiling.panel) >= 4


def test_outputs_that_stream_take_smaller_tiles() -> None:
    """28 stores in a row wait for cache lines: at 16 steps a tile of 2 x 14 reached 84 % of peak, one of 2 x 5 91 %."""
    near = ProductShape(3136, 256, 16, 16, 4)
    tiles = [choose(ZEN4.core, replace(near, streams=streams)) for streams in (False, True)]
    accumulators = [len(t.panel) * t.sizes[0] for t in tiles]
    assert accumulators[1] < accumulators[0]


def test_bf16_dot_products_share_their_broadcasts() -> None:
    tiling = choose(ZEN4.core, ProductShape(3136, 256, 32, 32, 4, streams=True, bf16_dot=True))
    assert len(tiling.panel) >= 2


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.shape.name)
def test_measured_kernels_are_expected_to_reach_their_goal(goal) -> None:  # type: ignore[no-untyped-def]
    """The rule's own estimate of a core of one multiply-add a cycle."""
    shape = goal.shape
    case = convolution_case(shape, FP32) if isinstance(shape, Convolution) else product_case(shape, FP32)
    plan = plan_contraction(case.form, ZEN4.core)
    rows = 1 if isinstance(shape, Product) or shape.kernel == 1 else shape.output[0]
    assert shape.multiplications / 16 / (rows * plan.tiling.cycles) >= goal.fp32


@pytest.mark.parametrize("columns", [576, 640, 768, 1536, 2048])
def test_one_row_is_divided_evenly_among_few_cores(columns: int) -> None:
    """Its weights come from afar, and one core does not bring them as fast as two."""
    plan = plan_contraction(product_case(Product(1, 1536, columns), FP32).form, ZEN4.core)
    tiling = plan.tiling
    widths = [tiling.width] * (tiling.full_panels or 0) + ([sum(tiling.last)] if tiling.last else [])
    for cores in (2, 3):
        shares = [sum(widths[i * len(widths) // cores : (i + 1) * len(widths) // cores]) for i in range(cores)]
        assert max(shares) * cores <= 1.2 * columns


def test_items_are_many_and_equal() -> None:
    """Threads share items: a few of unequal size would leave one waiting for the other."""
    for shape in (Convolution(64, 64, 56), Convolution(256, 256, 14), Product(128, 768, 3072)):
        case = convolution_case(shape, FP32) if isinstance(shape, Convolution) else product_case(shape, FP32)
        plan = plan_contraction(case.form, ZEN4.core)
        assert isinstance(plan.extent, int) and plan.extent >= 24
        assert isinstance(plan.units, int) and isinstance(plan.blocks, int)
        last = plan.units - (plan.blocks - 1) * plan.chunk
        assert last >= 0.6 * plan.chunk


@pytest.mark.parametrize(
    "rows, channels, columns, rows_outer",
    [
        (40, 2048, 512, False),  # items for several threads leave 7 blocks of rows: B seven times, or A eight times
        (48, 1536, 384, False),
        (4096, 1024, 96, False),  # few panels
        (20_000, 512, 4096, True),  # blocks that fill their part of the cache: B 160 times, A 42 times
        (64, 256, 2048, False),  # A stays in the cache
    ],
)
def test_loops_are_ordered_by_the_bytes_that_their_blocks_bring(
    rows: int, channels: int, columns: int, rows_outer: bool
) -> None:
    plan = plan_contraction(product_case(Product(rows, channels, columns), FP32).form, isas.AVX512.core)
    assert plan.rows_outer == rows_outer
    a, b = 4 * rows * channels, 4 * channels * columns
    blocks, panels = evaluate(plan.blocks, {}), evaluate(plan.panels, {})
    if rows_outer:
        assert a + blocks * b < b + panels * a
