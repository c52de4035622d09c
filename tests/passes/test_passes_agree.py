"""Every pass keeps what a graph computes, its outputs' names, and the sources that its nodes stand for."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from tests.passes.graphs import feeds, graphs
from tests.passes.test_provenance import lost_by

from mapsto.ir.graph import Graph
from mapsto.ops.interpret import run_graph
from mapsto.ops.verify import verify_graph
from mapsto.passes import Pass, default_passes, run_passes
from mapsto.passes.retrace import retrace

PASSES = {step.name: step for step in default_passes()}


def same(before: Graph, after: Graph, seed: int) -> None:
    inputs = feeds(before, seed)
    expected, found = run_graph(before, inputs, wide=True), run_graph(after, inputs, wide=True)
    assert list(found) == list(expected)
    for name, array in expected.items():
        # weights are rounded to f32 when a scale is folded into them; everything else is exact to f64 rounding
        scale = float(np.max(np.abs(array[np.isfinite(array)]), initial=1.0))
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize("step", PASSES.values(), ids=PASSES.keys())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graph=graphs(), seed=st.integers(0, 9))
def test_a_pass_keeps_the_results(step: Pass, graph: Graph, seed: int) -> None:
    after = step(graph)
    verify_graph(after)
    same(graph, after, seed)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graph=graphs(), seed=st.integers(0, 9))
def test_all_passes_together_keep_the_results(graph: Graph, seed: int) -> None:
    same(graph, run_passes(graph, on_pass=lambda name, g: verify_graph(g)), seed)


@pytest.mark.parametrize("step", [*PASSES.values(), retrace], ids=[*PASSES, "retrace"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graph=graphs())
def test_no_pass_loses_a_source(step: Callable[[Graph], Graph], graph: Graph) -> None:
    assert not lost_by(step, graph)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graph=graphs())
def test_no_source_is_lost_on_the_whole_way(graph: Graph) -> None:
    assert not lost_by(run_passes, graph)
