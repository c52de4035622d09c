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
    exe = mapsto.compile(model)
    apart = [GroupDecision(f"a{i}", "", (n,)) for i, n in enumerate(n for g in exe.plan.groups for n in g.nodes)]
    parted = replace(exe.plan, groups=tuple(apart))
    again = build(prepared(model, None), workers, 2, None, parted)
    assert len(again.plan.groups) > len(exe.plan.groups)
    assert all(len(group.nodes) <= 1 for group in again.plan.groups)
    assert_close(again.run(feed), exe.run(feed))


@every_model
def test_two_nodes_parted(name: str, workers: Workers) -> None:
    """Each group of several nodes cut in two, one after the other, in the text."""
    model, feed = MODELS[name]
    exe = mapsto.compile(model)
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
    exe = mapsto.compile(model)
    plan = replace(exe.plan, homes=tuple(replace(home, inner=inner) for home in exe.plan.homes))
    again = build(prepared(model, None), workers, 2, None, plan)
    again.poison()
    assert_close(again.run(feed), exe.run(feed))


def test_a_plan_of_another_graph_decides_nothing_here() -> None:
    """What it does not name goes by itself; the answers stay."""
    model, feed = MODELS["cnn"]
    foreign = mapsto.compile(MODELS["layer norm"][0]).plan
    again = mapsto.compile(model, plan=foreign)
    assert_close(again.run(feed), mapsto.compile(model).run(feed))


def test_an_empty_plan() -> None:
    model, feed = MODELS["cnn"]
    again = mapsto.compile(model, plan=Plan("small_cnn", "any", (), ()))
    assert_close(again.run(feed), mapsto.compile(model).run(feed))


def test_a_plan_that_cannot_be_read_names_its_line() -> None:
    model, _ = MODELS["cnn"]
    with pytest.raises(ParseError, match="line 2: .*grop g0"):
        mapsto.compile(model, plan="plan cnn for avx2\ngrop g0")


def test_a_replayed_plan_of_another_instruction_set() -> None:
    """Groups and homes do not depend on it; code is made for the one that is asked for."""
    model, feed = MODELS["digits"]
    exe = mapsto.compile(model, isa="sse2")
    again = mapsto.compile(model, plan=exe.plan)
    assert again.plan.together() == exe.plan.together() and again.plan.isa != "sse2"
    assert_close(again.run(feed), exe.run(feed))
