"""`mapsto plan --verify`: what each kernel takes beside what it was predicted to take."""

from __future__ import annotations

import math
from pathlib import Path

from mapsto.cli.devices import source_text, typical_text
from mapsto.cli.inputs import existing, feed_of_model, parse_shapes
from mapsto.cli.open import ARTIFACT_SUFFIX, Opening, several
from mapsto.cli.options import FeedOptions
from mapsto.cli.output import print_json, seconds_text, shown
from mapsto.cli.progress import progress_bar
from mapsto.cli.usage import UsageError
from mapsto.report.prediction import TIME_FACTOR, Compared, KernelTiming, verify


def verify_plan(
    model: Path,
    feeding: FeedOptions,
    opening: Opening,
    output: Path | None,
    seconds: float,
    worst: bool,
    as_json: bool,
) -> None:
    existing(model)
    reading, target = opening.reading, opening.target
    if opening.division or several(target.device):
        raise UsageError(
            "--verify is of one device: leave --objective, --pin, --placer, --limit, --power and --deadline out"
        )
    if not target.check_indices:
        raise UsageError("--verify runs what is compiled by default: leave --no-check-indices out")
    if opening.has_formats:
        raise UsageError("--verify is of formats as the model has them: leave --formats and the like out")
    if output is not None:
        raise UsageError("--verify prints predictions and writes no plan: leave -o out")
    if model.suffix == ARTIFACT_SUFFIX:
        raise UsageError(f"{model} is compiled already, and its graph is not in it: --verify needs the ONNX file")
    if not math.isfinite(seconds):
        raise UsageError(f"--seconds {seconds}: a finite number of seconds is needed")
    shapes, fed = parse_shapes(reading.shape or []), feed_of_model(model, reading, feeding)
    with progress_bar(f"running {model.name}") as progress:
        found = verify(
            model, shapes, fed.feed, target.threads, seconds, reading.data_root, progress, target.device
        )  # fmt: skip
    if as_json:
        print_json({"model": str(model)} | found.to_json())
        return
    print(typical_text(found.machine) if found.host is None else source_text(found.host))
    print(table_text(found, worst))


def table_text(found: Compared, worst: bool) -> str:
    """A line for each kernel, in order or the worst first, and the sums."""
    from rich.table import Table

    steps = sorted(found.steps, key=_badness, reverse=True) if worst else found.steps
    made = Table("kernel", "what", "measured", "predicted", "ratio", "of the time", "bytes", "operations")
    for column in made.columns[2:]:
        column.justify = "right"
    for step in steps:
        made.add_row(
            step.name,
            step.label,
            seconds_text(step.measured),
            seconds_text(step.predicted),
            f"{step.ratio:.2f}{'' if step.right else ' *'}",
            f"{step.measured / found.measured:.1%}",
            f"{step.bytes:.3g}",
            f"{step.operations:.3g}",
        )
    runs = f"least of {found.runs} runs, {found.threads} thread{'s' if found.threads > 1 else ''}"
    totals = f"measured {seconds_text(found.measured)} ({runs}), predicted {seconds_text(found.predicted)}"
    return f"{shown(made)}\n{totals}; within a factor of {TIME_FACTOR}: {found.share:.1%} of the time"


def _badness(step: KernelTiming) -> tuple[bool, float]:
    """Wrong ones first, by the time that they are off."""
    return not step.right, abs(step.predicted - step.measured)
