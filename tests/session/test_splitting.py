"""Contractions in two, by channels, rows and batch, are what they were; and which axis the cost takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import opencl
from tests.importers.models import model, node
from tests.session.divisions import COUNT, common
from tests.session.test_redo import plan_of

import mapsto
from mapsto.devices.backend import Backend
from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ParseError
from mapsto.ir.graph import Graph
from mapsto.ir.text import graph_digest
from mapsto.ir.verify import verify
from mapsto.ops.interpret import run_graph
from mapsto.placement.problem import Job, PlacementProblem, Route
from mapsto.plan.division_text import division_text, parse_division
from mapsto.plan.placing import Considered
from mapsto.report.accuracy import judge
from mapsto.runtime.divided import DividedExecutable
from mapsto.session.compile import build, prepared
from mapsto.session.division import divided, whole_of
from mapsto.session.redo import redone
from mapsto.session.splitting import extents_of, split, worth_splitting

FOLLOWERS = ["Relu", "Tanh", "Sigmoid", "Neg", "Exp"]


@pytest.fixture(scope="module")
def backends() -> Iterator[Mapping[str, Backend]]:
    with Workers(cache=False, isa=None) as workers:
        yield {"cpu": workers, "opencl": opencl.backend()}


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def graph_of(nodes: list[Any], shapes: dict[str, Any], constants: dict[str, np.ndarray]) -> tuple[Graph, str]:
    """The graph, and the value that its contraction makes."""
    graph = prepared(model(nodes, shapes, [nodes[-1].output[0]], constants), None)
    return graph, next(n.outputs[0].name for n in graph.nodes if n.op in ("conv", "matmul"))


def followed(nodes: list[Any], ops: list[str]) -> list[Any]:
    for k, op in enumerate(ops):
        nodes.append(node(op, [nodes[-1].output[0]], [f"f{k}"]))
    return nodes


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Graph, str]:
    rank, rng = draw(st.integers(1, 2)), np.random.default_rng(draw(st.integers(0, 2**32)))
    small = st.integers(1, 3)
    window, strides, dilations = ([draw(small) for _ in range(rank)] for _ in range(3))
    spans = [d * (k - 1) + 1 for d, k in zip(dilations, window, strict=True)]
    pads = [draw(st.integers(0, span - 1)) for span in spans * 2]
    space = [draw(st.integers(span, span + 9)) for span in spans]
    group = draw(st.sampled_from([1, 1, 2]))
    channels, outputs, batch = group * draw(st.integers(1, 4)), group * draw(st.integers(1, 9)), draw(st.integers(1, 3))
    weights, bias = normal(rng, outputs, channels // group, *window), normal(rng, outputs)
    names = ["x", "w", *(["b"] if draw(st.booleans()) else [])]
    shapes, constants = {"x": [batch, channels, *space]}, {"w": weights, "b": bias}
    if draw(st.booleans()):  # weights that only a run knows
        shapes["w"] = list(constants.pop("w").shape)
    kept = {name: array for name, array in constants.items() if name in names}
    attributes = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
    nodes = [node("Conv", names, ["c"], **attributes)]
    return graph_of(followed(nodes, draw(st.lists(st.sampled_from(FOLLOWERS), max_size=2))), shapes, kept)


@st.composite
def products(draw: st.DrawFn) -> tuple[Graph, str]:
    rng, few = np.random.default_rng(draw(st.integers(0, 2**32))), st.integers(2, 9)
    m, k, n = (draw(few) for _ in range(3))
    batch = [draw(st.integers(2, 4)) for _ in range(draw(st.integers(0, 2)))]

    def lead() -> list[int]:
        kept = batch[draw(st.integers(0, len(batch))) :]
        return [1 if draw(st.booleans()) and draw(st.booleans()) else d for d in kept]

    left = [*lead(), m, k] if draw(st.integers(0, 5)) else [k]
    right = [*lead(), k, n] if draw(st.integers(0, 5)) else [k]
    shapes, constants = {"x": left}, {}
    if draw(st.booleans()):
        shapes["m"] = right
    else:
        constants["m"] = normal(rng, *right)
    nodes = [node("MatMul", ["x", "m"], ["q"])]
    return graph_of(followed(nodes, draw(st.lists(st.sampled_from(FOLLOWERS), max_size=2))), shapes, constants)


def check(graph: Graph, value: str, backends: Mapping[str, Backend], draw: st.DataObject) -> None:
    """Along each axis there is, a share of any size, with the halves on either device."""
    rng = np.random.default_rng(draw.draw(st.integers(0, 2**32)))
    feed = {v.name: normal(rng, *(int(str(d)) for d in v.shape)) for v in graph.inputs}
    expected, peer = run_graph(graph, feed), build(graph, backends["cpu"], 1, None).run(feed)
    for axis, extent in extents_of(graph, value).items():
        share = draw.draw(st.integers(1, extent - 1))
        halves = split(graph, {value: share}, {value: axis})
        verify(halves)
        for name, found in run_graph(halves, feed).items():
            np.testing.assert_allclose(found, expected[name], rtol=1e-5, atol=1e-6, err_msg=axis)
        seats = {n.outputs[0].name: draw.draw(st.integers(0, 1)) for n in halves.nodes}
        ours = divided(halves, seats, backends, 1).run(feed)
        assert not [v for v in judge(expected, ours, peer) if not v.ok], axis


@settings(common, max_examples=min(COUNT, 20))  # each is compiled five times, for OpenCL as well
@given(convolutions(), st.data())
def test_a_convolution_in_two(backends: Mapping[str, Backend], case: tuple[Graph, str], data: st.DataObject) -> None:
    check(*case, backends, data)


@settings(common)
@given(products(), st.data())
def test_a_product_in_two(backends: Mapping[str, Backend], case: tuple[Graph, str], data: st.DataObject) -> None:
    check(*case, backends, data)


def image(count: int, channels: int, outputs: int, size: int, constant: bool = True) -> tuple[Graph, str]:
    weights = normal(np.random.default_rng(0), outputs, channels, 3, 3)
    shapes = {"x": [count, channels, size, size]} | ({} if constant else {"w": [outputs, channels, 3, 3]})
    nodes = [node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), node("Relu", ["c"], ["r"])]
    return graph_of(nodes, shapes, {"w": weights} if constant else {})


def test_the_axes_there_are() -> None:
    assert extents_of(*image(2, 8, 32, 20)) == {"channels": 32, "rows": 20, "batch": 2}
    assert extents_of(*image(1, 8, 32, 20, False)) == {"rows": 20}
    opened = graph_of([node("MatMul", ["x", "m"], ["q"])], {"x": ["n", 4, 8], "m": ["n", 8, 3]}, {})
    assert extents_of(*opened) == {"rows": 4}
    both = graph_of([node("MatMul", ["x", "m"], ["q"])], {"x": [5, 4, 8], "m": [5, 8, 3]}, {})
    assert extents_of(*both) == {"rows": 4, "batch": 5}
    assert extents_of(both[0], "nothing") == {}


def chosen(graph: Graph, value: str, seconds: tuple[float, float], bandwidth: float) -> tuple[int, str] | None:
    """What is shared out where the contraction is the only work."""
    values = graph.values()
    inputs = list(graph.inputs)
    sizes = [float(math.prod(int(str(d)) for d in v.shape) * 4) for v in (*inputs, values[graph.outputs[0]])]
    job = Job("g", seconds, tuple(range(len(inputs))), (len(inputs),))
    links = {(0, 1): Route(0, 0.0, bandwidth), (1, 0): Route(0, 0.0, bandwidth)}
    problem = PlacementProblem(("cpu", "gpu"), (job,), tuple(sizes), (len(inputs),), links)
    works = [Considered("g", ("conv",), tuple(n.outputs[0].name for n in graph.nodes), (), ())]
    found = worth_splitting(graph, works, problem)
    return (found.counts[value], found.axes.get(value, "channels")) if found.counts else None


def test_the_cost_takes_axis_and_share() -> None:
    free, slow = 1e18, 1e6
    assert chosen(*image(1, 8, 32, 20), (1.0, 1.0), free) == (16, "channels")
    assert chosen(*image(1, 8, 20, 30), (1.0, 2.0), free) == (10, "rows")  # 20 channels: 16 of them are too many
    assert chosen(*image(1, 64, 32, 20, False), (1.0, 1.0), free) == (10, "rows")
    for seconds, bandwidth in (((1.0, 1e9), free), ((1e-4, 1e-4), slow)):
        assert chosen(*image(1, 8, 32, 20), seconds, bandwidth) is None
    # an image that is large beside what is made of it: by rows half of it is moved, by channels all
    assert chosen(*image(1, 512, 32, 64), (1.0, 1.0), 2e7) == (32, "rows")
    # eight images are shared out more evenly than 24 rows in eights
    assert chosen(*image(8, 8, 8, 72), (3.0, 5.0), free) == (3, "batch")
    products = graph_of([node("MatMul", ["x", "m"], ["q"])], {"x": [6, 4, 8], "m": [6, 8, 3]}, {})
    assert chosen(*products, (1.0, 1.0), free) in ((3, "batch"), (2, "rows"))
    assert chosen(*products, (1e-4, 1e-4), 3e7) == (3, "batch")  # by rows all of the second operand is moved


@pytest.mark.parametrize("axis", ["channels", "rows", "batch"])
def test_a_plan_splits_by_any_axis(axis: str, backends: Mapping[str, Backend]) -> None:
    graph, value = image(3, 4, 32, 12)
    halves = split(graph, {value: 1}, {value: axis})
    seats = {n.outputs[0].name: int(k < 3) for k, n in enumerate(halves.nodes)}
    plan, division = plan_of(halves, seats, backends)
    axes = () if axis == "channels" else ((value, axis),)
    plan = replace(plan, digest=graph_digest(graph), splits=((value, 1),), split_axes=axes)
    text = division_text(plan)
    assert f"\nsplit c 1{'' if axis == 'channels' else f' of {axis}'}\n" in text
    done = redone(graph, parse_division(text), backends, 1, False)
    assert not done.notes and done.division.plan_text == text
    assert parse_division(text).to_json()["split_axes"] == dict(axes)
    x = {"x": normal(np.random.default_rng(1), 3, 4, 12, 12)}
    first, second = (DividedExecutable(whole_of(graph), d, list(backends)).run(x) for d in (division, done.division))
    assert all(np.array_equal(first[name], second[name]) for name in graph.outputs)
    extent = extents_of(graph, value)[axis]
    for count in (0, extent):
        wrong = text.replace("split c 1", f"split c {count}")
        with pytest.raises(ParseError, match=f"split c: of {extent} {axis}, from 1 to {extent - 1} can be split off"):
            redone(graph, parse_division(wrong), backends, 1, False)


def test_axes_that_there_are_not(backends: Mapping[str, Backend]) -> None:
    graph, value = image(1, 4, 32, 12)
    plan, _ = plan_of(graph, {value: 0}, backends)
    text = division_text(replace(plan, splits=((value, 1),), split_axes=((value, "batch"),)))
    with pytest.raises(ParseError, match="split c: it cannot be split by batch; it can be by channels, rows"):
        redone(graph, parse_division(text), backends, 1, False)
    with pytest.raises(ParseError, match="split c: there is no axis 'columns'; there are: channels, rows, batch"):
        parse_division(text.replace("of batch", "of columns"))


def test_products_of_two_values_are_shared_out(measured: None) -> None:
    """As those of attention: no weights, whose channels could be."""
    opencl.required()
    graph = model([node("MatMul", ["x", "m"], ["q"])], {"x": [8, 512, 512], "m": [8, 512, 512]}, ["q"])
    exe = mapsto.divide(graph, ["cpu", "opencl"], threads=1, adapt=False)
    rng = np.random.default_rng(0)
    feed = {name: normal(rng, 8, 512, 512) for name in ("x", "m")}
    np.testing.assert_allclose(exe.run(feed)["q"], feed["x"].astype(np.float64) @ feed["m"], rtol=1e-3, atol=1e-3)
    again = mapsto.divide(graph, plan=exe.plan_text, threads=1)
    assert np.array_equal(again.run(feed)["q"], exe.run(feed)["q"])
