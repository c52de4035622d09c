"""The least that work can take on a device, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapsto.devices.contraction.winograd_plan import products_at_points
from mapsto.ir.dtypes import DType
from mapsto.machine.cost import Stream, Tally, price
from mapsto.machine.limits import limit_of, needs_of

from .test_cost import SPEC, tallies

F32 = DType.F32
FAR = 1e12  # bytes: more than any cache holds
PRODUCTS = {(F32, F32, F32): 1e6}


def test_arithmetic_is_the_longest_kind_and_is_shared() -> None:
    needs = needs_of([Tally(products=PRODUCTS, elements={"exp": 10.0, "add": 7.0})])
    assert limit_of(needs, SPEC, 1).seconds == pytest.approx(1e6 / SPEC.peak(F32, F32, F32))
    assert limit_of(needs, SPEC, 2).seconds == pytest.approx(1e6 / SPEC.peak(F32, F32, F32) / 2)
    assert limit_of(needs, SPEC, 1).bound == "arithmetic" and needs.operations == 2e6 + 17
    slow = needs_of([Tally(products=PRODUCTS, elements={"exp": 1e9})])
    assert limit_of(slow, SPEC, 1).seconds == pytest.approx(1e9 * SPEC.rates["exp"])


def test_products_that_are_known_take_the_place_of_those_with_idle_lanes() -> None:
    assert needs_of([Tally(products=PRODUCTS)], {(F32, F32, F32): 10.0}).operations == 20


def test_bytes_come_once_from_the_level_that_holds_them() -> None:
    far = Stream(1e6, FAR)
    needs = needs_of([Tally(streams=(far, Stream(1e9, FAR, again=True)))])
    assert needs.bytes == 1e6 and limit_of(needs, SPEC, 1).bound == "bytes"
    assert limit_of(needs, SPEC, 1).seconds == pytest.approx(1e6 / SPEC.levels[-1].read)
    near = needs_of([Tally(streams=(far,))], held=1.0)  # a run that touches no more than that
    assert limit_of(near, SPEC, 1).seconds == pytest.approx(1e6 / SPEC.levels[0].read)


def test_what_is_written_need_not_go_farther_than_its_bytes() -> None:
    size = SPEC.levels[0].bytes / 2
    needs = needs_of([Tally(streams=(Stream(size, FAR, True),))])
    assert limit_of(needs, SPEC, 1).seconds == pytest.approx(size / SPEC.levels[0].write)


@given(tallies, st.integers(1, 4))
def test_no_price_is_below_the_limit_of_its_arithmetic(tally: Tally, units: int) -> None:
    """What waits, and what cannot be shared out evenly, only adds."""
    spec, tally = replace(SPEC, units=units), replace(tally, streams=())
    assert limit_of(needs_of([tally]), spec, units).seconds <= price(tally, spec, units).seconds * (1 + 1e-9)


@pytest.mark.parametrize("edge", [2, 4])
def test_products_at_points_are_those_of_whole_tiles(edge: int) -> None:
    tiles, channels, columns = 3, 5, 7
    direct = (tiles * edge) ** 2 * 9 * channels * columns
    points = (edge + 2) ** 2 * tiles**2 * channels * columns
    assert products_at_points(direct, f"{edge}x{edge} results, 9 tiles a block") == pytest.approx(points)
    assert np.isclose(direct / points, 2.25 if edge == 2 else 4.0)
