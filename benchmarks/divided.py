"""Two devices at once: a stream of runs on the CPU's first core and an OpenCL device on its second, beside each alone.

    python -m benchmarks.divided --model FILE.onnx:x=1,3,640,640

Runs a second of the CPU with one thread, of the OpenCL device with one, of both together (the graph divided by
predicted costs, and all of it on each), and of the CPU with two threads; all by turns in one process, by quiet samples
(`benchmarks.quiet`), and both as they were planned (`adapt=False`). A sample is from the outputs of a stream's first
run to those of its last: the filling of a pipeline is none of its rate. Outputs of both together are compared with
those of the CPU.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from functools import partial

import numpy as np

import mapsto
from benchmarks.models import machine_line
from benchmarks.quiet import by_turns
from benchmarks.two import Feed, Shapes, add_model, drawn_feed, model_of, opened_cores
from mapsto.cli.output import table

HEADERS = ("devices", "runs a second", "beside the better one alone", "quiet samples")


def rate(outputs: Iterator[object], count: int) -> float:
    """Of so many runs after the first one's outputs are there."""
    next(outputs)
    begun = time.perf_counter()
    for _ in outputs:
        pass
    return count / (time.perf_counter() - begun)


def measured(path: str, shapes: Shapes | None, count: int, seconds: float) -> None:
    cores = opened_cores()
    os.sched_setaffinity(0, {cores[0]})
    one = mapsto.compile(path, shapes, threads=1)
    opencl = mapsto.compile(path, shapes, threads=1, device="opencl")
    stream = partial(mapsto.divide, path, ["cpu", "opencl"], shapes, threads=1, objective="throughput", adapt=False)
    both, copies = stream(replicate=False), stream(replicate=True)
    os.sched_setaffinity(0, set(cores))
    two = mapsto.compile(path, shapes, threads=2)
    feed: Feed = drawn_feed(one.program.inputs)
    for name, expected in one.run(feed).items():
        np.testing.assert_allclose(both.run(feed)[name], expected, rtol=1e-2, atol=1e-4 * float(np.abs(expected).max()))

    def pinned(exe: mapsto.Executable, core: set[int]) -> Iterator[object]:
        os.sched_setaffinity(0, core)
        return (exe.run(feed) for _ in range(count + 1))

    def streamed(exe: mapsto.DividedExecutable) -> Iterator[object]:
        os.sched_setaffinity(0, set(cores))
        return exe.stream(feed for _ in range(count + 1))

    ways = {
        "cpu, one thread": partial(pinned, one, {cores[0]}), "opencl, one thread": partial(pinned, opencl, {cores[-1]}),
        "cpu and opencl, divided": partial(streamed, both), "cpu and opencl, all on each": partial(streamed, copies),
        "cpu, two threads": partial(pinned, two, set(cores)),
    }  # fmt: skip
    turns = {name: lambda begin=begin: rate(begin(), count) for name, begin in ways.items()}
    found = by_turns(turns, cores, seconds)
    alone = max(found[name].median for name in list(ways)[:2])
    rows = [(n, f"{s.median:.2f}", f"{s.median / alone:.2f}", f"{s.quiet} of {s.count}") for n, s in found.items()]
    print(table(HEADERS, rows))
    if not all(s.judged for s in found.values()):
        print("there were too few quiet samples of some: their medians are of all")
    print(both.plan_text.splitlines()[0])
    print(both.report())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    parser.add_argument("--count", type=int, default=20, help="runs of a stream, after the first")
    parser.add_argument("--seconds", type=float, default=90.0, help="at most, to find quiet samples")
    asked = parser.parse_args()
    print(machine_line(2))
    measured(*model_of(asked), asked.count, asked.seconds)


if __name__ == "__main__":
    main()
