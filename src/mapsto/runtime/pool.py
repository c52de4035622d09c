"""Worker threads: one pool a process and thread count, shared by all executables.

Workers are native threads that never touch Python. A pool works on one job at a time; callers queue at its lock. After
a fork the child has the parent's memory but none of its threads, so it starts workers of its own when it first needs
them.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import threading
from collections.abc import Callable

import numpy as np

from mapsto.errors import ExecutionError
from mapsto.runtime import native, runner_ir
from mapsto.runtime.arrays import address_of, aligned_bytes
from mapsto.runtime.cpus import available_cpus

# Rounds of waiting (25 ns each on Zen 4) before a thread sleeps: 0.1 ms, twice what a wake-up costs; next to none where
# threads outnumber processors, as the one that is waited for may need this one's processor.
_SPIN_ROUNDS = 4000
_SPIN_ROUNDS_CROWDED = 20
_STACK_BYTES = 8 << 20  # as a main thread has: compiled code keeps local arrays on the stack
_SYNCHRONOUS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
MAX_THREADS = 1024


class Runner:
    """The compiled runner, loaded once a process and kept to its end."""

    def __init__(self, code: bytes) -> None:
        library = native.Library([code], [native.RUN, native.STOP, native.WORKER])
        library.keep_for_ever()
        self.run: Callable[[ctypes.c_int64], int] = native.call_word(library.addresses[native.RUN])
        self.stop: Callable[[ctypes.c_int64], int] = native.call_word(library.addresses[native.STOP])
        self.worker: int = library.addresses[native.WORKER]


class Pool:
    """`threads` - 1 workers beside the caller. Hold `lock` from before `address` is read until the job is done."""

    def __init__(self, threads: int, runner: Runner) -> None:
        self.threads = threads
        self.lock = threading.Lock()
        self._runner = runner
        self._address = 0
        self._handles: list[int] = []

    @property
    def address(self) -> int:
        """Where the native pool is; starts the workers where there are none.

        Raises ExecutionError where the system grants no threads.
        """
        return self._address or self._start()

    def forget(self) -> None:
        """In a forked child: the workers are the parent's. (Its memory is left alone: the copy is in whatever state the
        fork found.)
        """
        self.lock = threading.Lock()
        self._address = 0
        self._handles = []

    def stop(self) -> None:
        """Ends the workers and waits for them; the next job starts new ones. Does nothing where a job does not end
        within a second.
        """
        if not self.lock.acquire(timeout=1.0):
            return
        try:
            self._stop()
        finally:
            self.lock.release()

    def _start(self) -> int:
        memory = aligned_bytes(runner_ir.POOL_WORKERS + runner_ir.WORKER_BYTES * self.threads)
        memory[:] = 0
        words = memory.view(np.int64)
        spin = _SPIN_ROUNDS if self.threads <= available_cpus() else _SPIN_ROUNDS_CROWDED
        words[runner_ir.POOL_THREADS // 8] = self.threads
        words[runner_ir.POOL_SPIN_IDLE // 8] = spin
        words[runner_ir.POOL_SPIN_BARRIER // 8] = spin
        words[runner_ir.POOL_PATIENCE // 8] = spin
        _keep(memory)
        base = self._address = address_of(memory)
        for index in range(1, self.threads):
            at = runner_ir.POOL_WORKERS + runner_ir.WORKER_BYTES * index
            words[at // 8] = base
            words[at // 8 + 1] = index
            error = self._start_worker(base + at)
            if error:
                words[runner_ir.POOL_THREADS // 8] = index
                self._stop()
                raise ExecutionError(
                    f"the system grants {index} of {self.threads} threads ({os.strerror(error)}); ask for fewer threads"
                )
        return base

    def _start_worker(self, argument: int) -> int:
        handle = ctypes.c_void_p()
        attributes = (ctypes.c_int64 * 16)()  # pthread_attr_t: 56 bytes on x86-64, 64 on AArch64
        libc = ctypes.CDLL(None)
        libc.pthread_attr_init(attributes)
        libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(_STACK_BYTES))
        # signals go to Python's threads, so that Ctrl-C is seen by the one that waits for it
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _SYNCHRONOUS)
        try:
            error: int = libc.pthread_create(
                ctypes.byref(handle), attributes, ctypes.c_void_p(self._runner.worker), ctypes.c_void_p(argument)
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            libc.pthread_attr_destroy(attributes)
        if not error:
            self._handles.append(int(handle.value or 0))
        return error

    def _stop(self) -> None:
        if not self._address:
            return
        self._runner.stop(ctypes.c_int64(self._address))
        libc = ctypes.CDLL(None)
        for handle in self._handles:
            libc.pthread_join(ctypes.c_void_p(handle), None)
        self._address = 0
        self._handles = []


_lock = threading.Lock()
_runner: Runner | None = None
_pools: dict[int, Pool] = {}
_kept: list[np.ndarray] = []


def _keep(memory: np.ndarray) -> None:
    """A worker may look at its pool's words after the interpreter has let go of everything."""
    _kept.append(memory)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))


def load_runner(code: bytes | None = None) -> Runner:
    """The process's runner; the first call decides whether it comes from saved object code or is compiled."""
    global _runner
    with _lock:
        if _runner is None:
            _runner = Runner(native.compile_runner() if code is None else code)
        return _runner


def shared_pool(threads: int, runner: Runner) -> Pool:
    """The process's pool of that many threads, the caller included."""
    if not 2 <= threads <= MAX_THREADS:
        raise ExecutionError(f"a pool of {threads} threads; it may have 2 to {MAX_THREADS}")
    with _lock:
        if threads not in _pools:
            _pools[threads] = Pool(threads, runner)
        return _pools[threads]


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for pool in _pools.values():
        pool.forget()


def _at_exit() -> None:
    for pool in list(_pools.values()):
        pool.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
