"""`mapsto run`: compile, divide or load a model, run it, print what came out and how long it took."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.cli.amounts import seconds_of
from mapsto.cli.codes import CHECK_FAILED
from mapsto.cli.inputs import Fed, existing, make_feed, read_given, read_text, writable
from mapsto.cli.open import Opened, Opening, open_model
from mapsto.cli.options import FeedOptions
from mapsto.cli.output import beside, print_json, seconds_text, summary, summary_text
from mapsto.report.arrays import save_arrays

TIMED_SECONDS = 1.0
RUNS = 10  # that are timed, if nothing else is said
RUNS_OF_DEADLINE = 1000  # in the same time: one in a hundred is to be seen


def run_model(
    model: Path,
    feeding: FeedOptions,
    opening: Opening,
    output: Path | None,
    repeat: int | None,
    plan: Path | None,
    deadline: str | None,
    adapt: bool,
    as_json: bool,
) -> int:
    """Runs and prints; the exit code."""
    existing(model)
    if output is not None:
        writable(output, besides=[model, feeding.inputs, plan])
    wanted = None if deadline is None else seconds_of(deadline, "--deadline")
    read = read_given(feeding.inputs, feeding.given or [])
    text = None if plan is None else read_text(plan, "plan")
    opened = open_model(model, opening, text, adapt=adapt)
    fed = make_feed(opened.inputs, read, feeding.seed)
    count = repeat or (RUNS if wanted is None else RUNS_OF_DEADLINE)
    outputs, seconds = timed_runs(opened.executable, fed.feed, count)
    if output is not None:
        save_arrays(output, outputs)
    report = _report(model, opened, fed, outputs, seconds)
    if wanted is not None:
        report |= {"deadline_seconds": wanted, "deadline_met": report["p99_seconds"] <= wanted}
    if opened.is_divided:
        report |= _of_parts(opened, fed.feed, count)
    if adapt:
        report["adapted"] = _adapted(opened.executable, fed.feed, count)
    with beside(output):
        if as_json:
            print_json(report)
        else:
            _print_text(report, outputs, output)
    return CHECK_FAILED if report.get("deadline_met") is False else 0


def percentile(seconds: Sequence[float], share: float) -> float:
    """The least of them that so large a share of them does not exceed."""
    every = sorted(seconds)
    return every[max(math.ceil(share * len(every)) - 1, 0)]


def _of_parts(opened: Opened, feed: Mapping[str, np.ndarray], count: int) -> dict[str, Any]:
    """What parts took; for a stream, what each of its runs takes as well."""
    executable = opened.executable
    found: dict[str, Any] = {}
    if executable.plan.objective == "throughput":
        began, runs = time.perf_counter(), 0
        for _ in executable.stream(itertools.repeat(feed, count)):
            runs += 1
            if time.perf_counter() - began > TIMED_SECONDS:
                break
        found["stream_seconds"] = (time.perf_counter() - began) / runs
    return found | {"parts": executable.report().splitlines()}


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
        "p50_seconds": percentile(seconds[1:] or seconds, 0.5),
        "p99_seconds": percentile(seconds[1:] or seconds, 0.99),
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
    if "stream_seconds" in report:
        print(f"a stream of runs, one each {seconds_text(report['stream_seconds'])}")
    for line in report.get("parts", ()):
        print(f"  {line}")
    if "deadline_met" in report:
        met = "met" if report["deadline_met"] else "missed"
        half, most = seconds_text(report["p50_seconds"]), seconds_text(report["p99_seconds"])
        timed = max(report["runs"] - 1, 1)
        print(f"deadline of {seconds_text(report['deadline_seconds'])}: {met} by 99 of 100 runs "
              f"(p50 {half}, p99 {most}, of {timed} run{'s' if timed > 1 else ''})")  # fmt: skip
    if output is not None:
        print(f"outputs written to {output}")
