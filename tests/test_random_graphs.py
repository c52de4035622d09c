"""Random graphs: native code against the numpy reference AND against another implementation of ONNX.

One author's kernel and reference share their mistakes; ONNX Runtime (where it lacks an op: onnx.reference) does not.
MAPSTO_RANDOM_GRAPHS says how many (else 300); `--fresh` makes others than usual.
"""

from __future__ import annotations

import os
import re

import numpy as np
import onnxruntime as ort
from hypothesis import HealthCheck, given, reject, settings
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as LacksOp

from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ExecutionError, UnsupportedError
from mapsto.importers import onnx as importer
from mapsto.ops.interpret import run_graph
from mapsto.session.compile import build, prepared
from tests.random_graphs import Case, cases, with_open_sizes

COUNT = int(os.environ.get("MAPSTO_RANDOM_GRAPHS", "300"))

# Of the largest magnitude that an output depends on: room for some thousand additions in another order.
TOLERANCE = 2e-5

# Where ONNX Runtime's answer to NaN and infinities depends on where they stand, or is not defined. Ours is numpy's.
LOSES_NAN = {"MaxPool", "GlobalMaxPool", "ArgMax", "ArgMin", "TopK", "ReduceMax", "ReduceMin", "Resize", "Cast", "Clip"}

common = settings(
    max_examples=COUNT,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

Outputs = dict[str, np.ndarray]


def by_another(case: Case) -> Outputs:
    """Every value of the graph by ONNX Runtime without optimisations, or by onnx.reference where that lacks an op. A
    graph that neither can run (a Pad that wraps nothing, beside a grouped ConvTranspose) is none to try.
    """
    model = case.every
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    names = [output.name for output in model.graph.output]
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return dict(zip(names, session.run(None, case.feed), strict=True))
    except (LacksOp, Fail):
        pass
    try:
        return dict(zip(names, ReferenceEvaluator(model).run(None, case.feed), strict=True))
    except (ValueError, IndexError, TypeError, NotImplementedError):  # what its own code stumbles over
        reject()


def magnitude(arrays: list[np.ndarray]) -> float:
    """The largest finite magnitude among them."""
    finite = [np.abs(a[np.isfinite(a)]).max(initial=0.0) for a in arrays if a.dtype.kind == "f"]
    return float(max(finite, default=0.0))


def assert_agrees(case: Case, found: Outputs, every: Outputs) -> None:
    """Outputs against those of another implementation; without what that makes of NaN where it does not keep it."""
    loses = LOSES_NAN if case.spice else set()
    names = [output.name for output in case.model.graph.output if not loses & case.ops_behind(output.name)]
    assert_equal(case, {n: found[n] for n in names}, every, every, "another implementation")


def assert_equal(case: Case, found: Outputs, expected: Outputs, every: Outputs, whose: str) -> None:
    """Equal dtypes and shapes; values equal where they are exact, else to rounding, with NaN in place."""
    for name, ours in found.items():
        theirs = expected[name]
        where = f"{name} differs from {whose}"
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, f"{where}: {ours.dtype}{ours.shape}"
        if case.exact[name] or ours.dtype.kind != "f":
            np.testing.assert_array_equal(ours, theirs, err_msg=where)
            continue
        scale = magnitude([every[value] for value in case.ancestors[name] if value in every] + [theirs])
        np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE * scale, err_msg=where)


@common
@given(cases())
def test_the_reference_agrees_with_another_implementation(case: Case) -> None:
    every = by_another(case) | case.feed
    reference = run_graph(importer.load(case.model, case.shapes), case.feed)
    assert_agrees(case, reference, every)


@common
@given(cases())
def test_native_code_agrees_with_both(workers: Workers, case: Case) -> None:
    every = by_another(case) | case.feed
    native = build(prepared(case.model, case.shapes), workers, 2, None).run(case.feed)
    assert_equal(
        case, native, run_graph(importer.load(case.model, case.shapes), case.feed), every, "the numpy reference"
    )
    assert_agrees(case, native, every)


# What open sizes may be refused for, at compile time or by a run: the message says which dim to fix.
REFUSED = re.compile("fix it by `shapes`|a slice (begins|ends|needs)|the sizes .* must be equal|a negative dim")


@common
@given(cases(most_nodes=5))
def test_native_code_with_open_sizes_agrees(workers: Workers, case: Case) -> None:
    every = by_another(case) | case.feed
    empty = {name: shape for name, shape in case.shapes.items() if 0 in shape}
    try:
        native = build(prepared(with_open_sizes(case.model), empty), workers, 2, None).run(case.feed)
    except (UnsupportedError, ExecutionError) as error:
        assert REFUSED.search(str(error)), error
        return
    assert_agrees(case, native, every)
