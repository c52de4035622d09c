"""`mapsto bench --kernels`: each kernel beside the machine's limit; the measuring itself is in `report.kernels`."""

from __future__ import annotations

import math
from pathlib import Path

from mapsto.cli.bench import fixed_shapes
from mapsto.cli.inputs import feed_of_model, parse_shapes
from mapsto.cli.options import FeedOptions, ReadOptions
from mapsto.cli.output import print_json, seconds_text, shown
from mapsto.cli.progress import progress_bar
from mapsto.cli.usage import UsageError
from mapsto.report import machine
from mapsto.report.kernels import KernelReport, kernels_at_limits


def bench_kernels(
    model: Path,
    reading: ReadOptions,
    feeding: FeedOptions,
    threads: int,
    seconds: float,
    dynamic: bool,
    worst: bool,
    device: str,
    exact_integers: bool,
    as_json: bool,
) -> None:
    if device != "cpu":
        raise UsageError(f"--kernels measures the processor's limits: leave --device {device} out")
    if not math.isfinite(seconds):
        raise UsageError(f"--seconds {seconds}: a finite number of seconds is needed")
    fed = feed_of_model(model, reading, feeding)
    fixed = parse_shapes(reading.shape or []) if dynamic else fixed_shapes(fed.feed)
    with progress_bar(f"timing {model.name}") as progress:
        asked = (reading.data_root, progress, exact_integers)
        report = kernels_at_limits(model, fixed, fed.feed, threads, seconds, *asked)
    if as_json:
        print_json({"model": str(model)} | report.to_json() | {"made_inputs": dict(fed.made)})
        return
    for name, how in fed.made.items():
        print(f"input {name}: {how}")
    print(kernels_text(report, worst))


def kernels_text(report: KernelReport, worst: bool = False) -> str:
    """A line for each kernel, in order or by the time that is lost, and the sums."""
    from rich.table import Table

    lost = sorted(report.kernels, key=lambda k: k.limit - k.seconds) if worst else report.kernels
    made = Table("kernel", "what", "time", "GFLOP", "MB", "limit", "bound by", "share")
    for column in made.columns[2:]:
        column.justify = "right"
    for kernel in lost:
        made.add_row(
            kernel.name,
            kernel.label,
            seconds_text(kernel.seconds),
            f"{kernel.operations / 1e9:.3g}",
            f"{kernel.bytes / 1e6:.3g}",
            seconds_text(kernel.limit),
            kernel.bound,
            f"{kernel.share:.1%}{' *' if kernel.impossible else ''}",
        )
    lines = [shown(made), _sums(report)]
    if wrong := [kernel.name for kernel in report.kernels if kernel.impossible]:
        lines.append(f"* {', '.join(wrong)}: faster than the machine can be; the measurement is wrong there")
    return "\n".join(lines)


def _sums(report: KernelReport) -> str:
    about = machine.describe()
    cpus = ", ".join(map(str, report.cpus))
    pinned = f"pinned to CPU{'s' if len(report.cpus) > 1 else ''} {cpus}" if cpus else "not pinned"
    return (
        f"limits {seconds_text(report.limit)} / times {seconds_text(report.seconds)} = {report.share:.1%} "
        f"(medians of {report.samples} samples, {report.threads} thread{'s' if report.threads > 1 else ''}, {pinned})\n"
        f"{about['processor']}: {report.peak / 1e9:.1f} G multiply-adds of f32 a second and core, "
        f"{report.memory / 1e9:.1f} GB/s read from memory by one, measured beside the kernels"
    )
