"""Gradients of convolutions' weights, natively: images times images, shifted by the taps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.session.support import assert_same_bits, normal

from mapsto.devices.cpu.workers import Workers
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import gradient, run_passes
from mapsto.runtime.executable import Executable
from mapsto.runtime.guard import Fences
from mapsto.session.compile import build


def gradient_of(x: tuple[int, ...], w: tuple[int, ...], **attrs: Any) -> Graph:
    """A graph of the gradient alone, of a sum that weighs each result."""
    b = Builder("g")
    plain = {"strides": (1, 1), "dilations": (1, 1), "group": 1, "pads": (0, 0, 0, 0)}
    y = b.one("conv", [b.input("x", DType.F32, x), b.input("w", DType.F32, w)], **{**plain, **attrs})
    weighed = b.one("mul", [y, b.input("by", DType.F32, y.shape)])
    loss = b.one("reduce", [weighed], kind="sum", axes=(0, 1, 2, 3), keepdims=False)
    return run_passes(gradient(b.finish([loss], names=["loss"]), "loss", ["w"]))


def assert_right(graph: Graph, exe: Executable, seed: int) -> None:
    given = {v.name: normal(*(int(d) for d in v.shape), seed=seed + n) for n, v in enumerate(graph.inputs)}  # type: ignore[arg-type]
    found, wide = exe.run(given), run_graph(graph, given, wide=True)["w.gradient"]
    assert np.abs(found["w.gradient"] - wide).max() <= 1e-5 * np.abs(wide).max()
    exe.guard(Fences())
    assert_same_bits(exe.run(given), found)
    exe.guard(None)
    assert_same_bits(Executable(exe.program, exe.objects, 2).run(given), found)


CASES = {
    "3x3, same": ((16, 16, 16, 16), (32, 16, 3, 3), {"pads": (1, 1, 1, 1)}),
    "3x3, small images": ((24, 48, 7, 7), (40, 48, 3, 3), {"pads": (1, 1, 1, 1)}),
    "5x5, few channels": ((9, 3, 20, 31), (17, 3, 5, 5), {"pads": (2, 2, 2, 2)}),
    "3x3, no border": ((4, 8, 12, 40), (24, 8, 3, 3), {}),
    "stride 2": ((8, 16, 17, 17), (32, 16, 3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 2)}),
    "dilated": ((4, 16, 18, 18), (16, 16, 3, 3), {"pads": (2, 2, 2, 2), "dilations": (2, 2)}),
    "1x1": ((8, 32, 9, 9), (48, 32, 1, 1), {}),
    "1x7": ((4, 16, 10, 30), (16, 16, 1, 7), {"pads": (0, 3, 0, 3)}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_form(name: str, workers: Workers) -> None:
    x, w, attrs = CASES[name]
    graph = gradient_of(x, w, **attrs)
    assert_right(graph, build(graph, workers, 1, None), 1)


def test_images_are_read_as_they_lie(workers: Workers) -> None:
    """Along their last dim, as they come in: nothing is laid channels last first."""
    x, w, attrs = CASES["3x3, same"]
    exe = build(gradient_of(x, w, **attrs), workers, 1, None)
    works = [work for work in exe.plan.works if "absorb(" in str(work.recipe)]
    assert [(work.kind, work.offer.template) for work in works] == [("contraction", "tiles")], exe.plan.text()
    assert "reading(absorb(" in str(works[0].recipe)  # a copy with a border of what comes in


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape(workers: Workers, data: st.DataObject) -> None:
    n, c, o, h, w = (data.draw(st.integers(1, most)) for most in (9, 20, 40, 14, 20))
    kernel = data.draw(st.tuples(st.integers(1, min(4, h)), st.integers(1, min(5, w))))
    pads = tuple(data.draw(st.integers(0, k - 1)) for k in (*kernel, *kernel))
    graph = gradient_of((n, c, h, w), (o, c, *kernel), pads=pads)
    assert_right(graph, build(graph, workers, 1, None), 3)
