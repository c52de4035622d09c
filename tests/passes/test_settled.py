"""A graph in which nothing is left to do is not built anew; what a pass gives is the same as if it had been."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from tests.passes.graphs import graphs

from mapsto.ir import region
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.ir.region import uses
from mapsto.ir.text import parse_graph, print_graph
from mapsto.ops.builder import Builder
from mapsto.passes import default_passes, run_passes
from mapsto.passes.dead_code import DeadCode
from mapsto.passes.gradient import as_inputs
from mapsto.passes.retrace import retrace, settled


def chain(kind: str, count: int) -> Graph:
    """Nodes one after the other that no rule has anything to say of."""
    b = Builder("chain")
    x = b.input("x", DType.F32, (4, 8))
    for i in range(count):
        operands = [x]
        if kind == "add":
            operands.append(b.constant(np.arange(8, dtype=np.float32) + i))
        x = b.one(kind if kind != "relu" or i % 2 else "neg", operands)
    return b.finish([x], names=["y"])


def additions(monkeypatch: pytest.MonkeyPatch, work: Callable[[], Any]) -> int:
    """How many nodes builders are asked for."""
    asked = []
    add = Builder.add

    def counting(self: Builder, *what: Any, **about: Any) -> Any:
        asked.append(what[0])
        return add(self, *what, **about)

    with monkeypatch.context() as patched:
        patched.setattr(Builder, "add", counting)
        work()
    return len(asked)


@pytest.mark.parametrize("kind", ["relu", "tanh", "add"])
def test_nodes_without_a_rule_are_built_once_more_at_most(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain(kind, 40)
    assert additions(monkeypatch, lambda: run_passes(graph)) == 40
    assert additions(monkeypatch, lambda: run_passes(settled(graph))) == 0


def text(graph: Graph) -> str:
    """The living part of a graph; in which order its constants stand says nothing."""
    alive = DeadCode()(graph)
    return print_graph(replace(alive, constants=dict(sorted(alive.constants.items()))))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graph=graphs())
def test_leaving_graphs_as_they_are_changes_nothing(graph: Graph) -> None:
    lazy, eager = settled(DeadCode()(graph)), DeadCode()(graph)
    for step in default_passes():
        lazy, eager = step(lazy), step(replace(eager, settled=False))
        assert text(lazy) == text(eager), step.name


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graph=graphs())
def test_a_settled_graph_built_anew_is_the_same_graph(graph: Graph) -> None:
    once = DeadCode()(retrace(graph))
    assert once.settled
    assert text(retrace(once)) == text(once)


def test_equal_constants_are_not_settled() -> None:
    b = Builder("g")
    x = b.input("x", DType.F32, (3,))
    for _ in range(2):
        x = b.one("tanh", [b.one("add", [x, b.constant(np.arange(3, dtype=np.float32))])])
    graph = settled(b.finish([x], names=["y"]))
    assert not graph.settled
    after = run_passes(graph)
    assert after.settled and len(after.constants) == 1


def test_what_others_write_is_not_settled() -> None:
    graph = retrace(chain("relu", 3))
    assert graph.settled
    assert not parse_graph(print_graph(graph)).settled


def test_weights_that_become_inputs_are_not_settled() -> None:
    b = Builder("g")
    x, w = b.input("x", DType.F32, (3,)), b.constant(np.arange(3, dtype=np.float32), "w")
    graph = retrace(b.finish([b.one("mul", [x, w])], names=["y"]))
    assert graph.settled
    assert not as_inputs(graph, ["w"]).settled


BRANCHES = """
graph g(c: bool[], x: f32[4]) -> (y) {
  y: f32[4] = if(c) {
    graph then() -> (a) {
      a: f32[4] = neg(x)
    }
    graph otherwise() -> (b) {
      b: f32[4] = relu(x)
    }
  }
}
"""


def test_where_nothing_is_dead_the_graph_is_the_same_with_all_that_is_known_of_it() -> None:
    graph = parse_graph(BRANCHES)
    assert DeadCode()(graph) is graph
    chained = chain("add", 10)
    values, counts = chained.values(), uses(chained)
    left = DeadCode()(chained)
    assert left is chained and left.values() is values and uses(left) is counts
    spare = replace(chained, constants={**chained.constants, "spare": np.zeros(3, np.float32)})
    assert set(DeadCode()(spare).constants) == set(chained.constants)


def test_a_pass_that_left_a_graph_as_it_is_is_not_run_on_it_again() -> None:
    asked: list[str] = []

    @dataclass(frozen=True)
    class Asked:
        name: str
        changes: bool = False

        def __call__(self, graph: Graph) -> Graph:
            asked.append(self.name)
            return replace(graph) if self.changes else graph

    a, b, changing = Asked("a"), Asked("b"), Asked("c", changes=True)
    run_passes(chain("relu", 3), [a, b, a, b])
    assert asked == ["a", "b"]
    asked.clear()
    run_passes(chain("relu", 3), [a, changing, a, changing, a, b, a])
    assert asked == ["a", "c", "a", "c", "a", "b"]


def test_what_is_counted_of_a_graph_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[Graph] = []
    count = region._counted

    def counting(graph: Graph) -> dict[str, int]:
        counted.append(graph)
        return count(graph)

    monkeypatch.setattr(region, "_counted", counting)
    graph = settled(chain("add", 10))
    assert run_passes(graph) is graph
    assert len(counted) == 1
