"""Random graphs in number formats: native code gives what the interpreter makes of the graph that was made so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from tests.random_graphs import Case, cases

from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ExecutionError, UnsupportedError
from mapsto.formats.format import wanted
from mapsto.ir.graph import Graph
from mapsto.ops.interpret import run_graph
from mapsto.runtime.executable import Executable
from mapsto.session.calibration import Calibration, ranges_of
from mapsto.session.compile import build, prepared
from mapsto.session.formed import bytes_lie_as, formed

# A sum that is rounded to the other side of a step is one step off, and whatever reads it sees that.
TOLERANCE = {
    "bf16": 2.0**-7, "f16": 2.0**-10, "bf16-weights": 2e-5, "f16-weights": 2e-5, "int8": 2.0**-5, "int16": 2.0**-8,
}  # fmt: skip


@pytest.mark.parametrize("name", TOLERANCE)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
        HealthCheck.function_scoped_fixture,
    ],
)
@given(cases(most_nodes=8))
def test_as_the_interpreter(workers: Workers, name: str, case: Case) -> None:
    if case.spice:
        return  # NaN and infinities that are rounded are those of casts, which other tests hold

    def made(graph: Graph) -> Executable:
        return build(graph, workers, 1, None)

    try:
        graph = prepared(case.model, None)
        ranges = ranges_of(graph, Calibration([case.feed]), made) if name.startswith("int") else None
        graph = formed(graph, wanted(name), ranges, bytes_lie_as(workers.maker({}).spec)).graph
        expected = run_graph(graph, case.feed)
        found = made(graph).run(case.feed)
    except (UnsupportedError, ExecutionError):
        return
    floats = [a for a in (*expected.values(), *case.feed.values()) if a.dtype.kind == "f"]
    largest = max((float(np.abs(a[np.isfinite(a)]).max(initial=0.0)) for a in floats), default=0.0)
    for output, right in expected.items():
        ours = found[output]
        assert ours.shape == right.shape
        assert ours.dtype == right.dtype
        if ours.dtype.kind != "f" or not ours.size:
            continue
        finite = np.isfinite(right)
        np.testing.assert_array_equal(np.isfinite(ours), finite)
        assert np.abs(ours[finite].astype(np.float64) - right[finite]).max(initial=0.0) <= TOLERANCE[name] * largest
