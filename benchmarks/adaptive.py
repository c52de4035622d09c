"""Open sizes of a real model: the executable for all sizes, the same with `adapt=True`, and one with the sizes fixed.

    python -m benchmarks.adaptive [--model FILE.onnx --shape x=1,16 --shape x=8,64] [--threads 1] [--seconds 2]

Medians of runs that take turns, in one process; what was predicted and made is printed below.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scripts.fetch_models import DEFAULT_FOLDER, model_path

import mapsto
from benchmarks.models import machine_line
from mapsto.cli.inputs import make_feed, parse_shapes, read_given
from mapsto.cli.output import seconds_text, table

HEADERS = ("sizes", "open", "adapted", "fixed", "open / adapted", "open / fixed")
MINILM = [(1, 5), (1, 16), (1, 100), (8, 32)]  # batch, tokens

Feed = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int | None, ...]]


def by_turns(executables: Sequence[Any], feed: Feed, seconds: float) -> list[float]:
    """The median seconds of a run of each."""
    spent: list[list[float]] = [[] for _ in executables]
    began = time.perf_counter()
    while len(spent[0]) < 7 or time.perf_counter() - began < seconds:
        for exe, own in zip(executables, spent, strict=True):
            exe.run(feed)  # the caches hold what another one needed
            at = time.perf_counter()
            exe.run(feed)
            own.append(time.perf_counter() - at)
    return [statistics.median(own) for own in spent]


def measured(path: str, sizes: Sequence[Shapes], threads: int, seconds: float) -> None:
    whole = mapsto.compile(path, threads=threads)
    adapted = mapsto.compile(path, threads=threads, adapt=True)
    assert adapted.adaptive is not None, "no size is open"
    rows = []
    for shapes in sizes:
        fixed = mapsto.compile(path, shapes, threads=threads)
        feed = make_feed(fixed.inputs, read_given(None, ()), 0).feed
        for _ in range(2 * adapted.adaptive.policy.runs):
            adapted.run(feed)
            adapted.adaptive.wait(600)
        found = by_turns((whole, adapted, fixed), feed, seconds)
        named = ", ".join(f"{name} = {size}" for name, size in whole.sizes(*feed.values()).items())
        gains = (f"{found[0] / other:.2f}" for other in found[1:])
        rows.append((named, *map(seconds_text, found), *gains))
    print(table(HEADERS, rows))
    print(adapted.report())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="an ONNX file (default: MiniLM)")
    parser.add_argument("--shape", action="append", help="NAME=DIMS of all inputs, with `:` between two. Repeatable")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each tuple of sizes")
    asked = parser.parse_args()
    print(machine_line(asked.threads))
    if asked.model:
        sizes = [parse_shapes(text.split(":")) or {} for text in asked.shape or []]
    else:
        sizes = [dict.fromkeys(("input_ids", "attention_mask"), size) for size in MINILM]
    measured(asked.model or str(model_path(DEFAULT_FOLDER, "minilm")), sizes, asked.threads, asked.seconds)


if __name__ == "__main__":
    main()
