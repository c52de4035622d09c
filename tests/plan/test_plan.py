"""The plan's text: round trip, replay, errors that name the line."""

from __future__ import annotations

import pytest

from mapsto.errors import MapstoError, ParseError
from mapsto.plan.homes import flat
from mapsto.plan.plan import GroupDecision, HomeDecision, Plan, parse
from mapsto.plan.planner import plan_graph
from tests.plan.graphs import small_cnn

GROUP = GroupDecision(
    "g0",
    "contraction",
    ("conv", "relu"),
    ("conv", "relu"),
    ("/a/Conv", 'odd "name"'),
    "tile 32 x 14",
    "9*n multiply-adds",
    ("because so",),
    ("k1",),
)
HOMES = (
    HomeDecision("relu", "f32[1, 16, n]", "relu", "[d0][d1/16][d2][d1%16]", 1, "most readers want it"),
    HomeDecision("y", "f32[n]", "y", "[d0]", None),
)
PLAN = Plan("net", "avx512", (GROUP,), HOMES, ("k1(x, y) over 3",), 128, 64, "0123abcd", "1.0")


def test_the_text_form_round_trips() -> None:
    assert parse(PLAN.text()) == PLAN


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("group g0", "line 1"),
        ('plan a for b\nhome x : f32[1] inner q in x layout ""', "line 2"),
        ("plan a for b\n  because 1", "line 2"),
        ("", "first line"),
        ("plan a for b\nplan a for c", "line 2: line 1 says that already"),
        ("plan a for b\ngraph 1 by mapsto 1\n\ngraph 2 by mapsto 1", "line 4: line 2 says that already"),
    ],
)
def test_errors_name_the_line(text: str, line: str) -> None:
    with pytest.raises(ParseError, match=line):
        parse(text)


def test_explain_names_what_is_near() -> None:
    assert "together with" in PLAN.explain("/a/Conv") and "most readers" in PLAN.explain("relu")
    with pytest.raises(MapstoError, match="closest: relu"):
        PLAN.explain("reluu")


def test_a_plan_that_parts_two_nodes_keeps_them_apart() -> None:
    graph = small_cnn()
    free = plan_graph(graph)
    nodes = [tuple(n.outputs[0].name for n in g.nodes) for g in flat(free.groups) if g.nodes]
    apart = [GroupDecision(f"g{i}", "", (name,)) for i, name in enumerate(n for group in nodes for n in group)]
    pinned = plan_graph(graph, Plan("small_cnn", "any", tuple(apart), ()))
    assert all(len(g.nodes) <= 1 for g in flat(pinned.groups))
    together = [GroupDecision(f"g{i}", "", group) for i, group in enumerate(nodes)]
    again = plan_graph(graph, Plan("small_cnn", "any", tuple(together), ()))
    assert [g.targets() for g in flat(again.groups)] == [g.targets() for g in flat(free.groups)]
