"""What devices turned out to take for works: seen, not seen, and kind by kind."""

from __future__ import annotations

import math

import pytest

from mapsto.plan.placing import Considered, Correction, Priced
from mapsto.session.learned import LearnedTimes


def work(name: str, seconds: tuple[float, float], is_contraction: bool = True) -> Considered:
    return Considered(name, (), (name,), (), tuple(Priced(s, 0.0) for s in seconds), is_contraction)


WORKS = [work("a", (1.0, 2.0)), work("b", (3.0, 2.0)), work("c", (1.0, 1.0), False), work("d", (1.0, math.inf))]


def test_what_was_not_seen_is_as_what_was() -> None:
    learned = LearnedTimes(WORKS)
    assert [learned.of(w, d) for w in range(4) for d in range(2)] == [1.0] * 8
    learned.see([(0, 1, 2.0), (1, 1, 4.0)])
    assert [learned.of(w, 1) for w in range(4)] == [2.0, 4.0, 3.0, 3.0]
    assert [learned.of(w, 0) for w in range(4)] == [1.0] * 4


def test_what_was_seen_again_is_beside_what_was_known() -> None:
    learned = LearnedTimes(WORKS)
    learned.see([(0, 0, 2.0)])
    learned.see([(0, 0, 1.5), (1, 0, 0.5)])  # b was expected to take twice as long, as a did
    assert learned.of(0, 0) == pytest.approx(3.0) and learned.of(1, 0) == pytest.approx(1.0)
    assert learned.of(2, 0) == pytest.approx((1.0 * 3 + 3.0 * 1) / 4)  # by what they are predicted to take


def test_corrections_are_by_kind() -> None:
    learned = LearnedTimes(WORKS)
    learned.see([(0, 0, 2.0), (1, 0, 2.0), (2, 0, 0.5)])
    host, other = learned.corrections([Correction(3.0, 4.0), Correction(1.5, 1.0)])
    assert (host.contraction, host.rows) == pytest.approx((6.0, 2.0), rel=0.025)  # in steps of 1.05
    assert (other.contraction, other.rows) == (1.5, 1.0)


def test_what_a_device_does_not_take_says_nothing() -> None:
    learned = LearnedTimes(WORKS)
    learned.see([(3, 1, 2.0)])
    assert learned.of(0, 1) == 1.0
