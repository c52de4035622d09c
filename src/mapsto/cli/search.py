"""`mapsto search`: settings of a recipe tried within its ranges; the work is in `train.search`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mapsto.cli.output import print_json
from mapsto.cli.train import recipe_with
from mapsto.train.search import FAILED, SearchResult, SearchTrial, search_settings


def search_recipe(
    path: Path,
    trials: int | None,
    epochs: int | None,
    seed: int | None,
    threads: int | None,
    sets: Sequence[str],
    as_json: bool,
) -> None:
    recipe = recipe_with(path, epochs, seed, threads, None, sets)

    def told(trial: SearchTrial) -> None:
        if not as_json:
            print(text_of_trial(trial), flush=True)

    try:
        found = search_settings(recipe, trials, told)
    except KeyboardInterrupt:
        kept = "" if recipe.search is None else f"; the trials that are done are kept in {recipe.search.study}"
        print(f"interrupted{kept}", file=sys.stderr)
        raise
    if as_json:
        print_json(json_of(found))
    else:
        print("\n".join(lines_of_search(found, str(path))))


def text_of_trial(trial: SearchTrial) -> str:
    """One line about a trial."""
    values = ", ".join(f"{key.removeprefix('train.')} {_shown(value)}" for key, value in trial.values.items())
    figure = "" if trial.figure is None or trial.state == FAILED else f" {trial.figure:.4f}"
    return f"trial {trial.number}: {trial.state}{figure} after {trial.epochs} epochs; {values}"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def lines_of_search(found: SearchResult, recipe: str) -> list[str]:
    """The best of all, how to train by it, and where the trials are."""
    counts = ", ".join(
        f"{sum(each.state == state for each in found.trials)} {state}"
        for state in dict.fromkeys(each.state for each in found.trials)
    )
    lines = [f"{len(found.trials)} trials: {counts}; a step was compiled {found.compiled} times"]
    best = found.best
    if best is None:
        return [*lines, "no trial came to its end"]
    sets = " ".join(f"--set {key}={json.dumps(value)}" for key, value in best.values.items())
    lines.append(f"best: trial {best.number}, {found.better} {best.figure:.4f}")
    return [*lines, f"mapsto train {recipe} {sets}", f"study: {found.study}"]


def json_of(found: SearchResult) -> dict[str, Any]:
    def data(trial: SearchTrial | None) -> dict[str, Any] | None:
        if trial is None:
            return None
        return {
            "number": trial.number, "values": dict(trial.values), "figure": trial.figure, "state": trial.state,
            "epochs": trial.epochs,
        }  # fmt: skip

    return {
        "study": found.study,
        "better": found.better,
        "trials": [data(each) for each in found.trials],
        "best": data(found.best),
        "compiled": found.compiled,
    }
