"""Driving engines in processes of their own, alternately."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import mapsto
from mapsto.errors import ExecutionError
from mapsto.report import bench
from mapsto.report.bench import OURS, BenchSetup, EngineProcess, Quartiles, measure

ENGINES = ("onnxruntime", "onnxruntime-unoptimised")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    parsed = onnx.parser.parse_model(
        textwrap.dedent("""
            <ir_version: 8, opset_import: ["" : 17]>
            twice (float[n, 3] x) => (float[n, 3] y) { y = Add(x, x) }
        """)
    )
    onnx.save(parsed, tmp_path / "twice.onnx")
    return tmp_path / "twice.onnx"


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "TURN_SECONDS", 0.002)


def setup(model: Path) -> BenchSetup:
    feeds = [{"x": np.full((2, 3), value, np.float32)} for value in (1, 2)]
    return BenchSetup(model, feeds, {"x": (2, 3)}, seconds=0.05, keep_outputs=True)


def test_quartiles() -> None:
    assert Quartiles.of([1, 2, 3, 4, 5]) == Quartiles(2, 3, 4, 5)
    assert Quartiles.of([7]) == Quartiles(7, 7, 7, 1)


def test_engines_are_timed_and_their_outputs_kept(model: Path) -> None:
    report = measure(setup(model), ENGINES)
    assert [timing.engine for timing in report.timings] == list(ENGINES)
    for timing in report.timings:
        assert 0 < timing.seconds.low <= timing.seconds.median <= timing.seconds.high
        assert timing.seconds.count >= bench.MIN_ROUNDS
        assert timing.open_seconds > 0
    for outputs in report.outputs.values():
        assert [found["y"][0, 0] for found in outputs] == [2, 4]


def test_ours_is_made_by_a_plan(model: Path) -> None:
    text = mapsto.compile(model, {"x": (2, 3)}).plan.text()
    report = measure(replace(setup(model), plan=text), [OURS])
    assert [found["y"][0, 0] for found in report.outputs[OURS]] == [2, 4]
    with pytest.raises(ExecutionError, match="plan, line 1"):
        measure(replace(setup(model), plan="plan"), [OURS])


def test_progress_says_which_engine_is_opened(model: Path) -> None:
    said: list[tuple[int, int, str]] = []
    measure(setup(model), ENGINES, lambda done, total, what: said.append((done, total, what)))
    assert said[:2] == [(i, len(ENGINES), f"opening {engine}") for i, engine in enumerate(ENGINES)]


def test_every_round_gives_every_engine_one_turn_in_rotating_order(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = EngineProcess.ask

    def spy(self: EngineProcess, **request: object) -> dict[str, object]:
        if request["do"] == "time" and request["runs"] != 3:
            asked.append(self.engine)
        return ask(self, **request)

    monkeypatch.setattr(EngineProcess, "ask", spy)
    monkeypatch.setattr(bench, "MAX_RUNS", 2)
    measure(setup(model), ENGINES)
    first, second = ENGINES
    assert asked[:6] == [first, second, second, first, first, second]


def test_an_engine_of_another_interpreter_is_told_apart_by_its_label(model: Path) -> None:
    wanted = replace(setup(model), pythons={"onnxruntime@other": sys.executable})
    report = measure(wanted, ["onnxruntime", "onnxruntime@other"])
    assert [timing.engine for timing in report.timings] == ["onnxruntime", "onnxruntime@other"]
    missing = replace(setup(model), pythons={"onnxruntime@other": "/no/such/python"})
    with pytest.raises(ExecutionError, match="/no/such/python cannot be started"):
        measure(missing, ["onnxruntime", "onnxruntime@other"])


def test_an_engine_that_cannot_run_the_model_is_absent_with_the_reason(tmp_path: Path, model: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    report = measure(BenchSetup(tmp_path / "broken.onnx", setup(model).feeds), ["onnxruntime", "no-such-engine"])
    assert report.timings == ()
    assert "cannot load broken.onnx" in report.absent["onnxruntime"]
    assert "no engine 'no-such-engine'" in report.absent["no-such-engine"]


def test_a_worker_that_dies_is_an_error_with_its_last_words() -> None:
    with (
        EngineProcess("onnxruntime") as process,
        pytest.raises(ExecutionError, match=r"(?s)ended: exit code 1.*KeyError"),
    ):
        process.ask(do="something it does not know")


def test_ratios_are_of_turns_of_one_round() -> None:
    turns = {"mapsto": [[1.0], [10.0], [2.0]], "peer": [[2.0], [20.0], [4.0]]}
    assert bench._ratios(turns)["peer"] == Quartiles(0.5, 0.5, 0.5, 3)
