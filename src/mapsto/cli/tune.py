"""`mapsto tune`: other schedules of a model's kernels, measured; the measuring itself is in `session.tuner`."""

from __future__ import annotations

import sys
from pathlib import Path

import mapsto
from mapsto.cli.amounts import seconds_of
from mapsto.cli.inputs import feed_of_model, parse_shapes
from mapsto.cli.options import FeedOptions, ReadOptions
from mapsto.cli.output import print_json, seconds_text
from mapsto.cli.progress import progress_bar
from mapsto.session.tune import TuneReport


def tune_model(
    model: Path,
    within: str,
    reading: ReadOptions,
    feeding: FeedOptions,
    threads: int | None,
    cache: bool,
    as_json: bool,
) -> None:
    budget, shapes = seconds_of(within, "--budget"), parse_shapes(reading.shape or [])
    fed = feed_of_model(model, reading, feeding)
    try:
        with progress_bar(f"tuning {model.name}") as progress:
            report = mapsto.tune(model, budget, threads, shapes, fed.feed, progress, cache, reading.data_root)
    except KeyboardInterrupt:
        print("interrupted: nothing was kept; all is as it was before", file=sys.stderr)
        raise
    if as_json:
        print_json({"model": str(model)} | report.to_json() | {"made_inputs": dict(fed.made)})
        return
    for name, how in fed.made.items():
        print(f"input {name}: {how}")
    print(tuned_text(report))


def tuned_text(report: TuneReport) -> str:
    """The kernels that are faster otherwise, the whole model before and after, and what was kept."""
    lines = []
    for form in report.forms:
        lines.append(f"{', '.join(form.works)}: {form.share:.3g} of the time")
        lines += [f"    before: {form.before}", f"    after:  {form.after}"]
    lines.append(
        f"{report.tried} schedules of {report.looked_at} kernels timed in {seconds_text(report.seconds)}, "
        f"{report.threads} thread{'s' if report.threads > 1 else ''}"
    )
    if report.before is not None and report.after is not None:
        lines.append(
            f"a run: {seconds_text(report.before)} before, {seconds_text(report.after)} after "
            f"(alternately; median of the ratios {report.share:.3f})"
        )
    lines.append(f"kept in {report.file}" if report.file else f"nothing was kept: {report.because}")
    return "\n".join(lines)
