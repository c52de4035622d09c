"""Windows over channels that lie in blocks: they are read from a row-major copy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.session.support import assert_same_bits, normal

from mapsto.devices.cpu.workers import Workers
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import mul
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder
from mapsto.ops.composite import local_response_norm, reshape
from mapsto.ops.interpret import run_graph
from mapsto.passes import run_passes
from mapsto.plan.plan import parse
from mapsto.runtime.executable import Executable
from mapsto.session.compile import build

Window = Callable[[Builder, Value], Value]

PLAIN = {"strides": (1, 1), "dilations": (1, 1), "group": 1, "pads": (0, 0, 0, 0)}


def convolved(b: Builder, x: Value, channels: int) -> Value:
    weights = b.constant(0.2 * normal(channels, int(x.shape[1]), 1, 1, seed=channels), "w")
    return b.one("conv", [x, weights], **PLAIN)


def network(channels: int, size: tuple[int, int], window: Window) -> Graph:
    """What `window` makes of a value between two convolutions, beside the value itself."""
    b = Builder("g")
    x = b.input("x", DType.F32, (1, 16, *size))
    y = b.one("relu", [convolved(b, x, channels)])
    return run_passes(b.finish([convolved(b, b.one("mul", [y, window(b, y)]), 16)]))


def normalised(b: Builder, y: Value) -> Value:
    return local_response_norm(b, y, 5, 0.3, 0.75, 1.0)


def largest(b: Builder, y: Value) -> Value:
    """The largest of three neighbouring channels."""
    _, channels, height, width = y.shape
    rows = reshape(b, y, (1, 1, channels, mul(height, width)))
    found = b.one("max_pool", [rows], kernel=(3, 1), strides=(1, 1), dilations=(1, 1), pads=(1, 0, 1, 0))
    return reshape(b, found, y.shape)


def in_space(b: Builder, y: Value) -> Value:
    return b.one("max_pool", [y], kernel=(3, 3), strides=(1, 1), dilations=(1, 1), pads=(1, 1, 1, 1))


def of_all_channels(b: Builder, y: Value) -> Value:
    return b.one("reduce", [y], kind="max", axes=(1,), keepdims=True)


def copies_read(graph: Graph, workers: Workers) -> list[str]:
    """Works of loops that read a copy. What is computed is right, and the plan says how."""
    exe = build(graph, workers, 1, None)
    given = {"x": normal(*(int(d) for d in graph.inputs[0].shape), seed=3)}  # type: ignore[arg-type]
    (ours,), (wide,) = exe.run(given).values(), run_graph(graph, given, wide=True).values()
    assert np.abs(ours - wide).max() <= 1e-5 * np.abs(wide).max()
    assert_same_bits(build(graph, workers, 1, None, parse(exe.plan.text())).run(given), exe.run(given))
    assert_same_bits(Executable(exe.program, exe.objects, 2).run(given), exe.run(given))
    return [work.name for work in exe.plan.works if work.kind == "rows" and "reading(" in str(work.recipe)]


@pytest.mark.parametrize("window", [normalised, largest])
@pytest.mark.parametrize(("channels", "size"), [(48, (6, 7)), (40, (9, 5)), (64, (1, 3))])
def test_windows_over_channels_read_a_copy(
    window: Window, channels: int, size: tuple[int, int], workers: Workers
) -> None:
    assert len(copies_read(network(channels, size, window), workers)) == 1


@pytest.mark.parametrize("window", [in_space, of_all_channels])
def test_others_read_what_is_there(window: Window, workers: Workers) -> None:
    assert not copies_read(network(48, (6, 7), window), workers)


def test_two_windows_share_a_copy(workers: Workers) -> None:
    graph = network(48, (6, 7), lambda b, y: b.one("add", [normalised(b, y), largest(b, y)]))
    exe = build(graph, workers, 1, None)
    copies = [work for work in exe.plan.works if str(work.recipe).startswith("copy(")]
    assert len(copies_read(graph, workers)) == 2
    assert len({str(work.recipe) for work in copies}) == len(copies)
