"""How soon a plan follows a device that turns slow: runs on the CPU's first core and an OpenCL device on its second,
while busy loops take most of that core, and after them.

    python -m benchmarks.slowed [--model FILE.onnx:x=1,3,640,640] [--loops 3] [--times 3]

Prints after how many runs the division was another one, from when the loops began and from when they ended. A run is
judged when it has ended.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from scripts.fetch_models import DEFAULT_FOLDER, model_path

import mapsto
from benchmarks.divided import Feed, drawn_feed, open_on
from benchmarks.models import machine_line
from mapsto.cli.inputs import parse_shapes

_BUSY = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
_MOST = 200


@contextmanager
def busy(core: int, loops: int) -> Iterator[None]:
    """So many loops beside what runs on a core."""
    started = [subprocess.Popen([sys.executable, "-c", _BUSY, str(core)]) for _ in range(loops)]
    try:
        yield
    finally:
        for each in started:
            each.kill()
            each.wait()


def runs_until_another(exe: mapsto.DividedExecutable, feed: Feed) -> int | None:
    """None: it stayed the same."""
    before = seats(exe)
    for number in range(1, _MOST + 1):
        exe.run(feed)
        if seats(exe) != before:
            return number
    return None


def seats(exe: mapsto.DividedExecutable) -> list[tuple[str, str]]:
    return [(part.device, part.name) for part in exe.parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="an ONNX file, and shapes of its inputs after colons (default: YOLOv8n)")
    parser.add_argument("--loops", type=int, default=3)
    parser.add_argument("--times", type=int, default=3)
    asked = parser.parse_args()
    path, *shapes = (asked.model or f"{model_path(DEFAULT_FOLDER, 'nudenet')}:images=1,3,320,320").split(":")
    cores = sorted(os.sched_getaffinity(0))[:2]
    open_on(cores[-1])
    os.sched_setaffinity(0, {cores[0]})
    exe = mapsto.divide(
        path, ["cpu", "opencl"], parse_shapes(shapes), threads=1, objective="throughput", replicate=False
    )
    feed = drawn_feed(exe.inputs)
    for _ in range(60):  # the first ones tell whether devices are as predicted
        exe.run(feed)
    print(machine_line(1))
    print(f"undisturbed: {[device for device, _ in seats(exe)]}")
    for _ in range(asked.times):
        with busy(cores[-1], asked.loops):
            print(f"slowed: another division after {runs_until_another(exe, feed)} runs, {seats(exe)}", flush=True)
        print(f"quick again: after {runs_until_another(exe, feed)} runs, {seats(exe)}", flush=True)
    print(exe.report())


if __name__ == "__main__":
    main()
