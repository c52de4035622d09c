"""What plans of two devices say that a run takes, beside what it takes: the CPU's first core and an OpenCL device on
its second, a thread each.

    python -m benchmarks.predicted [--objective latency,throughput] [--only NAME] [--seconds 3]

Each model is divided and run as its plan says (`adapt=False`). Of a stream, a run takes what all of them take by their
number. Totals that are *tried* come of trial runs while the model was divided.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from scripts.fetch_models import DEFAULT_FOLDER

import mapsto
from benchmarks.models import Case, machine_line
from benchmarks.speed import cases
from benchmarks.two import opened_cores
from mapsto.cli.output import seconds_text, table

HEADERS = ("model", "objective", "parts", "predicted", "measured", "predicted / measured", "found by")
_RUNS_OF_A_STREAM = 12


def median_of_rounds(round_: Callable[[], None], seconds: float) -> float:
    """Seconds of one, for about so long; the first one touches the memory and does not count."""
    round_()
    found, end = [], time.monotonic() + seconds
    while len(found) < 3 or time.monotonic() < end:
        begun = time.perf_counter()
        round_()
        found.append(time.perf_counter() - begun)
    return statistics.median(found)


def seconds_of_a_run(exe: mapsto.DividedExecutable, case: Case, objective: str, seconds: float) -> float:
    feed = case.feeds[0]
    if objective == "latency":
        return median_of_rounds(lambda: exe.run(feed) and None, seconds)

    def streamed() -> None:
        for _ in exe.stream(feed for _ in range(_RUNS_OF_A_STREAM)):
            pass

    return median_of_rounds(streamed, seconds) / _RUNS_OF_A_STREAM


def row_of(case: Case, objective: str, seconds: float) -> list[str]:
    exe = mapsto.divide(case.model, ["cpu", "opencl"], case.shapes, threads=1, objective=objective, adapt=False)
    took, total = seconds_of_a_run(exe, case, objective, seconds), exe.plan.total
    assert total is not None
    parts = "all on each" if exe.plan.replicated else ", ".join(part.device for part in exe.parts)
    times = [seconds_text(total.seconds), seconds_text(took), f"{total.seconds / took:.2f}"]
    return [case.name, objective, parts, *times, total.method]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=DEFAULT_FOLDER, help=f"models folder (default {DEFAULT_FOLDER})")
    parser.add_argument("--only", action="append", default=[], help="this model only, by its name in benchmarks.speed")
    parser.add_argument("--objective", default="latency,throughput")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each is run")
    asked = parser.parse_args()
    opened_cores()
    rows = []
    with tempfile.TemporaryDirectory() as made:
        for case in cases(asked.models.expanduser(), Path(made), asked.only):
            for objective in asked.objective.split(","):
                print(f"{case.name}, {objective} ...", file=sys.stderr, flush=True)
                rows.append(row_of(case, objective, asked.seconds))
    print(table(HEADERS, rows))
    print(machine_line(1))


if __name__ == "__main__":
    main()
