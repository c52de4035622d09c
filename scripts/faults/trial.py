"""A copy of the tree, faults in it one at a time, and which test notices."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.fault import Fault
from faults.quickly import VARIABLE, WANTED, WITHOUT
from faults.reach import Reach
from faults.rooms import ROOMS, room_of, stages

CAUGHT, SURVIVED = "caught", "survived"
MARKERS = "not models and not slow"
_CHANGED_JUST_NOW = 2.2  # s; executables are not kept under code that was changed in the last two


_DIES_WITH_ITS_PARENT = 1  # PR_SET_PDEATHSIG


class RedError(Exception):
    """A test that fails without any fault: says which."""


@dataclass(frozen=True)
class Limits:
    """Of one fault: seconds of a test and of them all, and bytes of addresses of each process. What the tests of `all`
    these seconds do not notice has survived.
    """

    test: float = 300.0
    all: float = 600.0
    memory: int = 16 << 30


@dataclass(frozen=True)
class Outcome:
    """`how`: caught or survived. `by`: the test that failed. `note`: how, where it did not simply fail."""

    how: str
    by: str
    note: str
    seconds: float


@dataclass(frozen=True)
class _Ended:
    """How a run of pytest ended: by which test ("": none), and what there is to say of it."""

    by: str
    note: str


@dataclass(frozen=True)
class Copy:
    """The tree's copy, with a cache folder, and which tests run what, where that is known."""

    root: Path
    kept: Path
    limits: Limits
    reach: Reach | None = None

    def tried(self, fault: Fault) -> Outcome:
        """Puts a fault in, runs tests until one fails, and takes it out: those that run its function, where that is
        known, else those of its room. Raises StaleError.
        """
        began = time.monotonic()
        with self._fault_in(fault), self._cache(fault) as cache:
            ended = _Ended("", "")
            for tests in self._stages(fault):
                left = self.limits.all - (time.monotonic() - began)
                ended = self._run(tests, cache, left, self._known(fault))
                if ended.by or ended.note:
                    break
        seconds = time.monotonic() - began
        if not ended.by:
            return Outcome(SURVIVED, "", ended.note, seconds)
        return Outcome(CAUGHT, ended.by, ended.note, seconds)

    def _stages(self, fault: Fault) -> list[list[str]]:
        """Where it is known which tests run the function: of the nearest files what is newer than that, then those
        tests.
        """
        by_room = stages(self.root, fault.file, fault.beyond)
        known = [] if self.reach is None else self.reach.of(fault.file, fault.function)
        if self.reach is None or not known:
            return by_room
        there = [test for test in known if (self.root / test.partition("::")[0]).exists()]
        return [by_room[0], *self.reach.parted(there)]

    def _known(self, fault: Fault) -> Collection[str]:
        """Tests that are not run for being in a file that is, as it is known of them whether they run the function."""
        return self.reach.seconds if self.reach is not None and self.reach.of(fault.file, fault.function) else ()

    @contextlib.contextmanager
    def _fault_in(self, fault: Fault) -> Iterator[None]:
        path = self.root / fault.file
        text = path.read_bytes()
        try:
            _write(path, fault.applied(text))
            if ROOMS[room_of(fault.file)].keeps:
                time.sleep(_CHANGED_JUST_NOW)
            yield
        finally:
            _write(path, text)

    @contextlib.contextmanager
    def _cache(self, fault: Fault) -> Iterator[Path]:
        if not ROOMS[room_of(fault.file)].keeps:
            yield self.kept
            return
        with tempfile.TemporaryDirectory(prefix="faults-cache-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def see_them_pass(self, tests: Sequence[str]) -> None:
        """That tests which caught faults pass without one: else they have caught nothing. Raises RedError."""
        wanted = sorted(set(tests))
        ended = self._run(wanted, self.kept, self.limits.test * len(wanted)) if wanted else _Ended("", "")
        if ended.by or ended.note:
            raise RedError(f"{ended.by or 'a test'} fails without any fault: {ended.note or 'run it'}")

    def _run(self, tests: Sequence[str], cache: Path, seconds: float, without: Collection[str] = ()) -> _Ended:
        """Runs tests (single ones, or files without some of theirs) until one fails. Raises RuntimeError where pytest
        cannot run them.
        """
        files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
        with tempfile.TemporaryDirectory(prefix="faults-run-") as name:
            folder = Path(name)
            (folder / WANTED).write_text("\n".join(tests))
            (folder / WITHOUT).write_text("\n".join(without))
            with (folder / "output").open("wb") as file:
                process = subprocess.Popen(
                    [sys.executable, "-m", "pytest", "-x", "-q", "-m", MARKERS, *_OPTIONS, *files],
                    cwd=self.root,
                    env={**self.environment(cache), VARIABLE: str(folder)},
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                    preexec_fn=self._bounded,
                )
                try:
                    _wait(process, folder / "now", self.limits.test, seconds)
                except subprocess.TimeoutExpired as late:
                    test = _read(folder / "now")
                    if late.timeout == self.limits.test:
                        return _Ended(test, f"ran for more than {late.timeout:.0f} s")
                    return _Ended("", f"the tests of {self.limits.all:.0f} s passed; {test} was running")
            running = _read(folder / "failed") or _read(folder / "now") or tests[0]
            match process.returncode:
                case 0 | 5:  # all passed, or were left out
                    return _Ended("", "")
                case code if code < 0:
                    return _Ended(running, f"ended by {signal.Signals(-code).name}")
                case 1:
                    return _Ended(running, "")
                case 2 | 4:
                    return _Ended(running, "before any test ran")
            raise RuntimeError(f"pytest ended with status {process.returncode}:\n{_read(folder / 'output')[-2000:]}")

    def environment(self, cache: Path) -> dict[str, str]:
        """That of tests in the copy."""
        path = os.pathsep.join(str(self.root / folder) for folder in ("src", "scripts"))
        return {**os.environ, "PYTHONPATH": path, "MAPSTO_CACHE": str(cache)}

    def _bounded(self) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (self.limits.memory, self.limits.memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.CDLL(None).prctl(_DIES_WITH_ITS_PARENT, signal.SIGKILL)


_OPTIONS = ("-p", "faults.quickly", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=line")


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _wait(process: subprocess.Popen[bytes], now: Path, of_a_test: float, of_all: float) -> None:
    """Waits for a run, and ends all that it has started. Raises TimeoutExpired where a test, or all, take too long."""
    began = time.monotonic()
    try:
        while process.poll() is None:
            time.sleep(0.05)
            if now.exists() and time.time() - now.stat().st_mtime > of_a_test:
                raise subprocess.TimeoutExpired(process.args, of_a_test)
            if time.monotonic() - began > of_all:
                raise subprocess.TimeoutExpired(process.args, of_all)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _write(path: Path, text: bytes) -> None:
    """Writes a module, and sees that no compiled form of another text is taken for its own: that is known by seconds
    and size alone.
    """
    path.write_bytes(text)
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink(missing_ok=True)


@contextlib.contextmanager
def copied(tree: Path, limits: Limits, cache: Path | None, reach: Reach | None = None) -> Iterator[Copy]:
    """A copy of what git knows of the tree, or would know. It is gone afterwards; so is the cache, if none is named."""
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder:
        root = Path(folder, "tree")
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=tree,
            check=True,
            capture_output=True,
        ).stdout.decode()
        for name in filter(None, listed.split("\0")):
            if (tree / name).is_file():  # else it was deleted
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(tree / name, root / name)
        kept = cache or Path(folder, "cache")
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield Copy(root, kept, limits, reach)
