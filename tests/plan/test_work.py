"""What planning costs, in counts of work: so much a node, however long the chains are that nodes stand in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mapsto.ops  # noqa: F401  (registers the ops)
from mapsto.devices.cpu.traits import TRAITS
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.kernel import compose, facts
from mapsto.ops.builder import Builder
from mapsto.plan.fuse import fuse
from mapsto.plan.initial import initial_task, setting_of
from tests.plan.support import priced


def chain(count: int) -> Graph:
    """Sums with a different vector each."""
    b = Builder("chain")
    x = b.input("x", DType.F32, (4, 8))
    for i in range(count):
        x = b.one("add", [x, b.constant(np.arange(8, dtype=np.float32) + i)])
    return b.finish([x], names=["y"])


def facts_made(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> int:
    """For how many expressions it is found out what they hold while a graph is fused."""
    made = []
    find = facts._facts
    prices = priced(graph)

    def counting(e: Any) -> Any:
        made.append(type(e))
        return find(e)

    with monkeypatch.context() as patched:
        patched.setattr(facts, "_facts", counting)
        fuse(graph, setting_of(graph, TRAITS), prices)
    return len(made)


def test_a_node_that_a_full_kernel_has_no_room_for_is_not_composed_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = facts_made(chain(100), monkeypatch), facts_made(chain(400), monkeypatch)
    # two loads and a sum of each node, and what the sum is when it is composed
    assert few <= 4 * 100
    assert many <= 4 * 400


def test_iterators_are_called_by_their_place_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder("g")
    x = b.input("x", DType.F32, (4, 8))
    graph = b.finish([b.one("tanh", [b.one("transpose", [x], perm=(1, 0))])], names=["y"])
    setting = setting_of(graph, TRAITS)
    monkeypatch.setattr(compose, "_renamed", None)
    for node in graph.nodes:
        (stmt,) = initial_task(node, setting, frozenset()).stmts
        assert [i.name for i in stmt.iters] == [f"{setting.prefix}{k}" for k in range(2)]
