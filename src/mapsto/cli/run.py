"""`mapsto run`: compile or load a model, run it, print what came out and how long it took."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.cli.inputs import Fed, existing, make_feed, parse_shapes, read_given, writable
from mapsto.cli.open import Opened, open_model
from mapsto.cli.output import beside, print_json, seconds_text, summary, summary_text
from mapsto.report.arrays import save_arrays

TIMED_SECONDS = 1.0


def run_model(
    model: Path,
    inputs_file: Path | None,
    given: Sequence[str],
    shape: Sequence[str],
    threads: int | None,
    output: Path | None,
    repeat: int,
    check_indices: bool,
    seed: int,
    data_root: Path | None,
    device: str,
    cache: bool,
    adapt: bool,
    as_json: bool,
) -> None:
    existing(model)
    if output is not None:
        writable(output, besides=[model, inputs_file])
    read = read_given(inputs_file, given)
    options: dict[str, Any] = {"check_indices": check_indices, "data_root": data_root, "device": device, "cache": cache}
    opened = open_model(model, parse_shapes(shape), threads, adapt=adapt, **options)
    fed = make_feed(opened.executable.inputs, read, seed)
    outputs, seconds = timed_runs(opened.executable, fed.feed, repeat)
    if output is not None:
        save_arrays(output, outputs)
    report = _report(model, opened, fed, outputs, seconds)
    if adapt:
        report["adapted"] = _adapted(opened.executable, fed.feed, repeat)
    with beside(output):
        if as_json:
            print_json(report)
        else:
            _print_text(report, outputs, output)


def timed_runs(
    executable: Any, feed: Mapping[str, np.ndarray], repeat: int
) -> tuple[dict[str, np.ndarray], list[float]]:
    """The outputs of the first run, and the seconds of each; the first finds nothing in the caches."""
    began = time.perf_counter()
    outputs: dict[str, np.ndarray] = executable.run(feed)
    seconds = [time.perf_counter() - began]
    while len(seconds) < repeat and sum(seconds) < TIMED_SECONDS:
        began = time.perf_counter()
        executable.run(feed)
        seconds.append(time.perf_counter() - began)
    return outputs, seconds


def _adapted(executable: Any, feed: Mapping[str, np.ndarray], repeat: int) -> dict[str, Any]:
    """Runs until what these sizes are worth has been found out, then timed ones."""
    began = time.perf_counter()
    if executable.adaptive is not None:
        for _ in range(executable.adaptive.policy.runs):
            executable.run(feed)
        executable.adaptive.wait(math.inf)
    waited = time.perf_counter() - began
    _, seconds = timed_runs(executable, feed, repeat)
    return {
        "seconds": waited,
        "run_seconds": statistics.median(seconds[1:] or seconds),
        "report": executable.report().splitlines(),
    }


def accuracy(outputs: Mapping[str, np.ndarray], labels: np.ndarray | None) -> dict[str, Any] | None:
    """The share of examples whose largest score is at their label, by the first output that has scores for each."""
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        return None
    for name, scores in outputs.items():
        if scores.ndim == 2 and scores.shape[0] == len(labels) and scores.dtype.kind == "f" and scores.size:
            right = int((scores.argmax(1) == labels).sum())
            return {"output": name, "right": right, "examples": len(labels), "share": right / len(labels)}
    return None


def _report(
    model: Path, opened: Opened, fed: Fed, outputs: Mapping[str, np.ndarray], seconds: Sequence[float]
) -> dict[str, Any]:
    report: dict[str, Any] = {
        "model": str(model),
        "how": opened.how,
        "open_seconds": opened.seconds,
        "first_run_seconds": seconds[0],
        "run_seconds": statistics.median(seconds[1:] or seconds),
        "runs": len(seconds),
        "made_inputs": dict(fed.made),
        "outputs": [summary(name, array) for name, array in outputs.items()],
    }
    found = accuracy(outputs, fed.labels)
    return report if found is None else report | {"accuracy": found}


def _print_text(report: dict[str, Any], outputs: Mapping[str, np.ndarray], output: Path | None) -> None:
    for name, how in report["made_inputs"].items():
        print(f"input {name}: {how}")
    for found in report["outputs"]:
        print(summary_text(found, outputs[found["name"]]))
    if "accuracy" in report:
        found = report["accuracy"]
        print(f"accuracy: {found['share']:.2%} ({found['right']} of {found['examples']} labels, by {found['output']})")
    runs = f" (median of {report['runs'] - 1} after the first)" if report["runs"] > 1 else ""
    opening, running = seconds_text(report["open_seconds"]), seconds_text(report["run_seconds"])
    print(f"{report['how']} in {opening}, run in {running}{runs}")
    if "adapted" in report:
        adapted = report["adapted"]
        print("\n".join(adapted["report"]))
        print(f"looked at in {seconds_text(adapted['seconds'])}, then run in {seconds_text(adapted['run_seconds'])}")
    if output is not None:
        print(f"outputs written to {output}")
