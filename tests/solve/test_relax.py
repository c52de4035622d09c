"""Moving costs changes no choice's cost, and never lowers the bound."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mapsto.solve.parts import cost_of, parts_of
from mapsto.solve.problem import Problem
from mapsto.solve.relax import _Sweeper
from tests.solve.problems import banded, grid, random_costs


@pytest.mark.parametrize(
    "problem",
    [
        grid(3, 3, 2),
        banded(9, 4, 2),
        random_costs([("a", "b", "c"), ("c", "d", "e"), ("a", "e"), ("b", "d"), ("b",)], 3, seed=5),
    ],
    ids=["grid", "banded", "tables of three"],
)
def test_sweeps_keep_every_sum_and_raise_the_bound(problem: Problem) -> None:
    (part,) = parts_of(problem).parts
    sweeper = _Sweeper(part, 10**6)
    bounds = [sweeper.bound()]
    for forward in (True, False) * 4:
        assert sweeper.sweep(forward, bounds[-1])
        bounds.append(sweeper.bound())
    assert bounds[1] > bounds[0] and all(b >= a - 1e-12 for a, b in itertools.pairwise(bounds))
    choices = [part.domains[v] for v in part.variables]
    for choice in np.random.default_rng(0).integers(0, choices, size=(50, len(choices))).tolist():
        moved = sum(float(sweeper.alone[v][choice[v]]) for v in part.variables)
        moved += sum(float(t.costs[tuple(choice[v] for v in t.scope)]) for t in sweeper.tables)
        assert moved == pytest.approx(cost_of(part.factors, choice), abs=1e-12)
