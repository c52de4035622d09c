"""Prices by hand, and that more work never costs less."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapsto.ir.dtypes import DType
from mapsto.kernel.ast import SCALAR_FNS
from mapsto.machine.cost import CLASS_OF, Cost, Stream, Tally, bandwidth, overlapped, price
from mapsto.machine.spec import MOVES, RATES

from .test_spec import simple_spec

SPEC = simple_spec()
F32 = DType.F32
LAUNCH, BARRIER = 1e-7, 2e-7


def test_multiply_adds_over_the_peak() -> None:
    found = price(Tally(products={(F32, F32, F32): 2000.0}, operations=4000.0), SPEC)
    assert found.seconds == pytest.approx(LAUNCH + 2000 / 1e9)
    assert found.operations == 4000


def test_row_work_is_the_sum_of_its_classes() -> None:
    tally = Tally(elements={"add": 100.0, "exp": 10.0}, moves={"gather": 4.0}, loops=2.0)
    work = 100 * 1e-9 + 10 * 8e-9 + 4 * 5e-9 + 2 * 1e-8
    assert price(tally, SPEC).seconds == pytest.approx(LAUNCH + work)


def test_scalar_work_goes_on_beside_vectors() -> None:
    vectors = Tally(elements={"add": 100.0})
    assert price(replace(vectors, scalar=30.0), SPEC) == price(vectors, SPEC)
    assert price(replace(vectors, scalar=100.0), SPEC).seconds == pytest.approx(LAUNCH + 100 * 3e-9)


def test_the_longest_of_work_reading_and_writing_counts_whole_and_the_others_half() -> None:
    near, far = Stream(5000, 5000), Stream(5000, 20_000, writes=True)
    reading, writing = 5000 / 5e9 - 5000 / 1e10, 5000 / 5e8 - 5000 / 1e10
    assert price(Tally(streams=(near, far)), SPEC).seconds == pytest.approx(LAUNCH + writing + reading / 2)
    found = price(Tally(streams=(near, far), scalar=1e6), SPEC).seconds
    assert found == pytest.approx(LAUNCH + 1e6 * 3e-9 + (reading + writing) / 2)


def test_the_nearest_level_is_paid_by_moves() -> None:
    assert price(Tally(streams=(Stream(500, 500),)), SPEC).seconds == LAUNCH
    assert price(Tally(streams=(Stream(500, 500),)), SPEC).bytes == 500


@given(st.lists(st.just(0.0) | st.floats(1e-12, 1e3), min_size=2, max_size=2))
def test_overlap_is_between_the_longest_and_the_sum(parts: list[float]) -> None:
    found = overlapped(*parts)
    assert max(parts) <= found <= sum(parts)
    assert found <= max(parts) * 1.5 and found * 4 / 3 >= sum(parts) * 0.999999


def test_a_chain_of_sums_waits_for_itself() -> None:
    assert price(Tally(chain=1000.0), SPEC).seconds == pytest.approx(LAUNCH + 1000 * 4e-9)


def test_two_units_share_work_and_meet() -> None:
    tally = Tally(scalar=3e6)
    assert price(tally, SPEC, threads=2).seconds == pytest.approx(LAUNCH + BARRIER + 3e6 * 3e-9 / 2)
    uneven = replace(tally, shares=3)  # one unit has two of three
    assert price(uneven, SPEC, threads=2).seconds == pytest.approx(LAUNCH + BARRIER + 3e6 * 3e-9 * 2 / 3)
    alone = replace(tally, shares=1)
    assert price(alone, SPEC, threads=2) == price(alone, SPEC, threads=1)
    assert price(tally, SPEC, threads=64) == price(tally, SPEC, threads=2)  # it has two


def test_units_get_no_more_from_a_level_than_it_gives() -> None:
    l2, memory = SPEC.levels[1:]
    assert bandwidth(l2, False, 2) == 1e10  # one each
    assert bandwidth(memory, False, 1) == 1e9 and bandwidth(memory, False, 2) == 1.5e9
    assert bandwidth(memory, True, 2) == 1e9


def test_joules_are_power_by_time() -> None:
    found = price(Tally(scalar=1e6), SPEC)
    assert found.joules == pytest.approx(found.seconds * 15.0)
    assert price(Tally(scalar=1e6), replace(SPEC, power=None)).joules == 0


def test_costs_add_up() -> None:
    assert Cost(1, 2, 3, 4) + Cost(10, 20, 30, 40) == Cost(11, 22, 33, 44)
    assert sum([Cost(1.0)] * 3, Cost()) == Cost(3.0)


def test_every_scalar_function_has_a_class_that_is_priced() -> None:
    assert set(CLASS_OF) <= set(SCALAR_FNS)
    assert set(CLASS_OF.values()) <= set(RATES)


amounts = st.floats(0, 1e12)
tallies = st.builds(
    Tally,
    products=st.dictionaries(st.sampled_from([(F32, F32, F32), (DType.U8, DType.I8, DType.I32)]), amounts),
    elements=st.dictionaries(st.sampled_from(RATES), amounts),
    moves=st.dictionaries(st.sampled_from(MOVES), amounts),
    scalar=amounts,
    loops=amounts,
    chain=amounts,
    streams=st.lists(st.builds(Stream, amounts, amounts, st.booleans()), max_size=3).map(tuple),
    shares=st.one_of(st.just(math.inf), st.integers(1, 100).map(float)),
)


@given(tallies, st.sampled_from(["products", "elements", "moves", "scalar", "loops", "chain", "streams"]), amounts)
def test_more_work_never_costs_less(tally: Tally, what: str, more: float) -> None:
    if what in ("scalar", "loops", "chain"):
        larger = replace(tally, **{what: getattr(tally, what) + more})
    elif what == "streams":
        larger = replace(tally, streams=(*tally.streams, Stream(more, more)))
    else:
        larger = replace(tally, **{what: {key: count + more for key, count in getattr(tally, what).items()}})
    assert price(larger, SPEC).seconds >= price(tally, SPEC).seconds
    assert price(larger, SPEC).bytes >= price(tally, SPEC).bytes


@given(tallies, amounts)
def test_what_is_farther_away_never_comes_sooner(tally: Tally, farther: float) -> None:
    away = replace(tally, streams=tuple(replace(s, distance=s.distance + farther) for s in tally.streams))
    assert price(away, SPEC).seconds >= price(tally, SPEC).seconds


@given(tallies)
def test_nothing_is_free_and_everything_ends(tally: Tally) -> None:
    found = price(tally, SPEC)
    assert LAUNCH <= found.seconds < math.inf and found.joules > 0
