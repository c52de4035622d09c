"""One engine in a process of its own: `python -m mapsto.report.worker`, driven by `report.bench` over pipes.

Requests come as JSON, one a line, on standard input; answers go the same way to what was standard output. (Standard
output itself is joined to standard error first, so that nothing a library prints gets between the answers.)
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from mapsto.budget import defaulting
from mapsto.errors import InternalError, MapstoError
from mapsto.report.arrays import load_arrays, save_arrays
from mapsto.report.engines import EngineMissing, Feed, OpenEngine, Setup, open_engine


class Worker:
    """An opened engine and the feeds that it runs in turn."""

    def __init__(self) -> None:
        self.engine: OpenEngine | None = None
        self.feeds: list[Feed] = []
        self.next = 0

    def open(self, request: dict[str, Any]) -> dict[str, Any]:
        """Loads feeds, opens the engine, runs it once; answers with the seconds that opening and the first run took."""
        self.feeds = [load_arrays(Path(path)) for path in request["feeds"]]
        root = request.get("data_root")
        setup = Setup(
            Path(request["model"]),
            request["shapes"],
            request["threads"],
            None if root is None else Path(root),
            request.get("device", "cpu"),
            tuple((pattern, device) for pattern, device in request.get("pins", ())),
            request.get("isa"),
            request.get("plan"),
            request.get("exact_integers", False),
            request.get("formats"),
        )
        began = time.perf_counter()
        with defaulting(request["budget"]):
            self.engine = open_engine(request["engine"], setup)
        opened = time.perf_counter()
        pin(request["threads"])
        self.engine.run(self.feeds[0])
        return {"open_seconds": opened - began, "first_run_seconds": time.perf_counter() - opened}

    def time(self, request: dict[str, Any]) -> dict[str, Any]:
        """Runs `runs` times after `warm` runs that are not counted; answers with the nanoseconds of each."""
        assert self.engine is not None
        times = []
        for i in range(-request["warm"], request["runs"]):
            feed = self.feeds[self.next % len(self.feeds)]
            self.next += 1
            began = time.perf_counter_ns()
            self.engine.run(feed)
            if i >= 0:
                times.append(time.perf_counter_ns() - began)
        return {"nanoseconds": times}

    def outputs(self, request: dict[str, Any]) -> dict[str, Any]:
        """Writes the outputs for each feed, in the order of the feeds, into npz files named by the request."""
        assert self.engine is not None
        for feed, path in zip(self.feeds, request["paths"], strict=True):
            save_arrays(Path(path), self.engine.run(feed))
        return {}


def pin(threads: int) -> None:
    """Keeps the process's threads on the first `threads` cores, where there are more than that."""
    cpus = sorted(os.sched_getaffinity(0))
    if threads >= len(cpus):
        return
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # a thread that has ended since it was listed
            os.sched_setaffinity(int(thread), cpus[:threads])


def answer(handle: Callable[[dict[str, Any]], dict[str, Any]], request: dict[str, Any]) -> dict[str, Any]:
    try:
        return handle(request)
    except EngineMissing as error:
        return {"missing": str(error)}
    except MapstoError as error:
        return {"error": str(error), "internal": isinstance(error, InternalError)}


def serve(requests: IO[str], answers: IO[str]) -> None:
    worker = Worker()
    handlers = {"open": worker.open, "time": worker.time, "outputs": worker.outputs}
    for line in requests:
        request = json.loads(line)
        answers.write(json.dumps(answer(handlers[request["do"]], request)) + "\n")
        answers.flush()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
