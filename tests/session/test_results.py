"""Contractions that store more than one result: what somebody else reads on the way to the last one."""

from __future__ import annotations

import numpy as np
import pytest
from tests.plan.graphs import conv, varied
from tests.session.support import assert_close, normal

from mapsto.devices.cpu.workers import Workers
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, sym
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import run_passes
from mapsto.plan.plan import Plan, parse
from mapsto.runtime.program import Run
from mapsto.session.compile import build


def residual(channels: int, height: Dim = 9, bias: bool = False) -> Graph:
    """A pre-activation block: the sum is read by the activation and by the next sum, through windows as well."""
    b = Builder("residual")
    x = b.input("x", DType.F32, (1, channels, height, 7))
    first = conv(b, x, channels, bias=bias)
    second = conv(b, b.one("relu", [first]), channels)
    total = b.one("add", [second, first])
    third = conv(b, b.one("tanh", [total]), channels)
    return b.finish([b.one("add", [third, b.one("max_pool", [total], kernel=(3, 3), strides=(1, 1), pads=(1, 1, 1, 1),
                                                dilations=(1, 1))])])  # fmt: skip


def joined(channels: int) -> Graph:
    """The pre-activation is a part of a concatenation, its activation is read by a convolution."""
    b = Builder("joined")
    x = b.input("x", DType.F32, (1, channels, 8, 8))
    first = conv(b, x, channels)
    second = conv(b, b.one("sigmoid", [first]), channels)
    return b.finish([conv(b, b.one("concat", [first, second], axis=1), channels, 1)])


def products(rows: Dim) -> Graph:
    b = Builder("products")
    x = b.input("x", DType.F32, (rows, 24))
    m = b.one("matmul", [x, b.constant(varied(1, 24, 40), "w")])
    y = b.one("matmul", [b.one("relu", [m]), b.constant(varied(2, 40, 24), "v")])
    total = b.one("reduce", [b.one("abs", [m])], kind="sum", axes=(1,), keepdims=True)
    softened = b.one("div", [m, b.one("add", [total, b.constant(np.float32(1))])])
    return b.finish([b.one("concat", [y, softened], axis=1)])


GRAPHS: dict[str, Graph] = {
    "channels fill blocks": residual(32),
    "channels end inside a block": residual(24),
    "few channels": residual(5),
    "with a bias": residual(16, bias=True),
    "open": residual(16, sym("h")),
    "a part of a concatenation": joined(16),
    "a part that ends inside a block": joined(20),
    "products": products(13),
    "products, open": products(sym("n")),
}


def several(plan: Plan) -> int:
    return sum(work.kind == "contraction" and len(work.writes) > 1 for work in plan.works)


@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_read_on_the_way_is_stored_as_well(name: str, workers: Workers) -> None:
    graph = run_passes(GRAPHS[name])
    exe = build(graph, workers, 2, None)
    assert several(exe.plan) > 0, exe.plan.text()
    (x,) = graph.inputs
    feeds = {"x": normal(*(d if isinstance(d, int) else 11 for d in x.shape))}
    expected = run_graph(graph, feeds, wide=True)
    exe.poison()
    for _ in range(2):
        assert_close(exe.run(feeds), {k: v.astype(np.float32) for k, v in expected.items()})
        exe.poison(False)
    replayed = build(graph, workers, 1, None, parse(exe.plan.text()))
    assert replayed.program == exe.program


def test_it_saves_a_step(workers: Workers) -> None:
    graph = run_passes(residual(32))
    exe = build(graph, workers, 1, None)
    labels = {step.label for step in exe.program.steps if isinstance(step, Run)}
    assert not any(label.endswith((" relu", " tanh", " add")) for label in labels), labels


def test_a_result_that_leaves_the_graph_is_stored_by_itself(workers: Workers) -> None:
    b = Builder("out")
    x = b.input("x", DType.F32, (1, 16, 8, 8))
    y: Value = conv(b, x, 16)
    graph = b.finish([y, b.one("relu", [y])])
    exe = build(run_passes(graph), workers, 1, None)
    assert several(exe.plan) == 0
    feeds = {"x": normal(1, 16, 8, 8)}
    assert_close(exe.run(feeds), run_graph(graph, feeds))
