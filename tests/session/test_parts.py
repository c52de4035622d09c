"""A graph cut into parts: which nodes each has, and in which order they are done."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tests import opencl
from tests.importers.models import model, node
from tests.session.divisions import diamond, on_both, side_by_side

from mapsto.devices.cpu.workers import Workers
from mapsto.runtime.divisions import CurrentDivision
from mapsto.session.compile import prepared
from mapsto.session.division import division_of
from mapsto.session.parts import cut


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """For the widest instruction set alone: what is cut is the same for all."""
    with Workers(cache=False, isa=None) as opened:
        yield opened


def test_parts_are_neighbours_of_one_device() -> None:
    graph = diamond()
    names = [n.outputs[0].name for n in graph.nodes]
    assert [p.device for p in cut(graph, dict.fromkeys(names, 0))] == [0]
    parts = cut(graph, {name: int(at >= 3) for at, name in enumerate(names)})
    assert [p.device for p in parts] == [0, 1]
    assert [len(p.graph.nodes) for p in parts] == [3, len(names) - 3]
    assert {v.name for v in parts[1].graph.inputs} == set(parts[0].graph.outputs)


def test_parts_follow_the_order_of_works(workers: Workers) -> None:
    """And not the graph's, in which works on two devices may stand by turns."""
    graph = side_by_side()
    (a0, b0, a1, b1, a2, b2, y) = (n.outputs[0].name for n in graph.nodes)
    chains = {a0: 0, a1: 0, a2: 0, b0: 1, b1: 1, b2: 1, y: 0}
    parts = cut(graph, chains)
    assert [(p.device, len(p.graph.nodes)) for p in parts] == [(0, 3), (1, 3), (0, 1)]
    by_turns = cut(graph, {n.outputs[0].name: chains[n.outputs[0].name] for n in graph.nodes})
    assert [(p.device, len(p.graph.nodes)) for p in by_turns] == [(0, 3), (1, 3), (0, 1)]  # nothing is passed between
    backwards = dict(reversed(chains.items()))
    assert [n.outputs[0].name for p in cut(graph, backwards) for n in p.graph.nodes][-1] == y
    exe = on_both(graph, chains, workers)
    x = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    np.testing.assert_allclose(exe(x), np.sin(np.exp(np.tanh(x))) + np.sqrt(x), rtol=1e-4, atol=1e-6)


def test_a_part_ends_where_that_is_asked_for(workers: Workers) -> None:
    """And those of one device follow one another, even if they have nothing to do with each other."""
    graph = side_by_side()
    (a0, b0, a1, b1, a2, b2, y) = (n.outputs[0].name for n in graph.nodes)
    seats = {a0: 0, b0: 0, b1: 0, b2: 0, a1: 1, a2: 1, y: 1}
    whole, ended = cut(graph, seats), cut(graph, seats, ends={a0})
    assert [[n.outputs[0].name for n in p.graph.nodes] for p in whole] == [[a0, b0, b1, b2], [a1, a2, y]]
    assert [[n.outputs[0].name for n in p.graph.nodes] for p in ended] == [[a0], [b0, b1, b2], [a1, a2], [y]]
    current = CurrentDivision(division_of(ended, {"cpu": workers, "opencl": opencl.backend()}, 1, False))
    assert current.waits_for == [0, 1, 1, 2] and current.followers == [[1, 2], [3], [3], []]


def test_a_check_stays_before_what_it_keeps_inside() -> None:
    """Also where works are named in another order."""
    nodes = [node("Cast", ["j"], ["i"], to=7), node("Gather", ["x", "i"], ["e"]), node("Neg", ["e"], ["y"])]
    graph = prepared(model(nodes, {"x": [5, 3], "j": [4]}, ["y"]), None)
    gather, neg = (n.outputs[0].name for n in graph.nodes if n.op in ("gather", "neg"))
    ops = [n.op for part in cut(graph, {gather: 1, neg: 1}) for n in part.graph.nodes]
    assert ops.index("bounds_check") < ops.index("gather")
