"""The examples run as their pages say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_network_writes_tokens_the_same_ones_every_time() -> None:
    command = [sys.executable, str(EXAMPLES / "decode.py"), "--tokens", "12", "--layers", "2", "--threads", "1"]
    first, second = (subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2))
    tokens, rate = first.splitlines()
    assert len(tokens.split()) == 12 and all(0 <= int(token) < 1000 for token in tokens.split())
    assert rate.endswith("tokens a second") and second.splitlines()[0] == tokens


def test_a_placement_is_printed_and_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "placement.png"
    command = [sys.executable, str(EXAMPLES / "placement.py"), "--machine", "conv-board", "-o", str(picture)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    placed, timeline, last = done.stdout.rstrip("\n").split("\n\n")
    head, host, *works = placed.splitlines()
    assert head.startswith("one run on conv-board: ") and host.startswith("all on cpu: ")
    assert {line.split()[2] for line in works} >= {"cpu", "conv"} and any("max_pool" in line for line in works)
    lanes = [line.split(" us  ")[1] for line in timeline.splitlines()]
    assert sum(not lane.startswith("bus ") for lane in lanes) == len(works) < len(lanes)
    assert last == f"the picture is in {picture}" and list(tmp_path.iterdir()) == [picture]
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG\r\n") and len(data) > 10_000


def test_a_digit_network_is_trained_and_runs(tmp_path: Path) -> None:
    """The journey of examples/mnist on the digits that come along: trained, drawn, searched, benchmarked."""
    for module in ("matplotlib", "safetensors", "optuna"):
        pytest.importorskip(module)
    folder = tmp_path / "examples" / "mnist"
    shutil.copytree(EXAMPLES / "mnist", folder, ignore=shutil.ignore_patterns("data", "__pycache__", "*.onnx"))
    shutil.copy(EXAMPLES / "digits.npz", tmp_path / "examples")

    def mapsto(*arguments: str) -> str:
        command = [sys.executable, "-c", "from mapsto.cli import main; main()", *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
        return done.stdout

    lines = mapsto("train", "digits.toml").splitlines()
    assert [line.partition(":")[0] for line in lines[:6]] == [f"epoch {n}" for n in range(1, 7)]
    history = json.loads((folder / "digits.json").read_text())["epochs"]
    assert history[-1]["loss"] < 0.5 < 2 < history[0]["loss"]
    assert (folder / "digits.png").read_bytes().startswith(b"\x89PNG\r\n")
    said = mapsto("run", "digits.onnx", "--inputs", "../digits.npz", "--repeat", "1", "--json")
    assert json.loads(said)["accuracy"]["share"] > 0.7
    said = mapsto("search", "digits.toml", "--trials", "2", "--epochs", "1")
    assert "a step was compiled 1 times" in said and (folder / "digits.study").exists()
    assert (folder / "digits-search.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_the_recipe_for_all_of_mnist_is_read() -> None:
    from mapsto.train.recipe import read_recipe

    made = read_recipe(str(EXAMPLES / "mnist" / "recipe.toml"))
    assert made.fit["epochs"] == 10 and made.fit["batch"] == 128 and made.test is not None
    fetched = {Path(path).name for source in (made.data, made.test) for path in source.files.values()}
    from mnist.fetch import FILES

    assert fetched == set(FILES)
