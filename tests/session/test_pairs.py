"""Which pairs of times show that something is faster."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapsto.session.pairs import is_faster, luck, share_of

times = st.floats(1e-6, 1.0)


def test_the_share_is_the_median_of_the_ratios() -> None:
    assert share_of([(1.0, 0.5), (2.0, 1.8), (1.0, 40.0)]) == pytest.approx(0.9)
    assert share_of([]) == 1.0 and not is_faster([], 0.0)


@pytest.mark.parametrize("won, count", [(12, 12), (0, 12), (9, 12), (11, 12)])
def test_luck_is_that_of_a_coin(won: int, count: int) -> None:
    pairs = [(1.0, 0.5)] * won + [(1.0, 2.0)] * (count - won)
    assert luck(pairs) == pytest.approx(sum(math.comb(count, k) for k in range(won, count + 1)) / 2**count)


def test_faster_is_by_enough_and_not_by_luck() -> None:
    assert is_faster([(1.0, 0.9)] * 12, 0.03)
    assert not is_faster([(1.0, 0.98)] * 12, 0.03)  # too little
    assert not is_faster([(1.0, 0.9)] * 5, 0.03)  # five in a row happen once in 32 times
    assert not is_faster([(1.0, 0.9)] * 8 + [(1.0, 1.1)] * 4, 0.03)


@given(st.lists(st.tuples(times, times), max_size=60))
def test_never_both_ways(pairs: list[tuple[float, float]]) -> None:
    assert not (is_faster(pairs, 0.0) and is_faster([(b, a) for a, b in pairs], 0.0))
