"""Tries models one by one in a process forked for them, under limits of memory and of time.

`python -m tests.hostile.trying KIND [SIZE...]` prints one line a model, as JSON: the kinds are `growing`, `wide`,
`many`, `costly`, and `scaled` (a case an op and attribute, of these sizes).

A child goes through models until one ends it, or has taken so much memory that what the next one takes would not show;
another child goes on behind that. What a model takes of time is processor time, of its process and of the processes
that compile for it, in seconds of the processor that `SPEED` was measured on.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

MEMORY = 3 << 30  # of addresses: what Python and its libraries map without using is in it
SECONDS = 60  # before a process is ended that is at one model for so long; what it takes is less by far
QUICK = 0.5  # seconds: it does not matter how slow the processor is
HIDES = 1 << 28  # bytes: a child that has had so much at once is not used again
SPEED = 0.02  # seconds that `_loop` takes on a Zen 4 processor at 3.7 GHz that does nothing else

Make = Callable[[], Any]
Compile = Callable[[Any], Any]


@dataclass(frozen=True)
class Outcome:
    """What became of a model: `kind` is "compiled", the name of an error of ours, "killed", or "crashed: ..."."""

    kind: str
    message: str
    seconds: float
    bytes: int


def tried(makes: Mapping[str, Make], compile_: Compile) -> Iterator[tuple[str, Outcome]]:
    """Compiles what each makes, in children of this process."""
    left = dict(makes)
    while left:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _child(left, compile_, writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as answers:
            for name, outcome in _answers(answers):
                del left[name]
                yield name, outcome
        _, status, usage = os.wait4(child, 0)
        grown = max(usage.ru_maxrss - _most(resource.RUSAGE_SELF), 0)
        if status and left:
            name = next(iter(left))
            del left[name]
            kind = f"killed by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"ended with {status}"
            yield name, Outcome(kind, "", float(SECONDS), grown << 10)


def _answers(file: Any) -> Iterator[tuple[str, Outcome]]:
    with contextlib.suppress(EOFError):
        while True:
            yield pickle.load(file)


def _child(makes: Mapping[str, Make], compile_: Compile, writing: int) -> None:
    """Never returns."""
    status = 1
    try:
        os.setpgid(0, 0)
        before = _most(resource.RUSAGE_SELF)  # what the parent had: a fork begins with it
        os.sched_getaffinity = lambda pid: {0}  # so one process compiles for a model: starting them is the most of it
        most = _mapped() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        with os.fdopen(writing, "wb") as answers:
            for name, make in makes.items():
                signal.alarm(SECONDS)
                outcome = _tried(make, compile_, before)
                answers.write(pickle.dumps((name, outcome)))
                answers.flush()
                if outcome.bytes > HIDES:
                    break
        status = 0
    except BrokenPipeError:
        pass
    finally:
        sys.stderr.flush()
        os._exit(status)


def _tried(make: Make, compile_: Compile, before: int) -> Outcome:
    model = make()
    began = _spent()
    kind, message = _compiled(model, compile_)
    seconds = _spent() - began
    if seconds > QUICK:
        seconds /= slowness()
    most = max(map(_most, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
    return Outcome(kind, message[:400], seconds, max(most - before, 0) << 10)


def _mapped() -> int:
    """Bytes of address space in use: what the parent had mapped, a fork has as well."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _most(who: int) -> int:
    """KiB that were in memory at most."""
    return resource.getrusage(who).ru_maxrss


def _spent() -> float:
    """Seconds of processor time so far, of this process and of those that it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def slowness() -> float:
    """How many times the processor time of the reference a fixed loop takes just now: at least 1."""
    return max(1.0, min(_loop(), _loop()) / SPEED)


def _loop() -> float:
    began = time.process_time()
    found: dict[int, tuple[int, str]] = {}
    for i in range(100_000):
        found[i * 7919 % 65_537] = (i, str(i))
    return time.process_time() - began


def _compiled(model: Any, compile_: Compile) -> tuple[str, str]:
    from mapsto.errors import MapstoError

    try:
        compile_(model)
    except MapstoError as error:
        return type(error).__name__, str(error)
    except BaseException as error:
        return f"crashed: {type(error).__name__}", str(error)
    return "compiled", ""


def cases(kind: str, sizes: list[int]) -> dict[str, Make]:
    from tests.hostile import costly, growing, many, scaled, wide

    if kind == "scaled":
        return scaled.scaled(sizes)
    folder = {"growing": growing, "wide": wide, "many": many, "costly": costly}
    return {make.__name__: make for make in folder[kind].CASES}


def main() -> None:
    import mapsto
    from tests.importers.models import model, node

    kind, *sizes = sys.argv[1:]
    makes = cases(kind, [int(size) for size in sizes])
    # what is imported for a first model is not imported again by each child
    mapsto.compile(model([node("Relu", ["x"], ["y"])], {"x": [2]}), threads=1)
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        for name, outcome in tried(makes, lambda made: mapsto.compile(made, threads=1)):
            print(json.dumps({"name": name, **asdict(outcome)}), flush=True)


if __name__ == "__main__":
    main()
