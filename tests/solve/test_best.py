"""The least sum, against trying every choice: by elimination, by integer programming, by local search with bounds."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.budget import Budget, metering
from mapsto.errors import BudgetError
from mapsto.solve.best import solve
from mapsto.solve.problem import Problem, Solution, Table
from tests.solve.problems import SMALL, Drawn, banded, chain, check, drawn, every_choice, grid, random_costs, star, tree


def first(problem: Problem) -> dict[str, int]:
    return dict.fromkeys(problem.domains, 0)


def without_highspy(problem: Problem, incumbent: dict[str, int], cells: int = 10**6) -> Solution:
    """As where highspy is not installed, and no order of elimination were cheap enough."""
    with patch.dict(sys.modules, {"highspy": None}), patch("mapsto.solve.best.order_of", lambda part, cells: None):
        return solve(problem, incumbent, cells=cells)


def by_highs(problem: Problem, incumbent: dict[str, int], seconds: float = 60.0) -> Solution:
    return solve(problem, incumbent, cells=0, seconds=seconds)


@given(drawn())
@settings(max_examples=300)
def test_elimination_is_exact_in_every_loss(case: Drawn) -> None:
    problem, incumbent = case
    solution = solve(problem, incumbent)
    assert solution.exact
    check(problem, incumbent, solution)


@given(drawn(most=5))
@settings(max_examples=100)
def test_integer_programming_finds_the_least(case: Drawn) -> None:
    problem, incumbent = case
    solution = by_highs(problem, incumbent)
    check(problem, incumbent, solution)
    assert solution.method != "incumbent" or every_choice(problem)[0] == math.inf


@given(drawn())
@settings(max_examples=150)
def test_without_highspy_bounds_hold_and_the_incumbent_is_kept_or_improved(case: Drawn) -> None:
    problem, incumbent = case
    solution = without_highspy(problem, incumbent)
    check(problem, incumbent, solution)
    assert solution.method == ("incumbent" if any(count > 1 for count in problem.domains.values()) else "elimination")


@pytest.mark.parametrize("shape", SMALL)
def test_known_shapes(shape: str) -> None:
    problem = SMALL[shape]()
    for solution in (solve(problem, first(problem)), by_highs(problem, first(problem))):
        check(problem, first(problem), solution)
        assert solution.method in ("elimination", "highs")
    check(problem, first(problem), without_highspy(problem, first(problem)))


def test_message_passing_finds_the_sum_of_trees_and_the_losses_of_chains() -> None:
    for shape in ("chain", "tree", "star"):
        problem = SMALL[shape]()
        best, marginals = every_choice(problem)
        solution = without_highspy(problem, first(problem))
        assert solution.cost == pytest.approx(best, abs=1e-6) and solution.bound == pytest.approx(best, abs=1e-6)
        for name, row in marginals.items():
            truth = [least - best for least in row]
            if shape == "chain":
                assert solution.losses[name] == pytest.approx(truth, abs=1e-5)
        assert any(loss > 0.0 for row in solution.losses.values() for loss in row)


@given(drawn(), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_the_order_of_variables_and_tables_says_nothing(case: Drawn, chance: object) -> None:
    problem, incumbent = case
    names, tables = list(problem.domains), list(problem.tables)
    chance.shuffle(names), chance.shuffle(tables)  # type: ignore[attr-defined]
    other = Problem({name: problem.domains[name] for name in names}, tuple(tables))
    assert solve(other, incumbent) == solve(problem, incumbent)
    assert by_highs(other, incumbent) == by_highs(problem, incumbent)


def test_tables_over_the_same_variables_add_up_alike_in_any_order() -> None:
    tables = [Table(("a",), np.array([0.0, cost])) for cost in (0.1, 0.2, 0.3)]
    found = [solve(Problem({"a": 2}, order), {"a": 0}).losses["a"] for order in itertools.permutations(tables)]
    assert len(set(found)) == 1 and found[0][1] == pytest.approx(0.6)


@given(drawn())
@settings(max_examples=100)
def test_names_say_nothing_of_the_cost(case: Drawn) -> None:
    problem, incumbent = case
    to = {name: f"w{9 - int(name[1:])}" for name in problem.domains}
    tables = tuple(Table(tuple(to[v] for v in t.variables), t.costs) for t in problem.tables)
    other = Problem({to[name]: count for name, count in problem.domains.items()}, tables)
    theirs = solve(other, {to[name]: value for name, value in incumbent.items()})
    assert theirs.cost == pytest.approx(solve(problem, incumbent).cost, abs=1e-9)


@given(drawn())
@settings(max_examples=150)
def test_the_best_choice_is_left_alone(case: Drawn) -> None:
    """Among equals it is the incumbent's: a second time nothing changes, by whatever method."""
    problem, incumbent = case
    best = dict(solve(problem, incumbent).choice)
    for again in (solve(problem, best), by_highs(problem, best), without_highspy(problem, best)):
        assert again.choice == best


def test_what_gains_nothing_is_not_changed_beside_what_does() -> None:
    """`a` gains; `b`, far from it in the same part, has two values as good, and `c` one that is barely better."""
    far = [
        Table(("a", "m"), np.zeros((2, 2))),
        Table(("m", "b"), np.zeros((2, 2))),
        Table(("m", "c"), np.zeros((2, 2))),
    ]
    own = [Table(("a",), np.array([0.0, 1.0])), Table(("b",), np.array([0.1 + 0.2, 0.3])),
           Table(("c",), np.array([1.0 - 1e-12, 1.0]))]  # fmt: skip
    problem = Problem(dict.fromkeys("ambc", 2), (*far, *own))
    for value in (0, 1):
        incumbent = {"a": 1, "m": value, "b": value, "c": 1}
        for solution in (solve(problem, incumbent), by_highs(problem, incumbent), without_highspy(problem, incumbent)):
            assert solution.choice == {**incumbent, "a": 0}


def test_an_incumbent_that_is_forbidden_gives_way_to_any_that_is_not() -> None:
    equal = np.where(np.eye(3, dtype=bool), 5.0, np.inf)
    problem = Problem(dict.fromkeys("abc", 3), (Table(("a", "b"), equal), Table(("b", "c"), equal)))
    incumbent = {"a": 0, "b": 1, "c": 2}
    for solution in (solve(problem, incumbent), by_highs(problem, incumbent), without_highspy(problem, incumbent)):
        assert solution.cost == 10.0 and len(set(solution.choice.values())) == 1


def test_nothing_allowed_is_said() -> None:
    never = Table(("a", "b"), np.array([[np.inf, 1.0], [1.0, np.inf]]))
    same = Table(("b", "a"), np.array([[1.0, np.inf], [np.inf, 1.0]]))
    free = Table(("c",), np.array([1.0, 0.0]))
    problem = Problem(dict.fromkeys("abc", 2), (never, same, free))
    for solution in (
        solve(problem, first(problem)),
        by_highs(problem, first(problem)),
        without_highspy(problem, first(problem)),
    ):
        assert solution.cost == solution.bound == math.inf and solution.gap == 0.0
        assert solution.choice == first(problem)
        assert all(loss == math.inf for row in solution.losses.values() for loss in row)


def test_no_variables_and_variables_in_no_table() -> None:
    empty = solve(Problem({}, ()), {})
    assert (empty.choice, empty.cost, empty.bound, empty.method, empty.losses) == ({}, 0.0, 0.0, "elimination", {})
    problem = Problem({"a": 3, "b": 1}, (Table((), np.array(2.0)), Table(("b",), np.array([0.5]))))
    solution = solve(problem, {"a": 2, "b": 0})
    assert solution.choice == {"a": 2, "b": 0} and solution.cost == solution.bound == 2.5
    assert solution.losses == {"a": (0.0, 0.0, 0.0), "b": (0.0,)}


def test_small_losses_are_not_lost_beside_a_large_sum() -> None:
    """Losses are added up by themselves: 1e-9 beside 10^7 is below what a double could keep of the sum."""
    tables = [Table((f"v{k}", f"v{k + 1}"), np.full((2, 2), 1e6) + 0.0) for k in range(20)]
    own = [Table((f"v{k}",), np.array([0.0, 1e-9 * (k + 1)])) for k in range(21)]
    problem = Problem({f"v{k}": 2 for k in range(21)}, (*tables, *own))
    solution = solve(problem, first(problem))
    assert [solution.losses[f"v{k}"][1] for k in range(21)] == pytest.approx(
        [1e-9 * (k + 1) for k in range(21)], rel=0.2
    )


def test_parts_are_solved_each_by_what_it_allows() -> None:
    """A part too wide for the cells goes to HiGHS; the others stay exact."""
    wide, narrow = grid(4, 4, 3), random_costs([("x", "y"), ("y", "z")], 3, seed=1)
    problem = Problem({**wide.domains, **narrow.domains}, wide.tables + narrow.tables)
    solution = solve(problem, first(problem), cells=200, seconds=60.0)
    assert solution.method == "highs" and not solution.exact
    assert solution.cost == pytest.approx(solve(wide, first(wide)).cost + solve(narrow, first(narrow)).cost)
    for name, losses in solve(narrow, first(narrow)).losses.items():
        assert solution.losses[name] == losses


def test_cells_bound_what_is_made() -> None:
    problem = grid(4, 4, 2)
    assert solve(problem, first(problem), cells=10**6).method == "elimination"
    assert solve(problem, first(problem), cells=100).method == "highs"
    assert solve(problem, first(problem), cells=100, seconds=0.0).method == "incumbent"


def test_time_that_is_up_leaves_the_better_choice_and_a_bound() -> None:
    problem = grid(25, 25, 3)
    solution = solve(problem, first(problem), cells=10**5, seconds=0.3)
    assert solution.cost < problem.cost(first(problem)) and 0 < solution.bound <= solution.cost


@pytest.mark.parametrize("shape", [chain, tree, star])
def test_ten_thousand_variables(shape: Callable[[int, int], Problem]) -> None:
    """As deep, or as many neighbours. A loss against solving with the value forced."""
    problem = shape(10_000, 3)
    solution = solve(problem, first(problem))
    assert solution.exact and solution.gap <= 1e-9 * solution.cost
    name = list(problem.domains)[5000]
    forced = Table((name,), np.array([math.inf, math.inf, 0.0]))
    cost = solve(Problem(problem.domains, (*problem.tables, forced)), first(problem)).cost
    assert cost - solution.bound == pytest.approx(solution.losses[name][2], abs=1e-8)


def test_wide_graphs_by_elimination() -> None:
    """Treewidth 8: losses against solving anew with each value forced."""
    problem = banded(60, 8, 2, seed=4)
    solution = solve(problem, first(problem))
    assert solution.exact
    for name in list(problem.domains)[::7]:
        for value in range(2):
            forced = Table((name,), np.where(np.arange(2) == value, 0.0, np.inf))
            cost = solve(Problem(problem.domains, (*problem.tables, forced)), first(problem)).cost
            assert cost - solution.cost == pytest.approx(solution.losses[name][value], abs=1e-9)


def test_a_matrix_too_large_for_highs_is_left_to_local_search() -> None:
    problem = grid(3, 3, 3)
    with patch("mapsto.solve.milp.MOST_ENTRIES", 10):
        solution = by_highs(problem, first(problem))
    assert solution.method == "incumbent"
    check(problem, first(problem), solution)


def test_the_hash_seed_says_nothing() -> None:
    """Each method in processes that walk sets of names differently."""
    code = (
        "from tests.solve.problems import *; from tests.solve.test_best import *\n"
        "p = grid(4, 4, 3); q = first(p); print(solve(p, q), by_highs(p, q), without_highspy(p, q))"
    )
    said = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        said.add(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout)
    (only,) = said
    assert b"method='highs'" in only
    assert only.startswith(b"Solution(") and only.count(b"\n") == 1  # HiGHS, new in a process, does not name itself


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    assert by_highs(SMALL["grid"](), first(SMALL["grid"]())).method == "highs"
    assert capfd.readouterr() == ("", "")


def test_the_time_of_the_compile_ends_it() -> None:
    for cells in (10**7, 0):
        with pytest.raises(BudgetError, match="solver"), metering(Budget(seconds=1e-9)):
            solve(chain(100, 3), first(chain(100, 3)), cells=cells)


def test_what_does_not_fit_is_refused() -> None:
    problem = chain(3, 2)
    with pytest.raises(ValueError, match="v1: nothing is chosen"):
        solve(problem, {"v0": 0, "v2": 0})
    with pytest.raises(ValueError, match="v1: choice 2; it has 2"):
        solve(problem, {"v0": 0, "v1": 2, "v2": 0})
    with pytest.raises(ValueError, match="negative"):
        solve(problem, first(problem), cells=-1)
    with pytest.raises(ValueError, match="negative"):
        solve(problem, first(problem), seconds=math.nan)
