"""Timelines as text and as trace events."""

from __future__ import annotations

import json

import numpy as np

from mapsto.placement.model import latency, timeline
from mapsto.placement.place import place
from mapsto.placement.problem import Job, PlacementProblem, Route
from mapsto.placement.trace import timeline_text, trace_events
from tests.placement.graphs import problem_of, random_edges

LINKS = {(0, 1): Route(0, 1e-6, 1e9), (1, 0): Route(0, 1e-6, 1e9)}
WORKS = (Job("conv", (9e-6, 2e-6), (0,), (1,)), Job("pool", (1e-6, 9e-6), (1,), (2,)))
GRAPH = PlacementProblem(("cpu", "npu"), WORKS, (1000.0, 3000.0, 500.0), (2,), LINKS)


def test_text() -> None:
    assert timeline_text(GRAPH, timeline(GRAPH, [1, 0])).splitlines() == [
        "         0.0          2.0 us  bus 0  input 0: cpu to npu",
        "         2.0          4.0 us  npu    conv",
        "         4.0          8.0 us  bus 0  result 1 of conv: npu to cpu",
        "         8.0          9.0 us  cpu    pool",
    ]


def test_a_trace_holds_every_event_and_lane() -> None:
    rng = np.random.default_rng(0)
    graph = problem_of(random_edges(rng, 30), rng, 3)
    seats = place(graph).seats
    events = timeline(graph, seats)
    said = json.loads(json.dumps(trace_events(graph, events)))["traceEvents"]
    lanes = {e["tid"]: e["args"]["name"] for e in said if e["ph"] == "M"}
    assert list(lanes.values()) == ["d0", "d1", "d2", "bus 0", "bus 1"]
    spans = [e for e in said if e["ph"] == "X"]
    assert len(spans) == len(events) and {e["tid"] for e in spans} <= lanes.keys()
    assert {e["cat"] for e in spans} == {"work", "transfer"}
    assert np.isclose(max(e["ts"] + e["dur"] for e in spans), 1e6 * latency(graph, seats))
    works = [e for e in spans if e["cat"] == "work"]
    assert [e["tid"] for e in works] == list(seats) and [e["name"] for e in works] == [w.name for w in graph.works]
    assert all(e["args"]["bytes"] > 0 for e in spans if e["cat"] == "transfer")
