"""Works that are passed on before their device comes to a pause."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mapsto.placement.early import awaited
from mapsto.placement.problem import Job, PlacementProblem, Route

LINKS = {(0, 1): Route(0, 0.0, 1.0), (1, 0): Route(0, 0.0, 1.0)}
WORKS = (
    Job("a", (1, 1), (4,), (0,)), Job("b", (5, 5), (4,), (1,)), Job("c", (3, 3), (0,), (2,)),
    Job("d", (1, 1), (1, 2), (3,)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("begins", "seats", "expected"),
    [
        (1.0, (0, 0, 1, 0), {0}),  # c needs not wait until b is done as well
        (3.0, (0, 0, 1, 0), set()),  # a pause takes longer
        (1.0, (0, 1, 0, 0), set()),  # nothing comes between
        (1.0, (0, 0, 0, 0), set()),
        (0.0, (0, 0, 1, 1), {0}),  # b is the last of its device: it ends its part at any rate
    ],
)
def test_a_part_ends_where_another_device_waits(begins: float, seats: tuple[int, ...], expected: set[int]) -> None:
    problem = PlacementProblem(("host", "other"), WORKS, (1.0,) * 5, (3,), LINKS, begins=(begins, begins))
    assert awaited(problem, seats) == expected
    assert awaited(replace(problem, objective="throughput"), seats) == frozenset()
