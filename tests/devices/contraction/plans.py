"""Plans of contractions beside those that the cost rule chooses, for tests of the template."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.contraction.cases import Case

from mapsto.devices.contraction.core import Core
from mapsto.devices.contraction.template import ContractionForm, LoopAxis, TilePlan
from mapsto.devices.contraction.tile import Tiling, split_columns, split_rows
from mapsto.devices.contraction.tile_plan import _closing, _widest
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import mul, sym
from mapsto.loop.ast import Param


def with_groups(case: Case, plan: TilePlan) -> TilePlan:
    """The stride of packed B per group, known once the tiling is."""
    if len(case.form.batch) < 2:
        return plan
    axis = replace(case.form.batch[1], b=plan.packing.size)
    return replace(plan, form=replace(case.form, batch=(case.form.batch[0], axis)))


def forced(case: Case, core: Core, vectors: int, rows: int, rows_outer: bool, chunk: int) -> TilePlan:
    """A plan with a tile that the cost rule did not choose."""
    lanes = _widest(case.form, core)
    extent = case.form.rows[-1].extent
    assert isinstance(case.form.columns, int) and isinstance(extent, int)
    panel, last, full = split_columns(case.form.columns, lanes, vectors)
    sizes, counts = split_rows(extent, rows)
    tiling = _closing(case.form, Tiling(panel, last, full, sizes, counts, 0.0))
    return TilePlan(case.form, core, tiling, rows_outer, chunk)


def in_slices(plan: TilePlan, rounds: int) -> TilePlan:
    """With slices of so many rounds, or as many as there can be; as it is where there can be none."""
    whole = plan.sliced_loop
    return plan if whole is None or whole.rounds < 2 else replace(plan, slice=min(rounds, whole.rounds - 1))


def sized_product(direct: bool) -> ContractionForm:
    """batch x (m,k) @ (k,n) with every size a symbol. `direct`: B row-major as it lies, else packed by the caller."""
    m, k, n = sym("m"), sym("k"), sym("n")
    return ContractionForm(
        name="sized",
        a=Param("a", DType.F32),
        b=Param("b", DType.F32),
        out=Param("out", DType.F32, True),
        accumulator=DType.F32,
        columns=n,
        rows=(LoopAxis(m, k, 0, n),),
        channels=k,
        batch=(LoopAxis(sym("g"), mul(m, k), mul(k, n) if direct else 0, mul(m, n)),),
        b_channel_stride=n if direct else None,
        dims=("g", "m", "k", "n"),
    )


def with_packed_stride(plan: TilePlan) -> TilePlan:
    """A product whose batches read B packed one after the other."""
    form = plan.form
    return replace(plan, form=replace(form, batch=(replace(form.batch[0], b=plan.packing.size),)))
