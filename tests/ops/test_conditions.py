"""What is proved of sizes from the conditions that a run has checked by then."""

from __future__ import annotations

from mapsto.ir.expr import sym
from mapsto.ops.conditions import Conditions

n, m = sym("n"), sym("m")


def test_a_condition_holds_from_then_on_and_inside() -> None:
    outer = Conditions()
    assert not outer.proves(n - m)
    outer.add(n - m)
    assert outer.proves(n - m) and Conditions(outer).proves(n - m) and not outer.proves(m - n)


def test_what_is_checked_inside_does_not_hold_outside() -> None:
    outer = Conditions()
    inner = Conditions(outer)
    inner.add(n - 4)
    assert inner.proves(n - 4) and not outer.proves(n - 4)


def test_the_largest_lower_bound_of_a_size_counts() -> None:
    conditions = Conditions()
    for least in (2, 5, 3):
        conditions.add(n - least)
    assert conditions.proves(3 * n - 15) and not conditions.proves(3 * n - 16)
    assert Conditions(conditions).proves(n * m + n - 5)


def test_numbers_need_no_conditions() -> None:
    assert Conditions().proves(0) and not Conditions().proves(-1) and Conditions().proves(n)
