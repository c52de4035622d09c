"""Divisions that are tried before one is taken, and what is measured of handing over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import onnx
import pytest
from tests import opencl
from tests.importers.models import model, node
from tests.session.divisions import at_random, diamond, diamond_model

import mapsto
from mapsto.budget import Budget, metering
from mapsto.devices.cpu.workers import Workers
from mapsto.ir.graph import Graph
from mapsto.runtime.divided import DividedExecutable
from mapsto.runtime.divisions import DividedPart, Division
from mapsto.session import handing
from mapsto.session.compile import prepared
from mapsto.session.division import divided, whole_of
from mapsto.session.handing import handed_over
from mapsto.session.trial import Trials, TriedRuns


def product() -> DividedExecutable:
    opencl.required()
    w = np.random.default_rng(0).standard_normal((2048, 2048)).astype(np.float32)
    graph = model([node("MatMul", ["x", "w"], ["y"])], {"x": [768, 2048]}, constants={"w": w})
    return mapsto.divide(graph, ["cpu", "opencl"], threads=1, adapt=False)


NAMES = ["x", *(f"v{k}" for k in range(7)), "y"]


def products() -> onnx.ModelProto:
    """Eight works, one after the other."""
    w = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32) / 23
    return model([node("MatMul", [a, "w"], [b]) for a, b in pairwise(NAMES)], {"x": [512, 512]}, constants={"w": w})


def works(part: DividedPart) -> int:
    return len(part.makes & {*NAMES})


Runs = Callable[[Trials, Division, bool], TriedRuns]


def runs_are(monkeypatch: pytest.MonkeyPatch, runs: Runs, by_turns: Runs | None = None) -> None:
    """What runs of divisions are said to take, and by turns beside another one (as much, without `by_turns`)."""
    beside = by_turns or runs
    monkeypatch.setattr(Trials, "runs", runs)
    monkeypatch.setattr(
        Trials, "by_turns", lambda self, each, is_stream: [beside(self, d, is_stream).seconds for d in each]
    )


@pytest.mark.parametrize(("in_parts", "taken"), [(0.01, True), (1.0, False)])
def test_what_runs_take_decides(in_parts: float, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two halves are predicted to be quicker than the whole; and tried, after the host alone."""
    tried: list[int] = []

    def runs(self: Trials, division: Division, is_stream: bool) -> TriedRuns:
        tried.append(len(division.parts))
        assert not is_stream
        return TriedRuns(in_parts if len(division.parts) > 1 else 0.5, ())

    runs_are(monkeypatch, runs)
    monkeypatch.setattr(Trials, "part_seconds", lambda self, division: [0.05] * len(division.parts))
    exe = product()
    assert tried[0] == 1 and max(tried) > 1
    assert (len(exe.parts) > 1) == taken
    assert exe.plan.total is not None and exe.plan.total.method.endswith("; tried")
    assert exe.plan.total.seconds == pytest.approx(in_parts if taken else 0.5, rel=1e-3)


def test_what_is_close_is_tried_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something disturbed the host while it was tried: by turns it is seen to be the better one."""
    runs_are(
        monkeypatch,
        lambda self, division, is_stream: TriedRuns(0.45 if len(division.parts) > 1 else 0.5, ()),
        lambda self, division, is_stream: TriedRuns(0.45 if len(division.parts) > 1 else 0.4, ()),
    )
    monkeypatch.setattr(Trials, "part_seconds", lambda self, division: [0.05] * len(division.parts))
    exe = product()
    assert len(exe.parts) == 1
    assert exe.plan.total is not None and exe.plan.total.seconds == pytest.approx(0.4, rel=1e-3)


def test_shares_are_by_what_parts_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions share a product out evenly; the other device turns out to take three times as long for its part."""
    share = {"opencl": 0.0}

    def part_seconds(self: Trials, division: Division) -> list[float]:
        if len(division.parts) == 1:
            return [0.048]
        (port,) = next(part for part in division.parts if part.device == "opencl").executable.program.outputs
        share["opencl"] = int(str(port.shape[-1])) / 2048 * int(str(port.shape[0])) / 768
        times = {"opencl": 3 * share["opencl"], "cpu": 1 - share["opencl"]}
        seconds = [0.048 * times[part.device] for part in division.parts]
        seconds[-1] = min(seconds[-1], 1e-4) if len(seconds) > 2 else seconds[-1]  # what puts both together
        return seconds

    def runs(self: Trials, division: Division, is_stream: bool) -> TriedRuns:
        return TriedRuns(max(part_seconds(self, division)), ())

    runs_are(monkeypatch, runs)
    monkeypatch.setattr(Trials, "part_seconds", part_seconds)
    exe = product()
    assert len(exe.plan.splits) == 1 and share["opencl"] == pytest.approx(0.25, abs=0.04)
    assert exe.plan.devices[1].products > 2 * exe.plan.devices[0].products


def test_what_cannot_be_tried_is_predicted() -> None:
    total = product().plan.total
    assert total is not None and "tried" not in total.method


def test_a_device_alone_at_work_is_not_slowed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both at work take three times as long: all on the host is the best, and stays so while nothing changes."""
    opencl.required()
    graph = products()

    def alone(self: Trials, division: Division) -> list[float]:
        return [0.01 * works(part) for part in division.parts]

    def runs(self: Trials, division: Division, is_stream: bool) -> TriedRuns:
        slowed = 3 if len({part.device for part in division.parts}) > 1 else 1
        taken = [slowed * seconds for seconds in alone(self, division)]
        return TriedRuns(max(taken), tuple(taken))

    runs_are(monkeypatch, runs)
    monkeypatch.setattr(Trials, "part_seconds", alone)
    exe = mapsto.divide(graph, ["cpu", "opencl"], threads=1, objective="throughput", replicate=False, cache=False)
    assert {part.device for part in exe.parts} == {"cpu"}
    replanning = exe._redividing.replanning
    assert replanning is not None and replanning.ready({"cpu": 1.0, "opencl": 1.0}) is None
    assert exe._current.division.predicted == pytest.approx([0.08], rel=0.05)


@pytest.mark.parametrize(("copied", "taken"), [(0.01, True), (0.2, False)])
def test_what_copies_take_decides(copied: float, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions say that both devices do more runs a second than one; both at work may be slow."""
    opencl.required()

    def runs(self: Trials, division: Division, is_stream: bool) -> TriedRuns:
        return TriedRuns(copied if division.copies else 0.1, ())

    runs_are(monkeypatch, runs)
    monkeypatch.setattr(Trials, "part_seconds", lambda self, division: [0.05] * len(division.parts))
    exe = mapsto.divide(diamond_model(), ["cpu", "opencl"], threads=1, objective="throughput", adapt=False)
    total = exe.plan.total
    assert exe.plan.replicated == taken and total is not None
    assert total.seconds == pytest.approx(copied if taken else 0.1) and total.method.endswith("; tried")


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(cache=False, isa=None) as made:
        yield made


def test_parts_are_run_on_sizes_that_are_guessed(measured: None, workers: Workers) -> None:
    graph = prepared(model([node("Exp", ["x"], ["e"]), node("Neg", ["e"], ["y"])], {"x": ["n", 300]}, ["y"]), None)
    first, second = (n.outputs[0].name for n in graph.nodes)
    exe = divided(graph, {first: 0, second: 1}, {"cpu": workers, "opencl": opencl.backend()}, 1)
    for sizes, known in (({"n": 7}, True), ({}, False)):
        seconds = Trials(whole_of(graph), sizes, ["cpu", "opencl"]).part_seconds(exe._current.division)
        assert (seconds is not None) == known
        assert seconds is None or (len(seconds) == len(exe.parts) and all(0 < s < 1 for s in seconds))


def test_a_part_that_refuses_what_it_is_tried_on_is_not_tried(measured: None, workers: Workers) -> None:
    """Where data decides a size, random data may decide one that a part has no use for."""
    nodes = [node("NonZero", ["x"], ["i"]), node("Reshape", ["i", "shape"], ["y"])]
    shape = np.array([1, 5], np.int64)
    graph = prepared(model(nodes, {"x": [5]}, ["y"], {"shape": shape}), None)
    exe = divided(graph, {}, {"cpu": workers, "opencl": opencl.backend()}, 1)
    trials = Trials(whole_of(graph), {}, ["cpu", "opencl"])
    assert trials.part_seconds(exe._current.division) is not None  # five numbers, none of them 0
    trials._feed = {"x": np.zeros(5, np.float32)}
    assert trials.part_seconds(exe._current.division) is None


@pytest.mark.parametrize("is_stream", [False, True])
def test_runs_of_all_are_timed(is_stream: bool, measured: None, workers: Workers) -> None:
    graph: Graph = diamond()
    exe = divided(graph, at_random(graph, 3), {"cpu": workers, "opencl": opencl.backend()}, 1)
    trials = Trials(whole_of(graph), {}, ["cpu", "opencl"])
    runs = trials.runs(exe._current.division, is_stream)
    assert 0 < runs.seconds < 1 and len(runs.parts) == (len(exe.parts) if is_stream else 0)
    assert all(0 < seconds < 1 for seconds in runs.parts)
    assert all(0 < seconds < 1 for seconds in trials.by_turns([exe._current.division] * 2, is_stream))


def test_what_parts_take_of_a_busy_machine_counts_for_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each work takes 10 ms by itself; on the second device three times that while the first one is busy."""
    opencl.required()
    graph = products()

    def runs(self: Trials, division: Division, is_stream: bool) -> TriedRuns:
        assert is_stream
        devices = {part.device for part in division.parts}
        slower = {"cpu": 1, "opencl": 3 if len(devices) > 1 else 1}
        taken = [0.01 * works(part) * slower[part.device] for part in division.parts]
        busy = [sum(t for t, p in zip(taken, division.parts, strict=True) if p.device == d) for d in devices]
        return TriedRuns(max(busy), tuple(taken))

    runs_are(monkeypatch, runs)
    monkeypatch.setattr(Trials, "part_seconds", lambda self, division: [0.01 * works(p) for p in division.parts])
    exe = mapsto.divide(
        graph, ["cpu", "opencl"], threads=1, objective="throughput", replicate=False, adapt=False, cache=False
    )
    count = {device: sum(works(p) for p in exe.parts if p.device == device) for device in ("cpu", "opencl")}
    assert count == {"cpu": 6, "opencl": 2}


def test_handing_over_is_measured_once(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    backends = {"cpu": workers, "opencl": opencl.backend()}
    monkeypatch.setattr(handing, "_KNOWN", {})
    host, other = handed_over(backends, 1)
    assert 0 < host.begins < 0.1 and 0 < other.begins < 0.1 and host.copies == np.inf and 1e8 <= other.copies <= 1e12
    monkeypatch.setattr(handing, "_measured", lambda *_: pytest.fail("it is known"))
    assert handed_over(backends, 1) == (host, other)
    assert handed_over({"cpu": workers}, 1) == (handing.HandOver(0.0),)


def test_each_part_has_a_budget_of_its_own(workers: Workers) -> None:
    """Several divisions are tried; packed weights of all of them together are no sign of a model that asks too much."""
    graph = prepared(products(), None)
    seats = {node.outputs[0].name: at // 4 for at, node in enumerate(graph.nodes)}
    with metering(Budget(folded_bytes=1)) as whole:  # beside 8 bytes for each of the model's own
        for _ in range(12):
            exe = divided(graph, seats, {"cpu": workers, "opencl": opencl.backend()}, 1)
            assert [part.device for part in exe.parts] == ["cpu", "opencl"]
        assert "folded_bytes" not in whole.spent
