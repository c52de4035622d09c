"""Contractions that read one value alike: as one they give the bits that they give one by one, on every instruction
set, and their plans replay.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from tests.plan.sibling_graphs import attention, bytewise, fire, inception, of_batches
from tests.session.support import Feed, assert_close, assert_same_bits, normal

import mapsto
from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ParseError
from mapsto.ir.expr import sym
from mapsto.ir.graph import Graph
from mapsto.ops.interpret import run_graph
from mapsto.plan.plan import Pins, Plan
from mapsto.plan.plan import parse as parse_plan
from mapsto.plan.recipe import Recipe
from mapsto.plan.rules import siblings as rule
from mapsto.session.compile import build, prepared

N = sym("n")
CASES: dict[str, tuple[Callable[[], Graph], list[Feed], int]] = {
    "attention": (attention, [{"x": normal(2, 9, 64)}], 3),
    "attention without a bias": (lambda: attention(bias=False), [{"x": normal(2, 9, 64)}], 3),
    "attention of open sizes": (
        lambda: attention(sym("b"), N), [{"x": normal(b, n, 64)} for b, n in ((1, 1), (2, 9), (3, 40), (0, 4))], 3,
    ),
    "inception": (inception, [{"x": normal(2, 16, 10, 7)}], 2),
    "inception without a bias": (lambda: inception(bias=False), [{"x": normal(2, 16, 10, 7)}], 2),
    "inception without relu": (lambda: inception(relu=False), [{"x": normal(2, 16, 10, 7)}], 2),
    "inception, the odd part last": (lambda: inception(reduced=(24, 32)), [{"x": normal(2, 16, 10, 7)}], 2),
    "inception of open sizes": (
        lambda: inception(height=N, reduced=(32, 32)), [{"x": normal(2, 16, h, 7)} for h in (1, 4, 9)], 2,
    ),
    "fire": (fire, [{"x": normal(1, 24, 12, 12)}], 2),
    "inception of four branches": (
        lambda: inception(reduced=(24, 32, 48)), [{"x": normal(2, 16, 10, 7)}], 3,
    ),
    "batches": (of_batches, [{"x": normal(3, n, 24)} for n in (1, 6)], 2),
    "bytes": (bytewise, [{"x": np.random.default_rng(0).integers(0, 256, (3, 5, 24)).astype(np.uint8)}], 3),
}  # fmt: skip
every_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(autouse=True)
def whatever_it_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests look at must not hang on the figures of the machine."""
    monkeypatch.setattr(rule, "LEAST_GAIN", -math.inf)


def siblings(plan: Plan) -> list[Recipe]:
    """The recipes of works that are made of siblings, without what homes ask of them."""
    found = []
    for work in plan.works:
        recipe = work.recipe
        while recipe.rule in ("reading", "written"):
            recipe = recipe.parts[0]
        found += [recipe] if recipe.rule == "siblings" else []
    return found


def in_tiles(plan: Plan) -> bool:
    """Whether no contraction is done in loops, which sum in another order."""
    return all(work.offer.template == "tiles" for work in plan.works if work.kind == "contraction")


@every_case
def test_one_contraction_gives_the_bits_of_several(name: str, workers: Workers) -> None:
    make, feeds, count = CASES[name]
    graph = make()
    exe = build(prepared(graph, None), workers, 1, None)
    (recipe,) = siblings(exe.plan)
    ops = {name: op for work in exe.plan.works for name, op in zip(work.nodes, work.ops, strict=True)}
    nodes = tuple(name for name in recipe.leaves() if ops[name] in ("conv", "matmul"))
    assert len(nodes) == count
    apart = build(prepared(graph, None), workers, 1, None, Plan("", exe.plan.device, pins=Pins((nodes,))))
    assert siblings(apart.plan) == []
    for feed in feeds:
        found = exe.run(feed)
        assert_close(found, run_graph(graph, feed))
        (assert_same_bits if in_tiles(exe.plan) and in_tiles(apart.plan) else assert_close)(apart.run(feed), found)
        exe.poison()
        assert_same_bits(exe.run(feed), found)
        exe.poison(False)


@every_case
def test_plans_replay_to_the_same_program(name: str) -> None:
    make, _, count = CASES[name]
    exe = mapsto.compile(make())
    text = exe.plan.text()
    assert parse_plan(text) == exe.plan and [len(recipe.parts) for recipe in siblings(exe.plan)] == [count]
    again = mapsto.compile(make(), plan=text)
    assert again.program == exe.program and again.objects == exe.objects and again.plan.text() == text


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("), add_4)", "), add)", "its recipe does not only move"),
        ("), add_4)", "), matmul)", "'matmul' is no result of siblings"),
        ("siblings(epilogue(matmul, add), epilogue(matmul_2, add_4), ", "siblings(", "from 2 to 16 tasks are siblings"),
        ("siblings(epilogue(matmul, add)", "siblings(matmul", "made of its sums in another way"),
        ("siblings(epilogue(matmul, add)", "siblings(div", "div is not one sum of products"),
        (", epilogue(matmul_2, add_4)", ", epilogue(matmul_19, add_21)", "is summed over x in another way"),
    ],
)
def test_a_plan_that_says_otherwise_is_refused(old: str, new: str, why: str) -> None:
    model = attention()
    text = mapsto.compile(model).plan.text()
    lines = text.split("\n")
    at = next(k for k, line in enumerate(lines) if line.startswith("view ") and "add_4 of" in line)
    assert old in lines[at]
    lines[at] = lines[at].replace(old, new)
    with pytest.raises(ParseError, match=why):
        mapsto.compile(model, plan="\n".join(lines))


def test_a_part_lies_where_its_recipe_puts_it() -> None:
    model = attention()
    plan = mapsto.compile(model).plan
    for name in ("add", "add_4", "add_10"):
        home = plan.homes[name]
        moved = replace(home, layout=replace(home.layout, offset=home.layout.offset + 16))
        with pytest.raises(ParseError, match=f"home {name}: its recipe puts it"):
            mapsto.compile(model, plan=replace(plan, homes={**plan.homes, name: moved}))
