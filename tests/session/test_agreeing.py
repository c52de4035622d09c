"""When several runs agree on the least that something takes."""

from __future__ import annotations

from itertools import count

from mapsto.session.agreeing import agreed_least


def least(*taken: float, agreeing: int = 3, fewest: int = 4) -> tuple[float, int]:
    """And how many runs it took."""
    left = iter(taken)
    found = agreed_least(left.__next__, agreeing, fewest, len(taken))
    return found, len(taken) - len(list(left))


def test_it_ends_once_enough_agree() -> None:
    assert least(2.0, 1.0, 3.0, 1.05, 2.0, 1.09, 0.5) == (1.0, 6)


def test_not_before_the_fewest() -> None:
    assert least(1.0, 1.0, 1.0, 0.9, 9.0) == (0.9, 5)  # 1.0 is beyond a tenth more than 0.9
    assert least(1.0, 1.0, 1.0, 1.0, 9.0) == (1.0, 4)


def test_it_ends_where_none_agree() -> None:
    falling = count(100, -20)
    assert agreed_least(lambda: float(next(falling)), 2, 2, 5) == 20.0 and next(falling) == 0
