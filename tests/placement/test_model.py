"""The execution model, rule by rule, and on random graphs: what a timeline must be like, whatever made it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapsto.placement.model import latencies, latency, timeline
from mapsto.placement.problem import HOST, Job, PlacementProblem, Route
from tests.placement.graphs import problem_of, random_edges

ONE_BUS = {(0, 1): Route(0, 0.0, 1.0), (1, 0): Route(0, 0.0, 1.0)}


def problem(
    works: list[Job], values: list[float], outputs: tuple[int, ...] = (), links: object = ONE_BUS
) -> PlacementProblem:
    return PlacementProblem(("host", "other"), tuple(works), tuple(values), outputs, links)  # type: ignore[arg-type]


def test_devices_work_at_once_and_each_in_program_order() -> None:
    works = [Job("a", (4, 4), (3,), (0,)), Job("b", (3, 3), (3,), (1,)), Job("c", (2, 2), (0, 1), (2,))]
    graph = problem(works, [1, 1, 1, 0], (2,))
    assert latency(graph, [0, 0, 0]) == 9
    assert latency(graph, [0, 1, 0]) == 4 + 2  # b beside a, and moved by then
    assert latency(graph, [0, 1, 1]) == 4 + 1 + 2 + 1  # a's value moved, then the output


def test_a_value_is_moved_once() -> None:
    works = [Job("a", (1, 1), (), (0,)), *(Job(f"r{k}", (9, 1), (0,), (1 + k,)) for k in range(3))]
    graph = problem(works, [5, 0, 0, 0], (1, 2, 3))
    events = timeline(graph, [0, 1, 1, 1])
    assert [e.value for e in events if e.work is None and e.value == 0] == [0]
    assert latency(graph, [0, 1, 1, 1]) == 1 + 5 + 3


def test_transfers_of_one_bus_follow_one_another_in_the_order_of_their_readers() -> None:
    """The first one waits for its value, and the second, whose value is there, for the first."""
    works = [
        Job("late", (10, 99), (), (0,)), Job("early", (1, 99), (), (1,)), Job("x", (99, 1), (0,), (2,)),
        Job("y", (99, 1), (1,), (3,)),
    ]  # fmt: skip
    graph = problem(works, [2, 2, 0, 0])
    moved = {e.value: (e.begin, e.end) for e in timeline(graph, [0, 0, 1, 1]) if e.work is None}
    assert moved == {0: (10, 12), 1: (12, 14)}
    apart = {(0, 1): Route(0, 0.0, 1.0), (1, 0): Route(1, 0.0, 1.0)}
    back = [*works[:3], Job("z", (1, 99), (2,), (3,))]
    both = problem(back, [2, 2, 2, 0], (), apart)
    assert latency(both, [0, 0, 1, 0]) == 10 + 2 + 1 + 2 + 1


def test_inputs_come_from_the_host_and_outputs_go_there() -> None:
    graph = problem([Job("a", (9, 1), (0,), (1,))], [2, 3], (1,))
    assert latency(graph, [1]) == 2 + 1 + 3
    assert latency(problem([Job("a", (9, 1), (0,), (1,))], [2, 3], (0, 1)), [1]) == 2 + 1 + 3


def test_a_device_takes_a_while_to_go_on_with_what_was_moved_to_it() -> None:
    """Once for all that a work reads; and the host with the outputs."""
    works = [
        Job("a", (1, 9), (4,), (0,)), Job("b", (1, 9), (4,), (1,)), Job("c", (9, 2), (0, 1), (2,)),
        Job("d", (9, 1), (0, 2), (3,)),
    ]  # fmt: skip
    graph = replace(problem(works, [1, 1, 1, 1, 0], (3,)), begins=(10.0, 100.0))
    assert latency(graph, [0, 0, 1, 1]) == 2 + 1 + 100 + 2 + 1 + 1 + 10
    begun = {e.work: e.begin for e in timeline(graph, [0, 0, 1, 1]) if e.work is not None}
    assert begun == {0: 0, 1: 1, 2: 103, 3: 105}
    stream = replace(graph, objective="throughput")
    assert latency(stream, [0, 0, 1, 1]) == 100 + 2 + 1  # the host: 2, and 10 for the output
    assert latency(replace(stream, begins=(1000.0, 100.0)), [0, 0, 1, 1]) == 2 + 1000


def test_a_device_that_makes_its_transfers_does_nothing_else_meanwhile() -> None:
    by_other = {(0, 1): Route(0, 0.0, 1.0, 1), (1, 0): Route(0, 0.0, 1.0, 1)}
    works = [Job("a", (9, 1), (3,), (0,)), Job("b", (9, 1), (3,), (1,)), Job("c", (1, 9), (0,), (2,))]
    graph = problem(works, [4, 1, 1, 2], (2,), by_other)
    assert latency(graph, [1, 1, 0]) == 2 + 1 + 1 + 4 + 1  # the input, a and b, and a's value, which waits for b
    assert latency(replace(graph, links=ONE_BUS), [1, 1, 0]) == 2 + 1 + 4 + 1
    lanes = {e.value: (e.bus, e.by) for e in timeline(graph, [1, 1, 0]) if e.work is None}
    assert lanes == {3: (None, 1), 0: (None, 1)}
    assert latency(replace(graph, objective="throughput"), [1, 1, 0]) == 2 + 1 + 1 + 4


def test_a_stream_takes_what_its_slowest_stage_takes() -> None:
    works = [Job("a", (4, 4), (2,), (0,)), Job("b", (3, 3), (0,), (1,))]
    stream = replace(problem(works, [5, 1, 0], (1,)), objective="throughput")
    assert latency(stream, [0, 0]) == 7 and latency(stream, [1, 1]) == 7
    assert latency(stream, [0, 1]) == 5 + 1  # the bus: a's value there, the output back
    assert latency(replace(stream, values=(1.0, 1.0, 0.0)), [0, 1]) == 4


def test_memory_is_of_constants_and_of_what_is_still_to_be_read() -> None:
    works = [
        Job("a", (1, 1), (4,), (0,), 10.0), Job("b", (1, 1), (0,), (1,), 20.0), Job("c", (1, 1), (0, 1), (2,)),
        Job("d", (1, 1), (2,), (3,)),
    ]  # fmt: skip
    graph = problem(works, [1, 2, 4, 8, 16], (3,))
    # with b: its constants and a's; a's value and b's. With d: c's value, and its own
    needs = {(0, 0, 0, 0): (10 + 20 + 4 + 8, 0), (0, 1, 0, 0): (10 + 16 + 1, 20 + 1 + 2), (1, 1, 1, 1): (16, 42)}
    for seats, (host, other) in needs.items():
        limits = (float(host), float(other))
        assert latency(replace(graph, memory=limits), seats) < math.inf, seats
        for k in range(2):
            less = tuple(limit - (k == i) * 0.5 for i, limit in enumerate(limits))
            if limits[k]:
                assert latency(replace(graph, memory=less), seats) == math.inf, (seats, k)


def test_what_cannot_be_is_infinite() -> None:
    graph = problem([Job("a", (1, math.inf), (), (0,)), Job("b", (1, 1), (0,), (1,))], [1, 1], (), {})
    assert latency(graph, [0, 0]) == 2 and latency(graph, [1, 0]) == math.inf and latency(graph, [0, 1]) == math.inf


@given(st.integers(0, 10**6), st.integers(1, 3))
def test_a_timeline_is_possible(seed: int, devices: int) -> None:
    rng = np.random.default_rng(seed)
    graph = problem_of(random_edges(rng, int(rng.integers(1, 14)), 4), rng, devices)
    seats = rng.integers(0, devices, len(graph.works)).tolist()
    events = timeline(graph, seats)
    assert max(e.end for e in events) == latency(graph, seats) == latencies(graph, np.array([seats, seats]))[1]
    for busy in (
        *([e for e in events if e.work is not None and e.device == d] for d in range(devices)),
        *([e for e in events if e.bus == bus] for bus in range(graph.buses)),
    ):
        assert all(a.end <= b.begin for a, b in zip(busy, busy[1:], strict=False))  # one at a time, in this order
    works = [e for e in events if e.work is not None]
    assert [e.work for e in works] == list(range(len(graph.works))) and [e.device for e in works] == seats
    arrived = {(e.value, e.device): e.end for e in events if e.work is None}
    assert len(arrived) == sum(e.work is None for e in events)
    for event in works:
        assert event.work is not None
        for v in graph.works[event.work].reads:
            writer = graph.writer.get(v)
            made, at = (0.0, HOST) if writer is None else (works[writer].end, seats[writer])
            assert event.begin >= (made if at == event.device else arrived[v, event.device])
    for event in events:
        writer = graph.writer.get(event.value) if event.work is None and event.value is not None else None
        if writer is not None:
            assert event.begin >= works[writer].end and event.source == seats[writer]
    for v in graph.outputs:
        assert seats[graph.writer[v]] == HOST or (v, HOST) in arrived


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"devices": ()}, "no device"),
        ({"works": (Job("a", (1,), (), ()),)}, "seconds"),
        ({"works": (Job("a", (1, -1), (), ()),)}, "seconds"),
        ({"works": (Job("a", (1, math.nan), (), ()),)}, "seconds"),
        ({"works": (Job("a", (math.inf, math.inf), (), ()),)}, "runs on no device"),
        ({"works": (Job("a", (1, 1), (7,), ()),)}, "no value 7"),
        ({"works": (Job("a", (1, 1), (1,), (0,)), Job("b", (1, 1), (), (1,)))}, "before it is written"),
        ({"works": (Job("a", (1, 1), (), (0,)), Job("b", (1, 1), (), (0,)))}, "written already"),
        ({"outputs": (9,)}, "no value"),
        ({"values": (-1.0, 0.0)}, "negative"),
        ({"works": (Job("a", (1, 1), (), (), -1.0),)}, "holds"),
        ({"objective": "beauty"}, "objective"),
        ({"memory": (1.0,)}, "memory"),
        ({"memory": (1.0, -1.0)}, "memory"),
        ({"links": {(0, 0): Route(0, 0, 1)}}, "a link from 0 to 0"),
        ({"links": {(0, 1): Route(0, 0, 1, 2)}}, "whose transfers device 2 makes"),
        ({"begins": (1.0,)}, "devices begin after"),
        ({"begins": (1.0, -1.0)}, "devices begin after"),
        ({"links": {(0, 1): Route(0, 0, 0)}}, "bandwidth"),
        ({"links": {(0, 1): Route(0, math.nan, 1)}}, "latency"),
    ],
)
def test_what_is_no_problem_is_refused(change: dict[str, object], said: str) -> None:
    whole = {"devices": ("a", "b"), "works": (), "values": (1.0, 1.0), "outputs": (), "links": ONE_BUS, **change}
    with pytest.raises(ValueError, match=said):
        PlacementProblem(**whole)  # type: ignore[arg-type]
