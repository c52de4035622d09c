"""How soon a plan follows a device that turns slow: runs on the CPU's first core and an OpenCL device on its second,
while a busy loop takes most of that core, and after it.

    python -m benchmarks.slowed [--model FILE.onnx:x=1,3,640,640] [--slower 4] [--times 3]

Prints after how many runs the division was another one, from when the loop began and from when it ended. A run is
judged when it has ended.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import mapsto
from benchmarks.models import machine_line
from benchmarks.two import Feed, add_model, drawn_feed, model_of, opened_cores

_BUSY = """
import os, sys, time
core, share = int(sys.argv[1]), float(sys.argv[2])
os.sched_setaffinity(0, {core})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
print(flush=True)
period = 0.004
while True:
    end = time.perf_counter() + share * period
    while time.perf_counter() < end:
        pass
    time.sleep((1 - share) * period)
"""
_MOST = 200


@contextmanager
def busy(core: int, times: float) -> Iterator[None]:
    """A loop that takes so much of a core that anything else on it takes so many times as long: a real-time thread, by
    whose side the scheduler cannot favour what wakes up now and then. Exits where that is not allowed.
    """
    started = subprocess.Popen([sys.executable, "-c", _BUSY, str(core), str(1 - 1 / times)], stdout=subprocess.PIPE)
    try:
        if started.stdout is None or not started.stdout.readline():  # it begins then
            raise SystemExit("a real-time thread is not allowed here (CAP_SYS_NICE): nothing was slowed")
        yield
    finally:
        started.kill()
        started.wait()


def runs_until_another(exe: mapsto.DividedExecutable, feed: Feed) -> int | None:
    """None: it stayed the same."""
    before = seats(exe)
    for number in range(1, _MOST + 1):
        exe.run(feed)
        if seats(exe) != before:
            return number
    return None


def seats(exe: mapsto.DividedExecutable) -> list[tuple[str, frozenset[str]]]:
    """The device of each part, and the values that it makes."""
    return [(part.device, part.makes) for part in exe.parts]


def shares(exe: mapsto.DividedExecutable) -> str:
    return ", ".join(f"{len(part.makes)} values on {part.device}" for part in exe.parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    parser.add_argument("--slower", type=float, default=4.0, help="times as long as what the core does is to take")
    parser.add_argument("--times", type=int, default=3)
    asked = parser.parse_args()
    path, shapes = model_of(asked)
    cores = opened_cores()
    os.sched_setaffinity(0, {cores[0]})
    exe = mapsto.divide(
        path, ["cpu", "opencl"], shapes, threads=1, objective="throughput", replicate=False
    )
    feed = drawn_feed(exe.inputs)
    for _ in range(60):  # the first ones tell whether devices are as predicted
        exe.run(feed)
    print(machine_line(1))
    print(f"undisturbed: {shares(exe)}")
    for _ in range(asked.times):
        with busy(cores[-1], asked.slower):
            print(f"slowed: another division after {runs_until_another(exe, feed)} runs, {shares(exe)}", flush=True)
        print(f"quick again: after {runs_until_another(exe, feed)} runs, {shares(exe)}", flush=True)
    print(exe.report())


if __name__ == "__main__":
    main()
