"""`mapsto train` and `mapsto search`: what they print, what they leave behind, how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.cli.conftest import Call
from tests.train.models import data
from tests.train.test_recipe import MODEL, RECIPE

ROOT = Path(__file__).parents[2]
SEARCH = "\n[search]\ntrials = 2\n[search.ranges]\nlearning_rate = { low = 1e-3, high = 0.1 }\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "parts.py").write_text(MODEL)
    (tmp_path / "r.toml").write_text(RECIPE + 'checkpoint = "c"\n' + SEARCH)
    np.savez(tmp_path / "points.npz", **data(40))  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_training_from_the_recipe_to_a_running_model(folder: Path, call: Call) -> None:
    code, out, err = call("train", "r.toml", "--set", "data.test={npz = 'points.npz'}")
    lines = out.splitlines()
    assert (code, err) == (0, "") and [line.split(":")[0] for line in lines[:3]] == ["epoch 1", "epoch 2", "epoch 3"]
    assert lines[3] == "all 3 epochs are done" and lines[4].startswith("test: loss ")
    assert lines[4].endswith("(40 examples)") and lines[5:] == ["onnx: trained.onnx", "checkpoint: c"]
    code, out, _ = call("run", "trained.onnx", "--inputs", "points.npz", "--repeat", "1")
    assert code == 0 and "scores" in out and "%" in out  # the share of examples that are right, by their labels


def test_the_command_line_has_the_last_word(folder: Path, call: Call) -> None:
    code, out, _ = call("train", "r.toml", "--epochs", "1", "--seed", "9", "--threads", "1", "--json")
    first = json.loads(out)
    assert code == 0 and len(first["epochs"]) == 1 and first["ended"] == "all 1 epochs are done"
    assert first["files"] == {"onnx": "trained.onnx", "checkpoint": "c"} and first["recipe"] == "r.toml"
    code, out, _ = call("train", "r.toml", "--epochs", "2", "--seed", "9", "--json")
    again = json.loads(out)
    assert again["epochs"][0] == first["epochs"][0] and again["notes"][0].startswith("resumed from c")
    code, out, _ = call("train", "r.toml", "--epochs", "1", "--no-resume", "--set", "train.batch=30", "--json")
    other = json.loads(out)
    assert other["notes"] == [] and other["epochs"][0]["steps"] == 1


def test_another_head_by_the_command_line(folder: Path, call: Call) -> None:
    code, _, _ = call("train", "r.toml", "--head", "classes=5", "--epochs", "1")
    assert code == 0
    code, out, _ = call("run", "trained.onnx", "--inputs", "points.npz", "--repeat", "1")
    assert code == 0 and "float32[40, 5]" in out


def test_errors_are_one_message_and_2(folder: Path, call: Call) -> None:
    for arguments, message in (
        (["train"], "Missing argument 'RECIPE'"),
        (["train", "none.toml"], "there is no recipe file none.toml"),
        (["train", "."], "is a folder, not a recipe file"),
        (["train", "parts.py"], "parts.py: "),
        (["train", "r.toml", "--epochs", "0"], "--epochs"),
        (["train", "r.toml", "--set", "batch"], "--set batch: expected KEY=VALUE"),
        (["train", "r.toml", "--set", "train.bach=3"], "train.bach: means nothing here; 'batch'?"),
        (["train", "r.toml", "--head", "10"], "--head 10: expected classes=N"),
        (["train", "r.toml", "--set", "output.onnx=none/x"], "there is no folder"),
        (["search", "none.toml"], "there is no recipe file none.toml"),
        (["search", "r.toml", "--trials", "0"], "--trials"),
        (["search", "r.toml", "--set", "search.study=none/x"], "there is no folder"),
    ):
        before = sorted(os.listdir(folder))
        code, out, err = call(*arguments, "--json")
        assert code == 2 and message in err and err.startswith("mapsto: error: "), err
        assert json.loads(out)["exit_code"] == 2 and sorted(os.listdir(folder)) == before
    (folder / "r.toml").write_text((folder / "r.toml").read_text().replace("epochs = 3", "epochs = 'many'"))
    code, _, err = call("train", "r.toml")
    assert code == 2 and "r.toml, line 14: train.epochs: expected a whole number from 1 on, found 'many'" in err


def test_a_search_prints_trials_and_how_to_train_by_the_best(folder: Path, call: Call) -> None:
    pytest.importorskip("optuna")
    code, out, err = call("search", "r.toml", "--epochs", "2")
    lines = out.splitlines()
    assert (code, err) == (0, "") and len(lines) == 6 and not (folder / "trained.onnx").exists()
    assert lines[0].startswith("trial 0: done ") and "learning_rate 0.0" in lines[0]
    assert lines[2] == "2 trials: 2 done; a step was compiled 1 times" and lines[5] == "study: r.study"
    assert lines[3].startswith("best: trial ")
    command = lines[4].split()
    assert command[:3] == ["mapsto", "train", "r.toml"]
    code, out, _ = call(*command[1:], "--epochs", "2", "--json")
    assert code == 0 and f"{min(e['validation'] for e in json.loads(out)['epochs']):.4f}" == lines[3].split()[-1]
    code, out, _ = call("search", "r.toml", "--epochs", "2", "--trials", "3", "--json")
    found = json.loads(out)
    assert len(found["trials"]) == 3 and found["best"]["state"] == "done" and found["better"] == "validation"


def test_an_interruption_is_130_and_says_how_to_go_on(folder: Path) -> None:
    command = [sys.executable, "-c", "from mapsto.cli import main; main()", "train", "r.toml", "--epochs", "100000"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "MAPSTO_CACHE": str(folder / "cache")}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline().startswith("epoch 1: ")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "interrupted: it goes on from c when it is called again\n"
    assert (folder / "c").exists() and not (folder / "trained.onnx").exists()


def test_what_runs_code_says_so(call: Call) -> None:
    code, out, _ = call("train", "--help")
    assert code == 0 and "that file's code is run" in " ".join(out.replace("│", " ").split())
    assert call("search", "--help")[0] == 0
