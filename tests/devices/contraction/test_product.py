"""The template inside of somebody else's function: its panels and row tiles in parts, and tiles that products share."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from benchmarks.contraction.native import aligned, load
from hypothesis import given
from hypothesis import strategies as st
from tests.instruction_sets import instruction_sets

from mapsto.devices.contraction.template import ContractionForm, LoopAxis, inlined_product, plan_contraction
from mapsto.devices.contraction.tile import Tiling
from mapsto.devices.contraction.tile_plan import read_tiles, tiles_text
from mapsto.devices.cpu.isa import Isa
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, evaluate, floordiv, sym
from mapsto.loop import ast as loop
from mapsto.loop.ast import Function, Param

DEPTH = 11


def form_of(rows: Dim, columns: int) -> ContractionForm:
    """rows x DEPTH times DEPTH x columns, from places that the function around it names."""
    return ContractionForm(
        name="product",
        a=Param("a", DType.F32),
        b=Param("b", DType.F32),
        out=Param("out", DType.F32, True),
        accumulator=DType.F32,
        columns=columns,
        rows=(LoopAxis(rows, DEPTH, 0, columns),),
        channels=DEPTH,
        a_start=sym("at"),
        out_start=sym("to"),
        dims=() if isinstance(rows, int) else ("n",),
    )


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("rows, columns", [(29, 70), (1, 200), (2, 5), (40, 16)])
def test_parts_of_a_product(isa: Isa, rows: int, columns: int, opened: bool) -> None:
    """All parts together are the product, wherever it is cut; nothing else is written."""
    form = form_of(sym("n") if opened else rows, columns)
    plan, numbers = plan_contraction(form, isa.core), itertools.count()
    panels, half = evaluate(plan.panels, {}), sym("half")
    body = []
    for tiles, part in itertools.product([(half, plan.units), (0, half)], [(0, 1), (1, panels)]):
        body += inlined_product(plan, part, tiles, lambda hint: f"{hint}.{next(numbers)}")
    named = loop.LetIndex("at", 3), loop.LetIndex("to", 5), loop.LetIndex("half", floordiv(plan.units, 2))
    function = Function("around", (form.a, form.b, form.out), form.dims, (*named, *body))
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-4, 5, (extent, DEPTH)).astype(np.float32) for extent in (rows, columns))
    out = np.full(5 + rows * columns + 1, 99, np.float32)
    operands = [aligned(np.concatenate([np.full(3, 7, np.float32), a.reshape(-1)])), aligned(plan.packing.pack(b)), out]
    load([function], isa)[0](operands, [rows] if opened else [], 0, 1)
    np.testing.assert_array_equal(out[5:-1].reshape(rows, columns), a @ b.T)
    assert (out[:5] == 99).all() and out[-1] == 99


@given(st.integers(0, 90), st.booleans(), st.sampled_from(instruction_sets()))
def test_a_tile_begins_where_the_one_before_ends(rows: int, opened: bool, isa: Isa) -> None:
    plan, sizes = plan_contraction(form_of(sym("n") if opened else max(rows, 1), 70), isa.core), {"n": rows}
    firsts = [evaluate(plan.first_row(unit), sizes) for unit in range(evaluate(plan.units, sizes) + 1)]
    tiles = [b - a for a, b in itertools.pairwise(firsts)]
    assert firsts[0] == 0 and firsts[-1] == (rows if opened else max(rows, 1))
    if plan.tiling.counts is None:
        assert all(tile == plan.tiling.sizes[0] for tile in tiles[:-1])
    else:
        counted = zip(plan.tiling.sizes, plan.tiling.counts, strict=True)
        assert tiles == [size for size, count in counted for _ in range(count)]


@pytest.mark.parametrize("rows", [1, 5, 16, 37, sym("n")], ids=str)
def test_tiles_that_are_allowed_alone_are_taken_and_read(rows: Dim, isa: Isa) -> None:
    """As those of products over the same rows, which one loop over tiles serves."""
    first, form = plan_contraction(form_of(rows, 1024), isa.core).tiling, form_of(rows, 4)

    def alike(tiling: Tiling) -> bool:
        return (tiling.sizes, tiling.counts) == (first.sizes, first.counts)

    second, free = plan_contraction(form, isa.core, alike), plan_contraction(form, isa.core)
    assert alike(second.tiling)
    assert read_tiles(tiles_text(second), form, isa.core, alike) == second
    if rows == 37 and isa.vector_bits > 128:
        assert not alike(free.tiling)
        with pytest.raises(ValueError, match="tiles that its function cannot take"):
            read_tiles(tiles_text(free), form, isa.core, alike)


def test_slices_of_all_there_is_or_where_sums_cannot_wait_are_refused(isa: Isa) -> None:
    form = replace(form_of(60, 96), channels=6000, b=Param("b", DType.F32))
    plan = plan_contraction(form, isa.core)
    text = tiles_text(replace(plan, slice=0))
    assert read_tiles(f"{text}; slices of 7", form, isa.core).slice == 7
    for wrong in ("6000", "999999999"):
        with pytest.raises(ValueError, match="slices that its function cannot take"):
            read_tiles(f"{text}; slices of {wrong}", form, isa.core)
    with pytest.raises(ValueError, match="slices that its function cannot take"):
        read_tiles(f"{text}; slices of 7", replace(form, is_part=True), isa.core)
