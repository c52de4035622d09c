"""No rewrite loses a source: every rule is made to fire, with a source of its own for every node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.passes.test_channel_shuffles import shuffled_window
from tests.passes.test_rules import CHEAPER, GONE, Build, conv, graph_of, number, sliced, transposed, two

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ir.rewrite import Match, RuleTable
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import DeadCode, default_passes, identities, run_passes, strength
from mapsto.passes.retrace import retrace
from mapsto.passes.sites import Site

STEPS: dict[str, Callable[[Graph], Graph]] = {**{step.name: step for step in default_passes()}, "retrace": retrace}


def sources(graph: Graph) -> set[str]:
    """Those of a check that has been proved go with it: whoever asked for it has them too."""
    return {source for node in graph.walk() if node.op != "require" for source in node.provenance}


def lost_by(step: Callable[[Graph], Graph], graph: Graph) -> set[str]:
    """Sources that nothing alive stands for any more. An output that became a constant has no node to carry its own."""
    after = DeadCode()(step(graph))
    kept = tuple(name for name in after.outputs if name not in after.constants)
    return sources(DeadCode()(replace(graph, outputs=kept, updates=()))) - sources(after)


def numbered(graph: Graph, count: Iterator[int] | None = None) -> Graph:
    """The graph with a source of its own for every node, those of branches too."""
    count = iter(range(10_000)) if count is None else count

    def renamed(node: Node) -> Node:
        graphs = tuple(numbered(inner, count) for inner in node.graphs)
        return replace(node, graphs=graphs, provenance=(f"{node.op}.{next(count)}",))

    return replace(graph, nodes=tuple(renamed(node) for node in graph.nodes))


def twice(name: str) -> Build:
    return lambda b, x: b.one(name, [b.one(name, [x])])


def as_bool(build: Callable[[Builder, Value], Value]) -> Build:
    return lambda b, x: b.one("cast", [build(b, two(b, "gt", x, 0))], to=DType.F32)


def as_integer(build: Callable[[Builder, Value], Value]) -> Build:
    return lambda b, x: b.one("cast", [build(b, b.one("cast", [x], to=DType.I32))], to=DType.F32)


def varied(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def negated(b: Builder, x: Value) -> Value:
    return b.one("neg", [b.one("exp", [x])])


def broadcasting(name: str, value: float, first: bool) -> Build:
    """op(x, c), or op(c, x), with a constant of one number that gives the result more axes than x has."""

    def build(b: Builder, x: Value) -> Value:
        c = b.constant(np.full((5, 1, 1, 1, 1), value, np.float32))
        return b.one(name, [c, x] if first else [x, c])

    return build


NUMBERS = {"add": (0,), "sub": (0,), "mul": (1, -1), "div": (1, 4), "pow": (1, 2, 3, 0.5, -1), "max": (-np.inf,)}

# Builds that the tests of single rules do not have.
MORE: dict[str, Build] = {
    **{
        f"{name} of {value} that broadcasts x{', first' if first else ''}": broadcasting(name, value, first)
        for name, values in NUMBERS.items()
        for value in values
        for first in (False, True)
    },
    "min(x, x)": lambda b, x: b.one("min", [x, x]),
    "x and x": as_bool(lambda b, q: b.one("and", [q, q])),
    "x or x": as_bool(lambda b, q: b.one("or", [q, q])),
    "not(not(x))": as_bool(twice("not")),
    "bitnot(bitnot(x))": as_integer(twice("bitnot")),
    **{f"{name} twice": twice(name) for name in ("relu", "abs", "floor", "ceil", "round", "copy", "detach")},
    "cast to own type": lambda b, x: b.one("cast", [x], to=DType.F32),
    "expand twice": lambda b, x: b.one("expand", [b.one("expand", [x], shape=(5, *x.shape))], shape=(4, 5, *x.shape)),
    "slice twice": lambda b, x: sliced(b, sliced(b, x, 2, 1, 3), 2, 1, 2),
    "reshape to own shape": lambda b, x: b.one("reshape", [x], shape=x.shape),
    "reshape twice": lambda b, x: b.one("reshape", [b.one("reshape", [x], shape=(96,))], shape=(12, 8)),
    "transpose twice": lambda b, x: transposed(b, transposed(b, x, 0, 2, 3, 1), 0, 2, 3, 1),
    "reduce nothing": lambda b, x: b.one("reduce", [x], kind="sum", axes=(), keepdims=True),
    "x - -y": lambda b, x: b.one("sub", [x, negated(b, x)]),
    "-y + x": lambda b, x: b.one("add", [negated(b, x), x]),
    "the condition of a choice": lambda b, x: b.one("select", [two(b, "gt", b.one("sin", [x]), 0), x, x]),
    "expand before a broadcast": lambda b, x: b.one(
        "sub", [x, b.one("expand", [b.one("reduce", [x], kind="sum", axes=(1,), keepdims=True)], shape=x.shape)]
    ),
    "concat of concat": lambda b, x: b.one("concat", [b.one("concat", [x, b.one("exp", [x])], axis=1), x], axis=1),
    "a part of a concat": lambda b, x: sliced(b, b.one("concat", [negated(b, x), b.one("exp", [x])], axis=1), 1, 3, 3),
    "parts joined again": lambda b, x: b.one("concat", [sliced(b, x, 1, 0, 1), sliced(b, x, 1, 1, 2)], axis=1),
    "some parts joined again": lambda b, x: b.one(
        "concat", [b.one("exp", [x]), sliced(b, x, 1, 0, 1), sliced(b, x, 1, 1, 1)], axis=1
    ),
    "transposes around": lambda b, x: transposed(b, b.one("tanh", [transposed(b, x, 0, 2, 3, 1)]), 0, 3, 1, 2),
    "transposes of both": lambda b, x: b.one(
        "add", [transposed(b, x, 0, 2, 3, 1), transposed(b, b.one("exp", [x]), 0, 2, 3, 1)]
    ),
    "reduce of a transpose": lambda b, x: b.one(
        "reduce", [transposed(b, x, 0, 2, 3, 1)], kind="sum", axes=(1, 2), keepdims=False
    ),
    "pad before a convolution": lambda b, x: conv(
        b, b.one("pad", [x], before=(0, 0, 1, 0), after=(0, 0, 0, 2), mode="constant", value=0.0)
    ),
    "channels shuffled before a window": lambda b, x: shuffled_window(b, conv(b, x), 2, 1),
    "scale after a convolution": lambda b, x: b.one("mul", [conv(b, x), number(b, 3, x)]),
    "scale of each channel": lambda b, x: b.one("mul", [conv(b, x), b.constant(varied(4, 4, 1, 1))]),
    "products side by side": lambda b, x: b.one(
        "concat", [b.one("matmul", [x, b.constant(varied(n, 4, n))]) for n in (2, 3, 5)], axis=3
    ),
    "transposes of both, each its own": lambda b, x: b.one(
        "add", [transposed(b, x, 0, 2, 3, 1), transposed(b, b.one("exp", [x]), 0, 3, 2, 1)]
    ),
    "a constant made on the way": lambda b, x: b.one("mul", [x, b.one("dim_values", [], **ONE)]),
}  # fmt: skip
ONE: dict[str, Any] = {"values": (1,), "shape": (), "dtype": DType.F32}
BUILDS = {**GONE, **{name: build for name, (build, _) in CHEAPER.items()}, **MORE}


def surrounded(build: Build) -> Build:
    """What a rule rewrites between computed values, whose nodes may have to carry a source."""
    return lambda b, x: b.one("tanh", [build(b, b.one("cos", [x]))])


@pytest.mark.parametrize("around", [surrounded, lambda build: build], ids=["between nodes", "alone"])
@pytest.mark.parametrize("name", BUILDS)
def test_no_rule_loses_a_source(name: str, around: Callable[[Build], Build]) -> None:
    graph = numbered(graph_of(around(BUILDS[name])))
    for step in STEPS.values():
        assert not lost_by(step, graph), step.name
    assert not lost_by(run_passes, graph)


@pytest.mark.parametrize("name", BUILDS)
def test_no_rule_changes_the_results(name: str) -> None:
    for around in (lambda build: build, surrounded):
        graph = graph_of(around(BUILDS[name]))
        feed = {"x": varied(0, 2, 3, 4, 4)}
        expected = run_graph(graph, feed, wide=True)["y"]
        for what, step in [*STEPS.items(), ("all of them", run_passes)]:
            found = run_graph(step(graph), feed, wide=True)["y"]
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=what)


def fired(table: RuleTable, graph: Graph) -> set[str]:
    """The rules of a table that apply somewhere in a graph."""
    found: set[str] = set()

    def watch(site: Site) -> Sequence[Value] | None:
        for rule, match in table.matches(
            site.builder, site.node.op, site.inputs, lambda: Match(site.attrs, site.node.outputs), site.readers
        ):
            if rule.rewrite(site.builder, match) is not None:
                found.add(rule.algebra)
        return None

    retrace(graph, watch)
    return found


@pytest.mark.parametrize("table", [identities.TABLE, strength.TABLE], ids=["identities", "strength"])
def test_every_rule_is_made_to_fire(table: RuleTable) -> None:
    found: set[str] = set()
    for build in BUILDS.values():
        found |= fired(table, graph_of(build))
    assert {rule.algebra for rule in table.rules} <= found


# -- branches and sizes ------------------------------------------------------------------------------------------------


def choice(then: Collection[str], otherwise: Collection[str]) -> Build:
    """`if` between two chains of ops over x, by a further input c."""

    def build(b: Builder, x: Value) -> Value:
        graphs = []
        for name, chain in (("then", then), ("else", otherwise)):
            inner, value = Builder(name, b), x
            for op in chain:
                value = inner.one(op, [value])
            graphs.append(inner.finish([value]))
        asked = b.input("c", DType.BOOL, ())
        return b.add("if", [asked], {}, graphs)[0]

    return build


@pytest.mark.parametrize("known", [None, True, False])
def test_sources_of_branches_stay(known: bool | None) -> None:
    """What a branch yields may have no node any more, and one that is not taken is gone."""
    graph = numbered(graph_of(surrounded(choice(("neg", "neg"), ("exp", "abs", "abs")))))
    if known is not None:
        graph = replace(graph, inputs=graph.inputs[:1], constants={**graph.constants, "c": np.array(known)})
    for step in STEPS.values():
        assert not lost_by(step, graph), step.name
    assert not lost_by(run_passes, graph)


def test_a_size_that_becomes_known_stays_a_source() -> None:
    b = Builder("g")
    x, count = b.input("x", DType.F32, (4,)), b.input("count", DType.I64, ())
    with b.source("s"):
        size = b.bind(b.one("add", [count, b.constant(np.array(1))]), "n")
        part = b.one("slice", [x], starts=(0,), steps=(1,), shape=(size,))
        graph = numbered(b.finish([b.one("tanh", [part])], names=["y"]))
    known = replace(graph, inputs=graph.inputs[:1], constants={**graph.constants, "count": np.array(2)})
    after = run_passes(known)
    assert [node.op for node in after.nodes] == ["slice", "tanh"]
    assert not lost_by(run_passes, known) and not lost_by(retrace, known)


def test_a_node_that_is_made_already_takes_on_the_sources_of_its_operands() -> None:
    """The second exp is the first one; what its operand stands for is known of it all the same."""
    b = Builder("g")
    x = b.input("x", DType.F32, (sym("n"),))
    y = b.one("exp", [x])
    b.attribute(x, ["gone"])
    assert b.one("exp", [x]) == y and "gone" in b.nodes[0].provenance
