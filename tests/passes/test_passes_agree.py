"""Every pass keeps what a graph computes, its outputs' names, and the sources that its nodes stand for."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from tests.passes.graphs import feeds, graphs

from mapsto.ir.graph import Graph
from mapsto.ops.interpret import run_graph
from mapsto.ops.verify import verify_graph
from mapsto.passes import DeadCode, MergeParallel, Pass, default_passes, run_passes
from mapsto.passes.layout_moves import LayoutMoves, slice_of_concat
from mapsto.passes.retrace import retrace

PASSES = {step.name: step for step in (*default_passes(), MergeParallel())}


def same(before: Graph, after: Graph, seed: int) -> None:
    inputs = feeds(before, seed)
    expected, found = run_graph(before, inputs, wide=True), run_graph(after, inputs, wide=True)
    assert list(found) == list(expected)
    for name, array in expected.items():
        # weights are rounded to f32 when a scale is folded into them; everything else is exact to f64 rounding
        scale = float(np.max(np.abs(array[np.isfinite(array)]), initial=1.0))
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5 * scale, err_msg=name)


def sources(graph: Graph) -> set[str]:
    return {source for node in graph.walk() for source in node.provenance}


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


@pytest.mark.parametrize("step", PASSES.values(), ids=PASSES.keys())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graph=graphs())
def test_no_pass_loses_a_source(step: Pass, graph: Graph) -> None:
    # what a slice leaves of a concat is all that is needed of it: the rest is dead as soon as a pass has seen that
    moves = step.name == LayoutMoves.name
    live = DeadCode()(retrace(graph, slice_of_concat) if moves else graph)
    after = DeadCode()(step(live))
    lost = sources(live) - sources(after)
    # only what became part of an input, or of a constant that is itself an output, has no node to be carried by
    kept = after.nodes and not any(node.op == "copy" for node in after.nodes)
    assert not lost or not kept, f"{step.name} lost {sorted(lost)}"
