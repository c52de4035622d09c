"""Native code in parallel: LLVM modules go to worker processes, object files come back.

LLVM ends its process on an instruction that the processor lacks. In a worker that costs one kernel: the error names
it, a fresh worker goes on with the others.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mapsto.arguments import Progress
from mapsto.devices.cache import ObjectCache, key_of
from mapsto.devices.cpu.functions import written
from mapsto.devices.cpu.isa import Isa
from mapsto.devices.cpu.options import OPTIONS
from mapsto.devices.cpu.worker import read_frame, write_frame
from mapsto.devices.making.code import Unwritten
from mapsto.errors import CompileError, ResourceError
from mapsto.store import default_folder

_SECONDS_A_KERNEL = 300.0
_MANY = 4  # functions waiting to be written, from which on workers write them too: to import what writes takes 0.2 s
_PACKAGE_ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class _Look:
    """Says to a worker that functions wait to be written."""


_LOOK = _Look()


class _Worker:
    """One worker process and the pipes to it."""

    def __init__(self, isa: Isa) -> None:
        paths = [str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
        self._messages: IO[bytes] = tempfile.TemporaryFile()
        ours, theirs = os.pipe()
        try:
            self._process = subprocess.Popen(
                # -P: a file in the user's folder must not pass for a module
                [sys.executable, "-P", "-m", "mapsto.devices.cpu.worker", str(theirs)],
                stdin=subprocess.PIPE,
                stdout=self._messages,
                stderr=self._messages,
                env=environment,
                pass_fds=(theirs,),
            )
        except OSError as error:
            os.close(ours)
            raise CompileError(f"no compile worker can be started: {sys.executable}: {error}") from error
        finally:
            os.close(theirs)
        assert self._process.stdin is not None
        self._jobs, self._answers = self._process.stdin, os.fdopen(ours, "rb")
        with contextlib.suppress(OSError):
            write_frame(self._jobs, isa.cpu.encode())
            write_frame(self._jobs, isa.feature_text.encode())
            self._jobs.flush()

    def run(self, kind: str, optimizer: str, name: str, text: bytes) -> bytes:
        """Compile one module, or write its text. Raises CompileError naming it; `alive` then says whether the worker
        can go on.
        """
        timer = threading.Timer(_SECONDS_A_KERNEL, self._process.kill)
        timer.start()
        try:
            for part in (kind.encode(), optimizer.encode(), text):
                write_frame(self._jobs, part)
            self._jobs.flush()
            status, made = read_frame(self._answers), read_frame(self._answers)
        except OSError:
            status = made = None
        finally:
            timer.cancel()
        if status == b"ok" and made is not None:
            return made
        if status == b"error" and made is not None:
            failed = "its code cannot be written" if kind == "text" else "LLVM rejects its code"
            raise CompileError(f"kernel {name!r}: {failed}: {made.decode(errors='replace').strip()}")
        self._end()
        status_text = f"the compile worker ended with status {self._process.returncode}"
        words = self._last_words()
        self.close()
        raise CompileError(f"kernel {name!r}: {status_text}. {words}")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _last_words(self) -> str:
        self._messages.seek(0)
        lines = self._messages.read().decode(errors="replace").strip().splitlines()
        told = [line for line in lines if "LLVM ERROR" in line] or lines[-3:]
        return "It said: " + " | ".join(told) if told else "It said nothing."

    def close(self) -> None:
        self._end()
        self._messages.close()

    def _end(self) -> None:
        for pipe in (self._jobs, self._answers):
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True)
class _Job:
    """What is to be made of a module's text."""

    kind: str
    optimizer: str
    name: str
    text: str
    future: Future[bytes]


@dataclass(frozen=True)
class _Unwritten:
    """A function whose text is yet to be written, and then compiled."""

    name: str
    source: Unwritten
    optimizer: str
    future: Future[bytes]


class CompilePool:
    """Workers that take jobs first come, first served. They start at once, so that a caller can open the pool before
    it has code.

    Use as a context manager; leaving it waits for what was submitted. Text that is yet to be written is written by the
    workers where much of it waits, the rest by whoever calls `write_rest`.
    """

    def __init__(self, isa: Isa, workers: int = 2, cache: ObjectCache | None = None) -> None:
        self.isa = isa
        self._cache = cache
        self._queue: queue.SimpleQueue[_Job | _Look | None] = queue.SimpleQueue()
        self._unwritten: deque[_Unwritten] = deque()
        self.lengths: dict[str, int] = {}  # of texts that workers wrote
        self._threads: list[threading.Thread] = []
        for _ in range(max(workers, 1)):
            thread = threading.Thread(target=self._serve, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system grants no more: fewer do
                if not self._threads:
                    raise ResourceError(f"no thread to compile in is granted ({error}); end other work") from error
                break
            self._threads.append(thread)

    def __enter__(self) -> CompilePool:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        self.close(finish=failed is None)

    def close(self, finish: bool = True) -> None:
        """Waits for what was submitted; with `finish` false, only for what is being compiled just now: whoever asked
        for the rest has failed.
        """
        if finish:
            self.write_rest()
        else:
            self._unwritten.clear()
            with contextlib.suppress(queue.Empty):
                while True:
                    self._queue.get_nowait()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, name: str, text: str, optimizer: str = "none", kind: str = "object") -> Future[bytes]:
        """The object code (or assembly, as bytes) of a module, when it is ready."""
        future: Future[bytes] = Future()
        self._queue.put(_Job(kind, optimizer, name, text, future))
        return future

    def submit_later(self, name: str, source: Unwritten, optimizer: str) -> Future[bytes]:
        """The object code of a function that is yet to be written, when it is ready: `write_rest` must be called."""
        future: Future[bytes] = Future()
        self._unwritten.append(_Unwritten(name, source, optimizer, future))
        if len(self._unwritten) >= _MANY:
            self._queue.put(_LOOK)
        return future

    def write_rest(self) -> None:
        """Writes what no worker has taken yet, the last ones first, while they go on with the others."""
        while (job := _taken(self._unwritten.pop)) is not None:
            text = written(job.name, job.source, self.isa.capabilities)
            self.lengths[job.name] = len(text)
            self._queue.put(_Job("object", job.optimizer, job.name, text, job.future))

    def _serve(self) -> None:
        worker: _Worker | None = None
        with contextlib.suppress(CompileError, OSError):  # the first job tries again, and tells why
            worker = _Worker(self.isa)
        while (job := self._queue.get()) is not None:
            todo = _taken(self._unwritten.popleft) if isinstance(job, _Look) else job
            if todo is None:
                continue
            try:
                if worker is None or not worker.alive:
                    if worker is not None:
                        worker.close()
                    worker = _Worker(self.isa)
                todo.future.set_result(self._made(worker, todo))
            except BaseException as error:  # handed to whoever waits for this job
                todo.future.set_exception(error)
        if worker is not None:
            worker.close()

    def _made(self, worker: _Worker, job: _Job | _Unwritten) -> bytes:
        if isinstance(job, _Job):
            return self._compile(worker, job.kind, job.optimizer, job.name, job.text)
        arguments = pickle.dumps((job.name, job.source, self.isa.capabilities))
        text = worker.run("text", "none", job.name, arguments).decode()
        self.lengths[job.name] = len(text)
        return self._compile(worker, "object", job.optimizer, job.name, text)

    def _compile(self, worker: _Worker, kind: str, optimizer: str, name: str, text: str) -> bytes:
        key = cache_key(self.isa, kind, optimizer, text)
        stored = self._cache.get(key) if self._cache else None
        if stored is not None:
            return stored
        made = worker.run(kind, optimizer, name, text.encode())
        if self._cache:
            self._cache.put(key, made)
        return made


def _taken(pop: Callable[[], _Unwritten]) -> _Unwritten | None:
    """The next one, where there is one: another thread may have been faster."""
    try:
        return pop()
    except IndexError:
        return None


def cache_key(isa: Isa, kind: str, optimizer: str, text: str) -> str:
    import llvmlite

    made_by = ("mapsto-object-1", llvmlite.__version__, *OPTIONS)
    return key_of(*made_by, isa.cpu, isa.feature_text, kind, optimizer, text)


def compile_modules(
    modules: Sequence[tuple[str, str]],
    isa: Isa,
    workers: int = 2,
    progress: Progress | None = None,
    *,
    optimizer: str = "none",
    kind: str = "object",
    cache: ObjectCache | None = None,
) -> list[bytes]:
    """Object code of (name, LLVM text) pairs, in their order. No process is started where the cache has everything.

    `progress(done, total, name)` is told of each. Raises CompileError naming every kernel that failed, after the
    others are done.
    """
    cache = cache or ObjectCache(default_folder())
    found = [cache.get(cache_key(isa, kind, optimizer, text)) for _, text in modules]
    missing = [i for i, body in enumerate(found) if body is None]
    if not missing:
        return [body for body in found if body is not None]
    failures = []
    with CompilePool(isa, min(workers, len(missing)), cache) as pool:
        futures = {i: pool.submit(*modules[i], optimizer=optimizer, kind=kind) for i in missing}
        for done, (i, future) in enumerate(futures.items(), len(modules) - len(missing) + 1):
            try:
                found[i] = future.result()
            except CompileError as error:
                failures.append(str(error))
            if progress:
                progress(done, len(modules), modules[i][0])
    if failures:
        raise CompileError("; ".join(failures))
    return [body for body in found if body is not None]
