"""What the template makes of the peak, by its own rule of tiles."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mapsto.devices.contraction.reach import reach
from mapsto.devices.cpu.isa import AVX2, AVX512, AVX512_FULL, SSE2, Isa
from mapsto.ir.dtypes import DType
from mapsto.plan.contraction_tally import Extents

F32 = DType.F32
ISAS = (SSE2, AVX2, AVX512, AVX512_FULL)
LARGE = Extents(1, (56, 56), 256, 256, 9, 64, 16, False, False)


def share(isa: Isa, e: Extents) -> float:
    return reach(isa.core, e, F32, F32, F32, F32).share


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
def test_a_large_convolution_reaches_most_of_the_peak(isa: Isa) -> None:
    assert 0.8 < share(isa, LARGE) <= 1.0


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
def test_columns_that_leave_lanes_empty_reach_less(isa: Isa) -> None:
    assert share(isa, replace(LARGE, columns=isa.accumulator_lanes + 1)) < 0.8 * share(isa, LARGE)


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
def test_one_row_and_short_sums_reach_less(isa: Isa) -> None:
    assert share(isa, replace(LARGE, rows=(1,))) < share(isa, LARGE)
    assert share(isa, replace(LARGE, channels=2, windows=1)) < 0.7 * share(isa, LARGE)


def test_rows_known_only_to_a_run_reach_no_more() -> None:
    for rows in (5, 29, 57):
        known = share(AVX512, replace(LARGE, rows=(rows,)))
        assert share(AVX512, replace(LARGE, rows=(rows,), open_rows=True)) <= known * 1.0001


extents = st.builds(
    Extents,
    batch=st.integers(1, 4),
    rows=st.lists(st.integers(1, 100), min_size=1, max_size=3).map(tuple),
    columns=st.integers(1, 300),
    channels=st.integers(1, 300),
    windows=st.integers(1, 25),
    row_bytes=st.integers(4, 10_000),
    out_block=st.sampled_from([0, 16]),
    open_rows=st.booleans(),
    open_columns=st.booleans(),
)
formats = st.sampled_from(
    [(F32, F32, F32, F32), (DType.U8, DType.I8, DType.I32, F32), (DType.BF16, DType.BF16, F32, F32)]
)


@given(st.sampled_from(ISAS), extents, formats)
def test_a_share_is_a_share(isa: Isa, e: Extents, fmt: tuple[DType, DType, DType, DType]) -> None:
    found = reach(isa.core, e, *fmt)
    assert 0 < found.share <= 1.05
    assert found.passes_a >= 1 and found.passes_b >= 1 and found.shares >= 1
    assert found.passes_a == 1 or found.passes_b == 1


@given(extents, st.integers(1, 3))
def test_more_rows_never_take_less_time(e: Extents, more: int) -> None:
    def seconds(x: Extents) -> float:
        return x.products / share(AVX512, x)

    # tiles for any number of columns are chosen without knowing how many there will be: there it need not be so; B of a
    # single row comes from afar, as nothing reads it again
    assume(math.prod(e.rows) > 1)
    e = replace(e, open_columns=False)
    larger = replace(e, rows=(e.rows[0] * (1 + more), *e.rows[1:]))
    assert seconds(larger) >= seconds(e) * 0.999
