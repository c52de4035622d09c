"""`mapsto train`: a recipe carried out; the work is in `train.running`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mapsto.cli.inputs import existing
from mapsto.cli.output import print_json
from mapsto.cli.usage import UsageError
from mapsto.train.history import EpochReport, epoch_text
from mapsto.train.recipe import TrainingRecipe, parse_set, read_recipe
from mapsto.train.running import RecipeRun, run_recipe


def train_recipe(
    path: Path,
    epochs: int | None,
    seed: int | None,
    threads: int | None,
    head: str | None,
    sets: Sequence[str],
    resume: bool,
    as_json: bool,
) -> None:
    recipe = recipe_with(path, epochs, seed, threads, head, sets)

    def told(report: EpochReport) -> None:
        if not as_json:
            print(epoch_text(report), flush=True)

    try:
        done = run_recipe(recipe, resume=resume, told=told)
    except KeyboardInterrupt:
        kept = recipe.output.checkpoint
        is_kept = kept is not None and os.path.exists(kept)
        again = f"it goes on from {kept} when it is called again" if is_kept else "nothing was kept"
        print(f"interrupted: {again}", file=sys.stderr)
        raise
    if as_json:
        print_json(json_of(recipe, done))
    else:
        print("\n".join(lines_of_run(done)))


def recipe_with(
    path: Path, epochs: int | None, seed: int | None, threads: int | None, head: str | None, sets: Sequence[str]
) -> TrainingRecipe:
    """The recipe with what the command line says in its place. Raises UsageError, ParseError."""
    said = dict(parse_set(each) for each in sets)
    for key, value in (("train.epochs", epochs), ("train.seed", seed), ("train.threads", threads)):
        if value is not None:
            said[key] = value
    if head is not None:
        name, equals, count = head.partition("=")
        if name != "classes" or not equals or not count.isdecimal():
            raise UsageError(f"--head {head}: expected classes=N")
        said["train.classes"] = int(count)
    return read_recipe(str(existing(path, "recipe")), said)


def lines_of_run(done: RecipeRun) -> list[str]:
    """What is said at the end: notes, how it ended, scores on test data, the files."""
    lines = [*done.history.notes, done.history.ended]
    if done.test is not None:
        metrics = "".join(f", {name} {value:.4f}" for name, value in done.test.metrics.items())
        lines.append(f"test: loss {done.test.loss:.4f}{metrics} ({done.test.examples:,} examples)")
    return lines + [f"{kind}: {path}" for kind, path in done.files.items()]


def json_of(recipe: TrainingRecipe, done: RecipeRun) -> dict[str, Any]:
    test = done.test and {"loss": done.test.loss, "metrics": dict(done.test.metrics), "examples": done.test.examples}
    return {"recipe": recipe.path, **done.history.to_json(), "test": test, "files": dict(done.files)}
