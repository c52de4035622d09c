"""Searches: trials within ranges, what they share, what is kept of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.train.models import data
from tests.train.test_recipe import MODEL

from mapsto.errors import ArgumentError, FileError, ModelError, ParseError, UnsupportedError
from mapsto.train.recipe import read_recipe, with_sets
from mapsto.train.running import run_recipe
from mapsto.train.search import DONE, FAILED, PRUNED, SearchTrial, search_settings

pytest.importorskip("optuna")

RECIPE = """
[model]
function = "parts.py:network"
[data]
npz = "points.npz"
validation = 0.25
[train]
batch = 8
epochs = 3
threads = 1
[search]
trials = 4
study = "s.study"
[search.ranges]
learning_rate = { low = 1e-4, high = 0.1, scale = "log" }
batch = [4, 8]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "parts.py").write_text(MODEL)
    np.savez(tmp_path / "points.npz", **data(40))  # type: ignore[arg-type]
    return tmp_path


def recipe(folder: Path, text: str = RECIPE, **sets: Any) -> Any:
    (folder / "r.toml").write_text(text)
    return read_recipe(str(folder / "r.toml"), sets)


def test_trials_are_trainings_and_rates_and_batches_compile_nothing(folder: Path) -> None:
    """Each gives what a training by its values gives: nothing is left over of the trials before."""
    made = recipe(folder)
    told: list[SearchTrial] = []
    found = search_settings(made, 4, told.append)
    assert found.compiled == 1 and tuple(told) == found.trials and len(told) == 4
    assert len({trial.values["train.learning_rate"] for trial in told}) == 4
    for trial in told:
        assert 1e-4 <= trial.values["train.learning_rate"] <= 0.1 and trial.values["train.batch"] in (4, 8)
        assert set(trial.values) == {"train.learning_rate", "train.batch"}
        if trial.state == DONE:
            done = run_recipe(with_sets(made, dict(trial.values)))
            assert trial.figure == min(done.history.series("validation")) and trial.epochs == 3
    best = found.best
    assert best is not None and best.figure == min(t.figure for t in told if t.state == DONE and t.figure is not None)
    assert sorted(path.name for path in folder.iterdir() if "pycache" not in path.name) == [
        "parts.py", "points.npz", "r.toml", "s.study"
    ]  # fmt: skip


def test_a_study_goes_on_and_refuses_other_ranges(folder: Path) -> None:
    made = recipe(folder)
    first = search_settings(made, 2)
    again = search_settings(made, 2)
    assert again.trials == first.trials and again.compiled == 0
    more = search_settings(made, 3)
    assert more.trials[:2] == first.trials and len(more.trials) == 3
    assert len({trial.values["train.learning_rate"] for trial in more.trials}) == 3
    with pytest.raises(ArgumentError, match="this study is of other ranges: it has .*train.batch"):
        search_settings(recipe(folder, RECIPE.replace("[4, 8]", "[4, 16]")), 3)
    with pytest.raises(ArgumentError, match="better was validation, and is accuracy"):
        search_settings(recipe(folder, **{"search.better": "accuracy"}), 3)


def test_worse_trials_are_pruned_and_those_that_diverge_fail(folder: Path) -> None:
    """Rates by hand: three that learn, one that does not move, one that leaves all numbers behind."""
    rates = [0.02, 0.03, 0.04, 1e-9, 1e30]
    text = RECIPE.replace("{ low = 1e-4, high = 0.1, scale = \"log\" }", str(rates)).replace("batch = [4, 8]\n", "")
    made = recipe(folder, text, **{"train.epochs": 6, "train.batch": 3})
    import optuna

    class InOrder(optuna.samplers.RandomSampler):
        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            return distribution.choices[trial.number % len(rates)]

    original, optuna.samplers.TPESampler = optuna.samplers.TPESampler, lambda seed=0: InOrder()
    try:
        found = search_settings(made, 5)
    finally:
        optuna.samplers.TPESampler = original
    assert [trial.values["train.learning_rate"] for trial in found.trials] == rates
    assert [trial.state for trial in found.trials] == [DONE, DONE, DONE, PRUNED, FAILED]
    assert found.trials[3].epochs < 6 and found.trials[4].epochs == 0
    assert found.best is not None and found.best.number < 3


def test_metrics_are_looked_for_from_above_and_settings_compile_once_each(folder: Path) -> None:
    text = RECIPE.replace("batch = [4, 8]", '"optimizer.name" = ["adam", "sgd"]')
    found = search_settings(recipe(folder, text, **{"train.epochs": 2, "search.better": "accuracy"}), 5)
    assert found.larger and found.compiled == len({trial.values["train.optimizer.name"] for trial in found.trials})
    done = [trial.figure for trial in found.trials if trial.state == DONE and trial.figure is not None]
    assert found.best is not None and found.best.figure == max(done) and all(0 <= figure <= 1 for figure in done)


def test_a_module_begins_each_trial_with_the_same_weights(folder: Path) -> None:
    """Its weights are its own memory, in which the trial before has trained."""
    pytest.importorskip("torch")
    text = RECIPE.replace("parts.py:network", "parts.py:module")
    text = text.replace("batch = [4, 8]", "clip_norm = { low = 0.5, high = 1.0 }")
    text = text.replace('{ low = 1e-4, high = 0.1, scale = "log" }', "[0.01]")
    found = search_settings(recipe(folder, text, **{"train.epochs": 1, "train.clip_value": 1e-9}), 2)
    assert found.compiled == 2 and len({trial.figure for trial in found.trials if trial.state == DONE}) == 1


def test_a_search_that_is_killed_goes_on(folder: Path) -> None:
    recipe(folder)
    script = (
        "import os, sys\nfrom mapsto.train.recipe import read_recipe\nfrom mapsto.train import search\n"
        "def told(trial):\n    if trial.number == 1: search.Prepared.fitted = lambda *a: os.kill(os.getpid(), 9)\n"
        f"search.search_settings(read_recipe({str(folder / 'r.toml')!r}), 9, told)\n"
    )
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == -9, done.stderr
    found = search_settings(recipe(folder), 4)
    assert [trial.state == FAILED for trial in found.trials] == [False, False, True, False]


def test_a_picture_of_a_study(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    search_settings(recipe(folder, **{"search.curve": "s.png", "train.epochs": 1}), 3)
    found = (folder / "s.png").read_bytes()
    assert found.startswith(b"\x89PNG\r\n") and len(found) > 5000


def test_what_is_wrong_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match=r"there is no table \[search\.ranges\]"):
        search_settings(recipe(folder, RECIPE.partition("[search]")[0]))
    with pytest.raises(ArgumentError, match="search.better: there is no 'f1'"):
        search_settings(recipe(folder, **{"search.better": "f1"}))
    with pytest.raises(ArgumentError, match="the recipe has none: data.validation"):
        search_settings(recipe(folder, RECIPE.replace("validation = 0.25", "")))
    with pytest.raises(ParseError, match=r"train\.batch: expected a whole number from 1 on, found 'many'"):
        search_settings(recipe(folder, RECIPE.replace("[4, 8]", "[4, 'many']")))
    with pytest.raises(ParseError, match=r"train\.optimizer: RMSprop\.alpha: 2\.0 is outside"):
        text = RECIPE.replace("batch = [4, 8]", '"optimizer.alpha" = { low = 0.5, high = 2.0 }')
        search_settings(recipe(folder, text, **{"train.optimizer": "rmsprop"}))
    assert not (folder / "s.study").exists()
    with pytest.raises(FileError, match="there is no folder"):
        search_settings(recipe(folder, **{"search.study": "none/s"}))
    (folder / "s.study").write_text("hello\n")
    with pytest.raises(ModelError, match="is no study's file; it would be written over"):
        search_settings(recipe(folder))
    assert (folder / "s.study").read_text() == "hello\n"
    (folder / "s.study").write_text('{"op_code": 99}\n')
    with pytest.raises(ModelError, match="cannot be read as a study"):
        search_settings(recipe(folder))
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'mapsto\[search\]'"):
        search_settings(recipe(folder))
