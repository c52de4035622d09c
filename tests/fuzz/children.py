"""Cases tried in children of this process, many a child, under limits of memory and of processor time.

A child goes through cases until one ends it; what it was doing then stands in memory that both share (`Desk`), and the
Python frames that it was in stand in a file. Then another child goes on behind that case. The one compile worker of a
child is started once, not for each model.
"""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import os
import pickle
import re
import resource
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

MEMORY = 3 << 30  # bytes of addresses beside what the parent has mapped
GROWS = 1 << 30  # bytes that one case may have in memory
WALL = 150  # seconds a stage may last by the clock: nothing waits for anything, but the machine may be busy
BATCH = 60  # cases a child
_PLACE = struct.Struct("q32s200s")


@dataclass(frozen=True)
class Outcome:
    """What became of a case. kind: "ran", "ModelError", "crashed"...; where: what of it is the same for all cases of
    one cause; finding: whether it must not be.
    """

    kind: str
    where: str = ""
    message: str = ""
    finding: bool = False
    seconds: float = 0.0  # of processor time

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.where


class Desk:
    """What a child is doing, where its parent can see it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _PLACE.size)
        self._number, self._stage = -1, ""

    def case(self, number: int) -> None:
        self._number = number
        self.stage("begin", 30)

    def stage(self, name: str, seconds: float) -> None:
        """The next stage, which may take so much processor time."""
        self._stage = name
        self.step("")
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, WALL)

    def step(self, label: str) -> None:
        """A detail of the stage: what a run is at."""
        _PLACE.pack_into(self._memory, 0, self._number, self._stage.encode()[:32], label.encode(errors="replace")[:200])

    def read(self) -> tuple[int, str, str]:
        number, stage, label = _PLACE.unpack_from(self._memory, 0)
        return number, stage.rstrip(b"\0").decode(), label.rstrip(b"\0").decode(errors="replace")

    def clear(self) -> None:
        _PLACE.pack_into(self._memory, 0, -1, b"", b"")


Attempt = Callable[[int, Desk], Outcome]


@dataclass
class Children:
    """Tries cases. `attempt` is called in a child; `prepare` once in each, before its first case."""

    attempt: Attempt
    prepare: Callable[[], None] = lambda: None
    batch: int = BATCH
    _desk: Desk = field(default_factory=Desk)

    def tried(self, numbers: Iterable[int]) -> Iterator[tuple[int, Outcome]]:
        """The cases in order, each with what became of it."""
        left = list(numbers)
        while left:
            batch, left = left[: self.batch], left[self.batch :]
            done = 0
            for number, outcome in self._by_child(batch):
                done += 1
                yield number, outcome
            left = batch[done:] + left

    def _by_child(self, numbers: list[int]) -> Iterator[tuple[int, Outcome]]:
        reading, writing = os.pipe()
        self._desk.clear()
        with tempfile.TemporaryFile() as said:
            sys.stdout.flush()
            sys.stderr.flush()
            child = os.fork()
            if child == 0:
                os.close(reading)
                self._serve(numbers, writing, said)
            os.close(writing)
            last = None
            with os.fdopen(reading, "rb") as answers:
                for number, outcome in _answers(answers):
                    last = number
                    yield number, outcome
            _, status = os.waitpid(child, 0)
            number, stage, label = self._desk.read()
            if status and number in numbers and number != last:
                yield number, _ended(status, stage, label, said)
            elif status:
                said.seek(0)
                raise RuntimeError(f"a child ended with {status} between cases: {said.read()[-3000:].decode()}")

    def _serve(self, numbers: list[int], writing: int, said: IO[bytes]) -> None:
        """Never returns."""
        status = 1
        try:
            os.dup2(said.fileno(), 2)
            _limit(said)
            self.prepare()
            with os.fdopen(writing, "wb") as answers:
                for number in numbers:
                    _reset_peak()
                    before, began = _resident("VmRSS"), time.process_time()
                    self._desk.case(number)
                    outcome = self.attempt(number, self._desk)
                    grown = _resident("VmHWM") - before
                    if grown > GROWS and not outcome.finding:
                        outcome = Outcome("memory", outcome.kind, f"{grown >> 20} MiB; {outcome.message}", True)
                    if not outcome.seconds:
                        outcome = Outcome(
                            outcome.kind, outcome.where, outcome.message, outcome.finding, time.process_time() - began
                        )
                    self._desk.stage("between", 60)
                    answers.write(pickle.dumps((number, outcome)))
                    answers.flush()
                    if grown > GROWS // 4:
                        break
            status = 0
        except BrokenPipeError:
            pass
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)


def _answers(file: Any) -> Iterator[tuple[int, Outcome]]:
    with contextlib.suppress(EOFError, pickle.UnpicklingError):
        while True:
            yield pickle.load(file)


def _limit(said: IO[bytes]) -> None:
    with open("/proc/self/statm") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.sched_getaffinity = lambda pid: {0}  # type: ignore[assignment]  # one thread, one compile worker
    # A process may inherit signals that are blocked: a fault would end it without a word, a limit never.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    faulthandler.enable(said, all_threads=False)
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
        faulthandler.register(number, said, all_threads=False, chain=True)


def _ended(status: int, stage: str, label: str, said: IO[bytes]) -> Outcome:
    said.seek(0)
    text = said.read()[-20_000:].decode(errors="replace")
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    where = f"{stage}: {_general(label) if label else innermost(text)}"
    message = f"{label}\n{text[-3000:]}"
    if number in (signal.SIGPROF, signal.SIGALRM) and stage in ("reference", "compare"):
        return Outcome("ran", "not compared: it takes too long")
    if number in (signal.SIGPROF, signal.SIGALRM):
        return Outcome("hang", where, message, True)
    name = signal.Signals(number).name if number else f"exit {os.waitstatus_to_exitcode(status)}"
    return Outcome(f"crashed: {name}", where, message, True)


def _general(label: str) -> str:
    """A step's label without the numbers of its works."""
    return re.sub(r"\d+", "#", label)


def innermost(text: str) -> str:
    """The innermost frame of mapsto in what faulthandler says (most recent call first): its file and function."""
    for path, function in re.findall(r'File "([^"]*)", line \d+ in (\S+)', text):
        if "/mapsto/" in path:
            return f"{path.split('/mapsto/')[-1]} {function}"
    return "outside of mapsto"


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _resident(what: str) -> int:
    """Bytes in memory now (VmRSS) or at most since `_reset_peak` (VmHWM)."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(what):
                return int(line.split()[1]) << 10
    return 0
