"""Bytes are stored where what they stand for is read beside something that comes later: values, and whole plans."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mapsto.devices.cpu.workers import Workers
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.ops.quantisation import dequantise
from mapsto.passes import run_passes
from mapsto.plan.narrow_reads import read_narrow
from mapsto.session.compile import build
from tests.passes.test_wide_bytes import PLAIN, quantised

F32, U8, I32 = DType.F32, DType.U8, DType.I32
SCALE = 0.05


def product(b: Builder, q: Value, seed: int) -> Value:
    """A convolution of bytes to 16 channels, scaled."""
    w = np.random.default_rng(seed).integers(-127, 128, (16, int(q.shape[1]), 3, 3), np.int32)  # type: ignore[call-overload]
    whole = b.one("sub", [b.one("cast", [q], to=I32), b.constant(np.int32(7))])
    total = b.one("conv", [whole, b.constant(w)], **PLAIN)
    return b.one("mul", [b.one("cast", [total], to=F32), b.constant(np.float32(2e-4))])


def real(b: Builder, q: Value) -> Value:
    return dequantise(b, q, b.constant(np.float32(SCALE)), b.constant(np.uint8(7)), F32)


def residual(b: Builder, x: Value) -> list[Value]:
    q = quantised(b, product(b, quantised(b, x), 0))
    other = product(b, q, 1)
    return [quantised(b, b.one("add", [real(b, q), other]))]


def two_branches(b: Builder, x: Value) -> list[Value]:
    """Of two roundings the first is read as bytes, the last is in registers yet."""
    q = quantised(b, x)
    first, second = (quantised(b, product(b, q, seed)) for seed in (0, 1))
    return [quantised(b, b.one("add", [real(b, first), real(b, second)]))]


def a_gate(b: Builder, x: Value) -> list[Value]:
    """x sigmoid(x): both come from one byte."""
    r = real(b, quantised(b, product(b, quantised(b, x), 0)))
    return [quantised(b, b.one("mul", [r, b.one("sigmoid", [r])]))]


def an_output(b: Builder, x: Value) -> list[Value]:
    return [real(b, quantised(b, product(b, quantised(b, x), 0)))]


def read_twice(b: Builder, x: Value) -> list[Value]:
    r = real(b, quantised(b, product(b, quantised(b, x), 0)))
    other = product(b, quantised(b, x), 1)
    return [b.one("add", [r, other]), b.one("mul", [r, other])]


def graph_of(build: Callable[[Builder, Value], list[Value]]) -> Graph:
    b = Builder("g")
    made = build(b, b.input("x", F32, (1, 16, 9, 9)))
    return run_passes(b.finish(made, names=[f"y{k}" for k in range(len(made))]))


@pytest.mark.parametrize(
    "build, ways", [(residual, 1), (two_branches, 1), (a_gate, 0), (an_output, 0), (read_twice, 0)]
)
def test_which_values(build: Callable[[Builder, Value], list[Value]], ways: int) -> None:
    graph = graph_of(build)
    found = read_narrow(graph)
    casts = [node for node in graph.nodes if node.op == "cast" and node.output.name in found]
    assert len([node for node in casts if graph.values()[node.inputs[0]].dtype is U8]) == ways


@pytest.mark.parametrize("made", [residual, two_branches, a_gate, an_output, read_twice])
def test_plans_compute_what_graphs_say(made: Callable[[Builder, Value], list[Value]], workers: Workers) -> None:
    graph = graph_of(made)
    exe = build(graph, workers, 1, None)
    x = np.random.default_rng(4).standard_normal((1, 16, 9, 9)).astype(np.float32) * 2
    expected, found = run_graph(graph, {"x": x}), exe.run({"x": x})
    for name, array in expected.items():
        off = np.abs(found[name].astype(np.float64) - array.astype(np.float64))
        assert off.max() <= (1 if array.dtype == np.uint8 else 1e-4)


@pytest.mark.parametrize("made", [residual, two_branches])
def test_nothing_wide_lies_in_memory(made: Callable[[Builder, Value], list[Value]], workers: Workers) -> None:
    exe = build(graph_of(made), workers, 1, None)
    wide = [name for name, home in exe.plan.homes.items() if home.dtype is F32 and name != "x"]
    assert wide == []
