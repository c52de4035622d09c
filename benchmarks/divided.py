"""Two devices at once: a stream of runs on the CPU's first core and an OpenCL device on its second, beside each alone.

    python -m benchmarks.divided --model FILE.onnx:x=1,3,640,640

Runs a second of the CPU with one thread, of the OpenCL device with one, of both together (the graph divided by
predicted costs), and of the CPU with two threads; all by turns in one process. Outputs of both together are compared
with the CPU's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", "1")  # before the driver is loaded
os.environ.setdefault("POCL_CPU_MAX_CU_COUNT", "1")

import numpy as np
from scripts.fetch_models import DEFAULT_FOLDER, model_path

import mapsto
from benchmarks.models import machine_line
from mapsto.cli.inputs import parse_shapes
from mapsto.cli.output import table

Feed = dict[str, np.ndarray]
HEADERS = ("devices", "runs a second", "beside the better one alone")


def open_on(core: int) -> None:
    """The OpenCL driver starts its thread where this one is."""
    os.sched_setaffinity(0, {core})
    from mapsto.devices.opencl.device import open_device

    open_device()


def drawn_feed(inputs: Iterable[Any]) -> Feed:
    """Numbers by a fixed seed for inputs with names, shapes and dtypes; open dims are 1."""
    rng = np.random.default_rng(0)
    ports = [(p.name, [d if isinstance(d, int) else 1 for d in p.shape], p.dtype.numpy) for p in inputs]
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape, dtype in ports}


def rate(run: Callable[[], None], count: int) -> float:
    begun = time.perf_counter()
    run()
    return count / (time.perf_counter() - begun)


def measured(path: str, shapes: dict[str, tuple[int | None, ...]] | None, count: int, rounds: int) -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    open_on(cores[-1])
    os.sched_setaffinity(0, {cores[0]})
    one = mapsto.compile(path, shapes, threads=1)
    opencl = mapsto.compile(path, shapes, threads=1, device="opencl")
    both = mapsto.divide(path, ["cpu", "opencl"], shapes, threads=1, objective="throughput", replicate=False)
    copies = mapsto.divide(path, ["cpu", "opencl"], shapes, threads=1, objective="throughput", replicate=True)
    os.sched_setaffinity(0, set(cores))
    two = mapsto.compile(path, shapes, threads=2)
    feed = drawn_feed(one.program.inputs)
    for name, expected in one.run(feed).items():
        np.testing.assert_allclose(both.run(feed)[name], expected, rtol=1e-2, atol=1e-4 * float(np.abs(expected).max()))

    def pinned(exe: mapsto.Executable, core: set[int]) -> Callable[[], None]:
        def run() -> None:
            os.sched_setaffinity(0, core)
            for _ in range(count):
                exe.run(feed)

        return run

    def streamed(exe: mapsto.DividedExecutable) -> Callable[[], None]:
        def run() -> None:
            os.sched_setaffinity(0, set(cores))
            for _ in exe.stream(feed for _ in range(count)):
                pass

        return run

    ways = {
        "cpu, one thread": pinned(one, {cores[0]}), "opencl, one thread": pinned(opencl, {cores[-1]}),
        "cpu and opencl, divided": streamed(both), "cpu and opencl, all on each": streamed(copies),
        "cpu, two threads": pinned(two, set(cores)),
    }  # fmt: skip
    found: dict[str, list[float]] = {name: [] for name in ways}
    for at in range(rounds + 1):
        for name, run in ways.items():
            speed = rate(run, count)
            if at:  # the first round touches the memory
                found[name].append(speed)
    speeds = {name: statistics.median(s) for name, s in found.items()}
    alone = max(speeds["cpu, one thread"], speeds["opencl, one thread"])
    print(table(HEADERS, [[name, f"{s:.2f}", f"{s / alone:.2f}"] for name, s in speeds.items()]))
    print(both.plan_text.splitlines()[0])
    print(both.report())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="an ONNX file, and shapes of its inputs after colons (default: YOLOv8n)")
    parser.add_argument("--count", type=int, default=20, help="runs of a stream")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    path, *shapes = (asked.model or f"{model_path(DEFAULT_FOLDER, 'nudenet')}:images=1,3,320,320").split(":")
    print(machine_line(2))
    measured(path, parse_shapes(shapes), asked.count, asked.rounds)


if __name__ == "__main__":
    main()
