"""An OpenCL device beside the CPU: time of a run, compile time and error, one table.

    python scripts/fetch_models.py            # once
    python -m benchmarks.devices              # YOLOv8n, a ResNet-50, MiniLM, silero; each device on one core
    python -m benchmarks.devices --only resnet-50 --model other.onnx

The process keeps to one core, and runs the devices in turn, so that both meet the same noise; times are medians. The
error is that of the OpenCL device, under the rule of `mapsto check`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scripts.fetch_models import DEFAULT_FOLDER, model_path
from scripts.real_inputs import model_key_of, real_inputs

import mapsto
from benchmarks.models import Case, Feed, error_text, machine_line
from benchmarks.nets import resnet50
from mapsto.cli.output import seconds_text, table
from mapsto.report.accuracy import Verdict, judge_runs
from mapsto.report.engines import Setup, open_engine
from mapsto.runtime.executable import Executable

LEAST = 0.6  # of the CPU's speed, for --check
FETCHED = ("nudenet", "minilm", "silero-vad")
RESNET = "resnet-50"


@dataclass(frozen=True)
class Timed:
    """Seconds of a run and of compiling, and what came out for each feed."""

    run: float
    compiled: float
    outputs: Sequence[Mapping[str, np.ndarray]]


def random_feed(model: str | Path) -> Feed:
    """For a model whose sizes are fixed, or 1 where they are open."""
    rng = np.random.default_rng(0)
    ports = mapsto.compile(model, threads=1).program.inputs
    shapes = {p.name: [d if isinstance(d, int) else 1 for d in p.shape] for p in ports}
    return {p.name: rng.standard_normal(shapes[p.name]).astype(p.dtype.numpy) for p in ports}


def cases(folder: Path, others: Sequence[Path], only: Sequence[str]) -> Iterator[Case]:
    for key in FETCHED:
        if not only or key in only:
            yield Case(key, model_path(folder, model_key_of(key)), real_inputs(folder, key))
    with tempfile.TemporaryDirectory() as made:
        if not only or RESNET in only:
            path = resnet50(Path(made) / "resnet50.onnx")
            yield Case(RESNET, path, [random_feed(path)])
        for path in others:
            yield Case(path.stem, path, [random_feed(path)])


def compare(case: Case, devices: Sequence[str], seconds: float) -> list[Timed]:
    """The devices, run in turn."""
    opened: list[Executable] = []
    compiled = []
    for device in devices:
        began = time.perf_counter()
        opened.append(mapsto.compile(case.model, shapes=case.shapes, device=device, threads=1))
        compiled.append(time.perf_counter() - began)
    outputs = [[exe.run(feed) for feed in case.feeds] for exe in opened]
    times: list[list[float]] = [[] for _ in opened]
    stop = time.perf_counter() + seconds * len(devices)
    while time.perf_counter() < stop or len(times[0]) < 5:
        for exe, taken in zip(opened, times, strict=True):
            for feed in case.feeds[:1]:
                began = time.perf_counter()
                exe.run(feed)
                taken.append(time.perf_counter() - began)
    return [Timed(float(np.median(t)), c, o) for t, c, o in zip(times, compiled, outputs, strict=True)]


def verdicts_of(case: Case, ours: Timed) -> list[Verdict]:
    """The error beside ONNX Runtime's, both against its results without optimisation."""
    runs = {
        name: [opened.run(feed) for feed in case.feeds]
        for name in ("onnxruntime-unoptimised", "onnxruntime")
        for opened in [open_engine(name, Setup(case.model))]
    }
    return judge_runs(runs["onnxruntime-unoptimised"], list(ours.outputs), runs["onnxruntime"])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, default=DEFAULT_FOLDER, help=f"models folder (default {DEFAULT_FOLDER})")
    parser.add_argument("--model", type=Path, action="append", default=[], help="another ONNX file; may be repeated")
    parser.add_argument("--only", action="append", help="this case only; may be repeated")
    parser.add_argument("--device", default="opencl")
    parser.add_argument("--core", type=int, help="the core to keep to (default: the last one)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each device runs a case, about")
    parser.add_argument("--check", action="store_true", help=f"exit code 1 below {LEAST} of the CPU's speed")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0)) if args.core is None else args.core})
    rows, fine = [], True
    for case in cases(args.models.expanduser(), args.model, args.only or ()):
        print(f"{case.name} ...", file=sys.stderr, flush=True)
        cpu, other = compare(case, ("cpu", args.device), args.seconds)
        verdicts = verdicts_of(case, other)
        speed = cpu.run / other.run
        fine &= speed >= LEAST and all(verdict.ok for verdict in verdicts)
        times = (cpu.run, other.run, cpu.compiled, other.compiled)
        run, its, compiled, built = map(seconds_text, times)
        rows.append([case.name, run, its, f"{speed:.2f}", compiled, built, error_text(verdicts)])
    head = ["model", "cpu", args.device, "its speed / cpu's", "compiled in", f"for {args.device} in", "error (limit)"]
    print(table(head, rows))
    print(f"\n{machine_line(1)}")
    return int(args.check and not fine)


if __name__ == "__main__":
    sys.exit(main())
