"""Whole plans, natively: contraction forms and the planner's graphs against numpy, for every instruction set that this
processor runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.devices.cpu.forms import FORMS, Form, feeds_of
from tests.plan.graphs import layer_norm_rows, small_cnn

from mapsto.devices.cpu.workers import Workers
from mapsto.devices.making import quotes
from mapsto.ir.expr import sym
from mapsto.ir.graph import Graph
from mapsto.ops.interpret import run_graph
from mapsto.passes import run_passes
from mapsto.report.accuracy import compare
from mapsto.runtime.executable import Executable
from mapsto.session.compile import build

# Relative to the largest magnitude of a channel: rounding of sums of some thousand products; bf16 and f16 round once.
TOLERANCE = {"float32": 1e-5, "bfloat16": 8e-3, "float16": 1e-3, "float64": 1e-12}


def compiled(graph: Graph, workers: Workers) -> Executable:
    return build(run_passes(graph), workers, 2, None)


def assert_right(graph: Graph, exe: Executable, feeds: dict[str, np.ndarray]) -> None:
    """Outputs beside the reference in float64, with dead memory poisoned, and the same bits without."""
    expected = run_graph(graph, feeds, wide=True)
    exe.poison()
    poisoned = exe.run(feeds)
    exe.poison(False)
    found = exe.run(feeds)
    for name, wide in expected.items():
        assert found[name].tobytes() == poisoned[name].tobytes(), f"{name}: poison shows"
        assert found[name].shape == wide.shape
        assert_close(found[name], wide)


def assert_close(found: np.ndarray, wide: np.ndarray) -> None:
    comparison = compare(wide.astype(found.dtype), found)
    assert comparison.mismatch is None, comparison.mismatch
    errors = comparison.errors
    assert np.all(errors <= TOLERANCE.get(found.dtype.name, 0)), (int(errors.argmax()), float(errors.max()))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_contraction_is_right(form: Form, workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    for factor in ("GOOD_TO", "GOOD_TO_OPEN"):  # the template is what is tested, also where loops would be faster
        monkeypatch.setattr(quotes, factor, math.inf)
    graph = form.graph()
    exe = compiled(graph, workers)
    tiled = any(work.offer.template in ("tiles", "winograd") for work in exe.plan.works)
    assert tiled == form.template, exe.plan.text()
    assert_right(graph, exe, feeds_of(graph, form.sizes))


@pytest.mark.parametrize("name", ["small_cnn", "layer_norm"])
def test_the_planner_s_graphs_are_right(name: str, workers: Workers) -> None:
    graph = small_cnn() if name == "small_cnn" else layer_norm_rows()
    assert_right(graph, compiled(graph, workers), feeds_of(graph, {}))


def test_one_executable_serves_all_sizes(workers: Workers) -> None:
    graph = small_cnn(sym("h"), sym("w"))
    exe = compiled(graph, workers)
    for height, width in ((8, 8), (9, 31), (1, 1), (2, 40), (33, 7), (64, 64)):
        assert_right(graph, exe, feeds_of(graph, {"h": height, "w": width}))
