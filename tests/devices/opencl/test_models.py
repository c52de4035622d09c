"""The real models whole on an OpenCL device, on real input: error, no step elsewhere, the same bits again, copies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests import opencl
from tests.session.support import assert_same_bits
from tests.test_models import model_of, references

import mapsto
from mapsto.devices.opencl.engine import OpenClEngine
from mapsto.report.accuracy import judge_runs
from mapsto.runtime.executable import Executable
from mapsto.runtime.program import Bind, Bounds, BranchIfFalse, Run

pytestmark = [pytest.mark.opencl, pytest.mark.models, pytest.mark.slow]

MODELS = ("nudenet", "minilm", "silero-vad")


def compiled(key: str, monkeypatch: pytest.MonkeyPatch) -> Executable:
    """With nothing of the CPU's to make code by, or to run it."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the CPU was asked for code")

    opencl.required()
    model = model_of(key)
    for where in ("devices.cpu.compiler.CompilePool.__init__", "runtime.native.Library.__init__"):
        monkeypatch.setattr(f"mapsto.{where}", refuse)
    return mapsto.compile(model.path, shapes=model.shapes, device="opencl")


@pytest.mark.parametrize("key", MODELS)
def test_a_real_model_whole(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, peers = (references(key, engine) for engine in ("onnxruntime-unoptimised", "onnxruntime"))
    exe = compiled(key, monkeypatch)
    feeds = model_of(key).feeds
    found = [exe.run(feed) for feed in feeds]
    for verdict in judge_runs(wanted, found, peers):
        assert verdict.ok, verdict
    assert any(" contraction " in step.label for step in exe.program.steps)
    copies = _copies(exe, feeds[-1], monkeypatch)
    steps = exe.program.steps
    decisions = sum(isinstance(step, Bind | Bounds | BranchIfFalse) for step in steps)
    assert copies["write"] == len(exe.program.inputs)
    assert copies["read"] <= len(exe.program.outputs) + decisions
    assert copies["start"] <= sum(isinstance(step, Run) for step in steps) and copies["reserve"] == copies["set"] == 0
    exe.poison()
    assert_same_bits(exe.run(feeds[0]), found[0])


def _copies(exe: Executable, feed: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What a run tells the device, when the run before had the same sizes."""
    from mapsto.devices.opencl.engine import OpenClLauncher

    counts: dict[str, int] = {}

    def counted(of: type, name: str) -> None:
        inner, counts[name] = getattr(of, name), 0

        def call(self: Any, *arguments: Any) -> Any:
            counts[name] += 1
            return inner(self, *arguments)

        monkeypatch.setattr(of, name, call)

    exe.run(feed)
    for of, names in ((OpenClEngine, ("read", "write", "reserve")), (OpenClLauncher, ("start", "set"))):
        for name in names:
            counted(of, name)
    exe.run(feed)
    return counts
