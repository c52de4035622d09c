"""Plans that are replayed: equal plans and bits; edited ones still compute the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.plan.graphs import layer_norm_rows, small_cnn
from tests.session.support import Feed, assert_close, assert_same_bits, normal, parse

import mapsto
from mapsto.errors import ParseError
from mapsto.ir.expr import sym
from mapsto.plan.plan import GroupDecision, Plan
from mapsto.plan.plan import parse as parse_plan
from mapsto.session.compile import Workers, build, prepared

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

BRANCHES = """g (float[1, 16, H, 8] x, bool c, float[16, 16, 3, 3] w) => (float[1, 16, H, 8] y) {
    r = Conv<pads = [1, 1, 1, 1]>(x, w)
    q = If (c) <
        then_branch = t () => (float[1, 16, H, 8] a) { k = Exp(r) l = Neg(k) a = Conv<pads = [1, 1, 1, 1]>(l, w) },
        else_branch = e () => (float[1, 16, H, 8] b) { b = Identity(r) }
    >
    y = Softmax(q)
}"""


def digits(count: int = 4) -> Feed:
    with np.load(EXAMPLES / "digits.npz") as found:
        return {"image": found["image"][:count]}


MODELS: dict[str, tuple[Any, Feed]] = {
    "cnn": (small_cnn(), {"x": normal(1, 3, 32, 32)}),
    "open cnn": (small_cnn(sym("h"), sym("w")), {"x": normal(1, 3, 19, 24)}),
    "layer norm": (layer_norm_rows(), {"x": normal(1, 48, 40)}),
    "digits": (EXAMPLES / "mnist-cnn.onnx", digits()),
    "branches": (
        parse(BRANCHES),
        {"x": normal(1, 16, 5, 8), "c": np.array(True), "w": normal(16, 16, 3, 3, seed=1) * 0.1},
    ),
}
every_model = pytest.mark.parametrize("name", MODELS)


@every_model
def test_the_text_replayed_gives_an_equal_plan_and_the_same_bits(name: str) -> None:
    model, feed = MODELS[name]
    exe = mapsto.compile(model)
    text = exe.plan.text()
    assert parse_plan(text) == exe.plan
    for plan in (text, exe.plan):
        again = mapsto.compile(model, plan=plan)
        assert again.plan == exe.plan and again.plan.difference(exe.plan) == []
        assert_same_bits(again.run(feed), exe.run(feed))


@every_model
def test_a_plan_in_another_order_with_comments_is_the_same(name: str) -> None:
    model, feed = MODELS[name]
    exe = mapsto.compile(model)
    head, *rest = exe.plan.text().rstrip("\n").split("\n")
    blocks: list[list[str]] = []
    for line in rest:
        if line.startswith("  "):
            blocks[-1].append(line)
        else:
            blocks.append([line])
    shuffled = [line for block in reversed(blocks) for line in ("# a comment", *block, "")]
    again = mapsto.compile(model, plan="\n".join([head, *shuffled]))
    assert again.plan.groups == exe.plan.groups and again.plan.homes == exe.plan.homes
    assert_same_bits(again.run(feed), exe.run(feed))


@every_model
def test_every_node_by_itself(name: str, workers: Workers) -> None:
    model, feed = MODELS[name]
    exe = mapsto.compile(model, isa=workers.isa.name)
    nodes = dict.fromkeys(n for g in exe.plan.groups for n in g.nodes)
    apart = [GroupDecision(f"a{i}", "", (n,)) for i, n in enumerate(nodes)]
    parted = replace(exe.plan, groups=tuple(apart))
    again = build(prepared(model, None), workers, 2, None, parted)
    assert len(again.plan.groups) > len(exe.plan.groups)
    assert all(len(group.nodes) <= 1 for group in again.plan.groups)
    assert_close(again.run(feed), exe.run(feed))


@every_model
def test_two_nodes_parted(name: str, workers: Workers) -> None:
    """Each group of several nodes cut in two, one after the other, in the text."""
    model, feed = MODELS[name]
    exe = mapsto.compile(model, isa=workers.isa.name)
    whole, expected = exe.plan, exe.run(feed)
    graph = prepared(model, None)
    cut = [g for g in whole.groups if len(g.nodes) > 1]
    assert cut
    for group in cut:
        first, rest = group.nodes[:1], group.nodes[1:]
        halves = (replace(group, nodes=first), replace(group, name="other", nodes=rest))
        groups = tuple(part for g in whole.groups for part in (halves if g is group else (g,)))
        plan = parse_plan(replace(whole, groups=groups).text())
        again = build(graph, workers, 1, None, plan)
        assert not any(set(first) <= set(g.nodes) and set(rest) & set(g.nodes) for g in again.plan.groups)
        assert_close(again.run(feed), expected)


@every_model
@pytest.mark.parametrize("inner", [None, 0, 1, 2, 3])
def test_every_value_laid_otherwise(name: str, inner: int | None, workers: Workers) -> None:
    """All homes with another dim innermost, or row-major."""
    model, feed = MODELS[name]
    exe = mapsto.compile(model, isa=workers.isa.name)
    plan = replace(exe.plan, homes=tuple(replace(home, inner=inner) for home in exe.plan.homes))
    again = build(prepared(model, None), workers, 2, None, plan)
    again.poison()
    assert_close(again.run(feed), exe.run(feed))


def test_a_plan_that_cannot_be_read_names_its_line() -> None:
    model, _ = MODELS["cnn"]
    with pytest.raises(ParseError, match="line 2: .*grop g0"):
        mapsto.compile(model, plan="plan cnn for avx2\ngrop g0")


# -- plans that do not fit ---------------------------------------------------------------------------------------------


def refused(model: Any, plan: Plan | str, message: str, **options: Any) -> None:
    with pytest.raises(ParseError, match=message):
        mapsto.compile(model, plan=plan, **options)


def test_a_plan_of_another_graph_or_of_other_shapes() -> None:
    model, _ = MODELS["cnn"]
    text = mapsto.compile(MODELS["layer norm"][0]).plan.text()
    refused(model, text, "plan, line 2: graph: [0-9a-f]{16}, but this one, in these shapes, is [0-9a-f]{16}")
    digits = EXAMPLES / "mnist-cnn.onnx"
    text = mapsto.compile(digits, shapes={"image": (1, 1, 28, 28)}).plan.text()
    refused(digits, text, "line 2: graph: ", shapes={"image": (2, 1, 28, 28)})


def test_a_plan_of_other_weights_is_replayed() -> None:
    """The digest is of the structure: a network that was trained further keeps its plan."""
    graph = MODELS["cnn"][0]
    trained = replace(graph, constants={k: v + np.ones_like(v) * (v.size > 8) for k, v in graph.constants.items()})
    again = mapsto.compile(trained, plan=mapsto.compile(graph).plan.text())
    assert len(again.plan.groups) > 1


def test_a_plan_of_another_instruction_set_or_version() -> None:
    model, _ = MODELS["digits"]
    text = mapsto.compile(model, isa="sse2").plan.text()
    refused(
        model, text.replace(" for sse2\n", " for avx9\n", 1), "line 1: for: avx9, but code is made for sse2", isa="sse2"
    )
    newer = text.replace(f" by mapsto {mapsto.__version__}\n", " by mapsto 77.0\n")
    refused(model, newer, "line 2: mapsto: made by version 77.0, this is ", isa="sse2")
    lost = text.split("\n", 2)
    refused(model, f"{lost[0]}\n{lost[2]}", "no line `graph DIGEST by mapsto VERSION`", isa="sse2")
    refused(model, Plan("small_cnn", "sse2", (), ()), "no line `graph DIGEST", isa="sse2")


def groups_of(text: str) -> list[tuple[int, list[str]]]:
    """(line, nodes) of each group in a plan's text that has nodes."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("group "):
            nodes = line[line.index("{") + 1 : line.index("}")].strip()
            found += [(number, nodes.split(", "))] * bool(nodes)
    return found


def with_nodes(text: str, line: int, nodes: list[str]) -> str:
    lines = text.split("\n")
    old = lines[line - 1]
    lines[line - 1] = f"{old[: old.index('{')]}{{ {', '.join(nodes)} }}{old[old.index('}') + 1 :]}"
    return "\n".join(lines)


def test_each_node_misspelt_or_left_out() -> None:
    model, _ = MODELS["cnn"]
    text = mapsto.compile(model).plan.text()
    tried = 0
    for line, nodes in groups_of(text):
        for name in nodes:
            misspelt = with_nodes(text, line, [n + "_x" if n == name else n for n in nodes])
            refused(model, misspelt, f"plan, line {line}: group g[0-9]+: no node yields '{name}_x'")
            tried += 1
            if text.count(name) > 1 and sum(name in other for _, other in groups_of(text)) == 1:
                without = with_nodes(text, line, [n for n in nodes if n != name])
                refused(model, without, f"plan: no group has the node '{name}'")
    assert tried > 8


def test_a_node_in_two_groups_or_twice_in_one() -> None:
    model, _ = MODELS["cnn"]
    text = mapsto.compile(model).plan.text()
    (_, some), *_, (last, others) = groups_of(text)
    for name in (others[0], some[0]):
        twice = with_nodes(text, last, [*others, name])
        refused(model, twice, f"line {last}: .*{name!r} stands in the plan already")


def test_a_home_of_no_value_or_twice() -> None:
    model, _ = MODELS["cnn"]
    text = mapsto.compile(model).plan.text()
    lines = text.split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith("home "))
    name = lines[at].split(" ")[1]
    end = len(lines) - 1
    twice = "\n".join([*lines[:end], lines[at], ""])
    refused(model, twice, f"plan, line {end + 1}: home {name}: stands in the plan already")
    strange = "\n".join([*lines[:at], lines[at].replace(f"home {name} ", "home unheard_of "), *lines[at + 1 :]])
    refused(model, strange, f"plan, line {at + 1}: home unheard_of: the graph has no such value")
