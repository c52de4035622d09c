"""Convolutions by products at points on an OpenCL device that likes vectors, beside float64."""

from __future__ import annotations

import numpy as np
import pytest
from tests import opencl
from tests.devices.points import CASES, F32, LIMIT, convolution, feeds_of, is_at_points

from mapsto.devices.making import quotes
from mapsto.devices.opencl.traits import core_of
from mapsto.ir.graph import Graph
from mapsto.ops.interpret import run_graph
from mapsto.passes import run_passes
from mapsto.runtime.executable import Executable
from mapsto.session.compile import build


@pytest.fixture(autouse=True)
def _at_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken wherever it can be."""
    monkeypatch.setattr(quotes, "WORTH_POINTS", 0.0)


def compiled(graph: Graph) -> Executable:
    exe = build(run_passes(graph), opencl.backend(), None, None)
    core = core_of(opencl.device())
    assert is_at_points(exe) == (core.lanes(F32) > 1 and core.has("fma")), exe.plan.text()
    return exe


@pytest.mark.parametrize("name", CASES)
def test_forms(name: str) -> None:
    graph = convolution(*CASES[name])
    feeds = feeds_of(graph)
    wide = run_graph(graph, feeds, wide=True)["y"]
    exe = compiled(graph)
    found = exe.run(feeds)["y"]
    assert found.shape == wide.shape
    assert np.abs(found - wide).max() <= LIMIT * np.abs(wide).max()
    assert exe.run(feeds)["y"].tobytes() == found.tobytes()


@pytest.mark.parametrize("value", [np.inf, np.nan, 3e38])
@pytest.mark.parametrize("name", ["cut tiles", "several images"])
def test_one_such_input_stays_where_it_is(name: str, value: float) -> None:
    shape, columns, pads, _ = CASES[name]
    graph = convolution(shape, columns, pads, "", before=False)
    feeds = feeds_of(graph)
    feeds["x"][0, 3, 1, 2] = value
    with np.errstate(all="ignore"):
        wide = run_graph(graph, feeds, wide=True)["y"].astype(np.float32)
    found = compiled(graph).run(feeds)["y"]
    for of in (np.isnan, np.isposinf, np.isneginf):
        assert np.array_equal(of(found), of(wide))
    finite = np.isfinite(wide) & (np.abs(wide) < 1e30)
    assert np.abs(found[finite] - wide[finite]).max() <= LIMIT * np.abs(wide[finite]).max()
