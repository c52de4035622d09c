"""Tries models one by one, each in a process forked for it, under a limit of memory and of time.

`python -m tests.hostile.trying KIND [SIZE...]` prints one line a model, as JSON: the kinds are `growing`, `wide`,
`costly`, and `scaled` (a case an op and attribute, of these sizes).
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

MEMORY = 3 << 30  # of addresses: what Python and its libraries map without using is in it
SECONDS = 60  # before a model's process is ended; what it takes is less by far


@dataclass(frozen=True)
class Outcome:
    """What became of a model: `kind` is "compiled", the name of an error of ours, "killed", or "crashed: ..."."""

    kind: str
    message: str
    seconds: float
    bytes: int


def tried(make: Callable[[], Any], compile_: Callable[[Any], Any]) -> Outcome:
    """Compiles what `make` makes in a child of this process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(make, compile_, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        data = answers.read()
    _, status, usage = os.wait4(child, 0)
    if data:
        found: Outcome = pickle.loads(data)
        return found
    return Outcome(f"killed by signal {os.WTERMSIG(status)}", "", float(SECONDS), usage.ru_maxrss << 10)


def _child(make: Callable[[], Any], compile_: Callable[[Any], Any], writing: int) -> None:
    """Never returns."""
    try:
        os.setpgid(0, 0)
        model = make()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        began = time.perf_counter()
        kind, message = _compiled(model, compile_)
        spent = time.perf_counter() - began
        most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "wb") as answer:
            answer.write(pickle.dumps(Outcome(kind, message[:400], spent, most << 10)))
    finally:
        sys.stderr.flush()
        os._exit(0)


def _compiled(model: Any, compile_: Callable[[Any], Any]) -> tuple[str, str]:
    from mapsto.errors import MapstoError

    try:
        compile_(model)
    except MapstoError as error:
        return type(error).__name__, str(error)
    except BaseException as error:
        return f"crashed: {type(error).__name__}", str(error)
    return "compiled", ""


def cases(kind: str, sizes: list[int]) -> dict[str, Callable[[], Any]]:
    from tests.hostile import costly, growing, wide

    if kind == "scaled":
        return costly.scaled(sizes)
    return {make.__name__: make for make in {"growing": growing, "wide": wide, "costly": costly}[kind].CASES}


def main() -> None:
    import mapsto
    import mapsto.importers.onnx
    import mapsto.session.compile  # what is imported here is not imported again by each child

    kind, *sizes = sys.argv[1:]
    for name, make in cases(kind, [int(size) for size in sizes]).items():
        outcome = tried(make, lambda model: mapsto.compile(model, threads=1))
        print(json.dumps({"name": name, **asdict(outcome)}), flush=True)


if __name__ == "__main__":
    main()
