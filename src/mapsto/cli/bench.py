"""`mapsto bench`: a model's time beside other engines'; the measuring itself is in `report.bench`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.arguments import Shapes
from mapsto.cli.amounts import parse_formats, parse_pins
from mapsto.cli.inputs import feed_of_model, parse_shapes, read_text
from mapsto.cli.open import several
from mapsto.cli.options import FeedOptions, ReadOptions
from mapsto.cli.output import print_json, seconds_text, table
from mapsto.cli.progress import progress_bar
from mapsto.cli.usage import UsageError
from mapsto.report import machine
from mapsto.report.bench import OURS, BenchReport, BenchSetup, measure
from mapsto.report.engines import ENGINES


def bench_model(
    model: Path,
    reading: ReadOptions,
    feeding: FeedOptions,
    threads: int,
    seconds: float,
    dynamic: bool,
    against: Sequence[str],
    device: str,
    pin: Sequence[str],
    plan: Path | None,
    exact_integers: bool,
    formats: Sequence[str],
    as_json: bool,
) -> None:
    if pin and not several(device):
        raise UsageError("--pin goes with several devices (--device cpu,opencl)")
    pins = tuple(parse_pins(pin))
    if not math.isfinite(seconds):
        raise UsageError(f"--seconds {seconds}: a finite number of seconds is needed")
    unknown = [name for name in against if name not in ENGINES or name == OURS]
    if unknown:
        known = ", ".join(name for name in ENGINES if name != OURS)
        raise UsageError(f"--against {','.join(unknown)}: no such engine; known: {known}")
    fed = feed_of_model(model, reading, feeding)
    fixed = parse_shapes(reading.shape or []) if dynamic else fixed_shapes(fed.feed)
    text = None if plan is None else read_text(plan, "plan")
    if (exact_integers or formats) and several(device):
        raise UsageError("--formats and --exact-integers are for one device so far")
    ours: dict[str, Any] = {"data_root": reading.data_root, "device": device, "pins": pins, "plan": text}
    ours |= {"exact_integers": exact_integers, "formats": parse_formats(formats) or None}
    setup = BenchSetup(model, [fed.feed], fixed, threads, seconds, **ours)
    with progress_bar(f"timing {model.name}") as progress:
        report = measure(setup, [OURS, *against], progress)
    if as_json:
        print_json(report.to_json() | {"made_inputs": dict(fed.made)})
        return
    for name, how in fed.made.items():
        print(f"input {name}: {how}")
    print(report_text(report))


def fixed_shapes(feed: Mapping[str, np.ndarray]) -> Shapes:
    """The inputs' own shapes, for every engine alike."""
    return {name: tuple(array.shape) for name, array in feed.items()}


def report_text(report: BenchReport) -> str:
    """The table of a report, and below it the machine and the engines that are not in it."""
    rows = []
    for timing in report.timings:
        ratio = report.ratios.get(timing.engine)
        rows.append(
            (
                timing.engine,
                seconds_text(timing.seconds.median),
                f"{seconds_text(timing.seconds.low)} - {seconds_text(timing.seconds.high)}",
                str(timing.seconds.count),
                seconds_text(timing.open_seconds),
                "" if ratio is None else f"{ratio.median:.2f} ({ratio.low:.2f} - {ratio.high:.2f})",
            )
        )
    about = machine.describe()
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [table(("engine", "median", "quartiles", "runs", "opened in", "ours / its"), rows)]
    lines += [f"{name}: not measured: {why.splitlines()[0]}" for name, why in report.absent.items()]
    lines.append(f"{report.threads} thread(s) on {about['processor']}, {about['cores']} cores; {versions}")
    return "\n".join(lines)
