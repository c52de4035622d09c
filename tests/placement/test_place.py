"""Placers: the exact one beside all assignments there are, bounds below them, networks and large graphs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mapsto.placement import search as searching
from mapsto.placement.bounds import heads, lower_bound, prices, tails
from mapsto.placement.model import latency, timeline
from mapsto.placement.place import place
from mapsto.placement.problem import OBJECTIVES, PLACERS, Job, PlacementProblem, Route
from mapsto.placement.simple import additive, by_support, heft
from tests.placement.graphs import NETWORKS, problem_of, random_edges

SMALL = 300
CLOSE = 1 + 1e-9


def small(
    seed: int, objective: str = "latency", memory: float = math.inf, begins: float = 0.0
) -> PlacementProblem:
    """Up to 12 works on two devices, or 8 on three; now and then a device does not take one. memory: of the second."""
    rng = np.random.default_rng(seed)
    devices = 3 if seed % 4 == 0 else 2
    count = int(rng.integers(1, 9 if devices == 3 else 13))
    return problem_of(
        random_edges(rng, count, int(rng.integers(1, 7))), rng, devices, refuses=0.15 * (seed % 3),
        objective=objective, memory=(math.inf, memory, math.inf)[:devices], begins=begins,
    )  # fmt: skip


@pytest.mark.parametrize("part", range(10))
def test_the_exact_placer_equals_all_assignments(part: int) -> None:
    for seed in range(part, SMALL, 10):
        graph = small(seed)
        found, best = place(graph), place(graph, "exhaustive")
        assert best.seconds / CLOSE <= found.seconds <= best.seconds * CLOSE, seed
        assert found.bound <= best.seconds * CLOSE and lower_bound(graph) <= best.seconds * CLOSE, seed
        assert latency(graph, found.seats) == found.seconds and found.said == "proved optimal", seed


@pytest.mark.parametrize("memory", [math.inf, 3.0])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_exact_placer_keeps_to_objectives_and_memory(objective: str, memory: float) -> None:
    limited = 0
    for seed in range(60):
        graph = small(seed, objective, memory)
        found, best = place(graph), place(graph, "exhaustive")
        assert best.seconds / CLOSE <= found.seconds <= best.seconds * CLOSE, seed
        assert found.bound <= best.seconds * CLOSE and found.said == "proved optimal", seed
        holds = sum(w.holds for w, d in zip(graph.works, found.seats, strict=True) if d == 1)
        assert holds <= memory
        limited += best.seconds > place(small(seed, objective), "exhaustive").seconds * CLOSE
    assert (limited > 10) == (memory < math.inf)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_exact_placer_knows_what_handing_over_takes(objective: str) -> None:
    """Also where devices copy themselves, in place of their works."""
    dearer = 0
    for seed in range(120):
        graph = small(seed, objective, begins=0.4)
        found, best = place(graph), place(graph, "exhaustive")
        assert best.seconds / CLOSE <= found.seconds <= best.seconds * CLOSE, seed
        assert found.bound <= best.seconds * CLOSE and lower_bound(graph) <= best.seconds * CLOSE, seed
        assert found.said == "proved optimal", seed
        dearer += best.seconds > place(replace(graph, begins=()), "exhaustive").seconds * CLOSE
    assert dearer > 10


@pytest.mark.parametrize("width", [1, 3])
def test_a_bound_holds_where_the_search_is_narrow(width: int) -> None:
    for seed in range(60):
        graph = small(seed)
        best = place(graph, "exhaustive").seconds
        known = latency(graph, by_support(graph))
        found = searching.search(graph, known, width)
        assert found.bound <= best * CLOSE and found.seconds >= best / CLOSE, seed
        if found.seats is not None:
            assert found.seconds <= latency(graph, found.seats) * CLOSE < known * CLOSE, seed


def test_a_search_that_drops_too_much_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of those with the same values in the same places is not the best of them."""
    monkeypatch.setattr(searching, "_are_no_later", lambda times, others, rows: np.ones(len(rows), bool))
    wrong = 0
    for seed in range(60):
        graph = small(seed)
        found = searching.search(graph, 2 * latency(graph, by_support(graph)), 1 << 12)
        wrong += found.seconds > place(graph, "exhaustive").seconds * CLOSE
    assert wrong


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str) -> None:
    for seed in range(2):
        graph = problem_of(NETWORKS[name](), np.random.default_rng(seed))
        found = place(graph)
        assert found.gap <= 0.05
        assert all(found.seconds <= seconds * CLOSE for _, seconds in found.others)
        assert max(e.end for e in timeline(graph, found.seats)) == found.seconds


@pytest.mark.parametrize("name", NETWORKS)
def test_streams_of_networks(name: str) -> None:
    """Two devices of much the same speed share a stream nearly evenly."""
    graph = problem_of(NETWORKS[name](), np.random.default_rng(0), objective="throughput")
    found = place(graph)
    assert found.gap <= 0.05 and all(found.seconds <= seconds * CLOSE for _, seconds in found.others)
    one_run = replace(graph, objective="latency")
    assert found.seconds <= latency(one_run, found.seats)
    assert found.seconds < 0.75 * min(seconds for name, seconds in found.others if name.startswith("all on"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_large_random_graphs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = problem_of(random_edges(rng, int(rng.integers(60, 100))), rng)
    found = place(graph)
    assert found.gap <= 0.15 and all(found.seconds <= seconds * CLOSE for _, seconds in found.others)
    assert place(graph) == found


def test_stretches_between_single_values_are_solved_by_themselves() -> None:
    """A chain of diamonds, of which all assignments could not be gone through: proved optimal by a narrow search."""
    edges: list[list[int]] = [[]]
    for _ in range(60):
        start = len(edges) - 1
        edges += [[start], [start], [start + 1, start + 2]]
    graph = problem_of(edges, np.random.default_rng(0))
    assert place(graph).said == "proved optimal"


def test_where_there_is_nothing_to_choose() -> None:
    nothing = PlacementProblem(("host",), (), (4.0,), (0,), {})
    assert place(nothing).seconds == 0 and place(nothing).seats == ()
    one = PlacementProblem(("host",), (Job("a", (2.0,), (0,), (1,)),), (4.0, 4.0), (1,), {})
    assert [place(one, name).seats for name in PLACERS] == [(0,)] * 4 and place(one).bound == 2
    works = (Job("x", (1, 9), (0,), (1,)), Job("y", (math.inf, 1), (1,), (2,)))
    apart = PlacementProblem(("a", "b"), works, (1, 1, 1), (2,), {})
    assert place(apart).seconds == math.inf and place(apart).said == "there is no assignment"
    with pytest.raises(ValueError, match="placer 'best'; there are greedy"):
        place(one, "best")


def test_the_example_of_the_page() -> None:
    links = {(0, 1): Route(0, 1.0, math.inf), (1, 0): Route(0, 1.0, math.inf)}
    works = (
        Job("a", (2, 1), (0,), (1,)), Job("b", (4, 3), (1,), (2,)), Job("c", (4, 2), (1,), (3,)),
        Job("d", (1, 1), (2, 3), (4,)),
    )  # fmt: skip
    graph = PlacementProblem(("host", "other"), works, (1,) * 5, (4,), links)
    said = {(0, 0, 0, 0): 11, (1, 1, 1, 1): 9, (0, 0, 1, 0): 7}
    assert {seats: latency(graph, seats) for seats in said} == said
    best = place(graph)
    assert best.seats == (0, 0, 1, 0) and best.said == "proved optimal" and dict(best.others)["additive"] == 9


def test_heads_tails_and_prices() -> None:
    links = {(0, 1): Route(0, 1.0, 1.0), (1, 0): Route(0, 1.0, 1.0)}
    works = (Job("a", (2, 1), (0,), (1,)), Job("b", (6, 2), (1,), (2,)))
    graph = PlacementProblem(("host", "other"), works, (1, 1, 3), (2,), links)
    assert heads(graph).tolist() == [[0, 2], [2, 3]]
    assert tails(graph).tolist() == [[6, 6], [0, 4]]
    assert lower_bound(graph) == 8
    assert prices(np.array([[2.0, 2.0], [2.0, 2.0]]))[1] == 2
    assert prices(np.array([[1.0, math.inf], [3.0, math.inf]]))[1] == pytest.approx(4, rel=0.02)
    assert [len(each(graph)) for each in (by_support, heft, additive)] == [2, 2, 2]


def test_an_input_may_be_moved_before_what_all_hangs_on_is_made() -> None:
    """By the other device itself, which has nothing to do yet."""
    links = {(a, b): Route(0, 0.0, 1.0, 1) for a, b in ((0, 1), (1, 0))}
    works = (Job("a", (10.0, 99.0), (2,), (0,)), Job("b", (5.0, 2.0), (3, 0), (1,)))
    graph = PlacementProblem(("host", "other"), works, (1.0, 0.0, 0.0, 8.0), (1,), links)
    found = searching.search(graph, 14.0, 100)
    assert (found.seats, found.seconds) == ([0, 1], 13.0)
