"""What a problem may say, and what of it is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mapsto.solve.problem import LARGEST, Problem, Table


@pytest.mark.parametrize(
    ("variables", "costs", "says"),
    [
        (("a", "b"), np.zeros(3), r"table over \(a, b\): costs of shape \(3,\)"),
        (("a", "a"), np.zeros((2, 2)), "twice"),
        (("a",), np.zeros(0), "shape"),
        (("a",), np.array([0.0, math.nan]), r"table over \(a\): a cost is NaN"),
        (("a",), np.array([math.inf, math.nan]), "NaN"),
        (("a",), np.array([0.0, -math.inf]), "-inf"),
        (("a",), np.array([math.inf, 2 * LARGEST]), "beyond"),
        (tuple("abcdefghijklm"), np.zeros((1,) * 13), "13 variables, at most 12"),
        (("a", "b"), np.zeros((1001, 1000)), "1,001,000 cells"),
    ],
)
def test_tables_that_are_refused(variables: tuple[str, ...], costs: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Table(variables, costs)


def test_tables_must_fit_the_variables() -> None:
    with pytest.raises(ValueError, match=r"table over \(a\): 3 choices for a, which has 2"):
        Problem({"a": 2}, (Table(("a",), np.zeros(3)),))
    with pytest.raises(ValueError, match="not among"):
        Problem({"a": 2}, (Table(("b",), np.zeros(2)),))
    for count in (0, 10**6 + 1):
        with pytest.raises(ValueError, match=f"variable a: {count} choices"):
            Problem({"a": count}, ())


def test_a_table_keeps_what_it_was_given() -> None:
    given = np.zeros(2)
    table = Table(("a",), given)
    given[0] = 5.0
    assert table.costs[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        table.costs[0] = 1.0


def test_a_cost_is_rounded_once() -> None:
    problem = Problem({"a": 2}, tuple(Table(("a",), np.array([cost, math.inf])) for cost in (1e20, 1.0, -1e20)))
    assert problem.cost({"a": 0}) == 1.0 and problem.cost({"a": 1}) == math.inf
