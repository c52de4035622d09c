"""Worker threads: one pool a process and thread count, shared by all executables.

Workers are native threads that never touch Python. A pool works on one job at a time; callers wait for their turn
inside the runner (see `pool_ir`), so no Python code ever runs on a thread that holds a pool. Nothing here is under a
lock of Python's either: a signal handler or finaliser may come between any two lines and run or load a model itself.
After a fork the child has the parent's memory but none of its threads, so it starts workers of its own when it first
needs them.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
from collections.abc import Callable

import numpy as np

from mapsto.errors import ExecutionError
from mapsto.runtime import native, pool_ir
from mapsto.runtime.arrays import address_of, aligned_bytes
from mapsto.runtime.cpus import MAX_THREADS, available_cpus

# Rounds of waiting (11 to 25 ns each) before a thread sleeps: 0.4 to 1 ms, as uneven shares take; next to none where
# threads outnumber processors, as the one that is waited for may need this one's processor.
_SPIN_ROUNDS = 40000
_SPIN_ROUNDS_CROWDED = 20
_STOP_TURNS = 20  # of `pool_ir.TURN_NS`: a second
_SYNCHRONOUS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}


class Runner:
    """The compiled runner, loaded once a process and kept to its end."""

    def __init__(self, code: bytes) -> None:
        library = native.Library([code], [native.RUN, native.STOP])
        library.keep_for_ever()
        self.run: Callable[[ctypes.c_int64], int] = native.call_word(library.addresses[native.RUN])
        self.stop: Callable[[ctypes.c_int64], int] = native.call_word(library.addresses[native.STOP])


class Pool:
    """`threads` - 1 workers beside the caller; the runner starts them with the first job. `address` is where the native
    pool is: to be read anew for each call of the runner, as a fork may come between two.
    """

    def __init__(self, threads: int, runner: Runner) -> None:
        self.threads = threads
        self._runner = runner
        self._words = _native_pool(threads)
        self.address = address_of(self._words)

    def forget(self) -> None:
        """In a forked child: the workers are the parent's, and this memory is in whatever state the fork found. A run
        of the forking thread may go on in the child with the old address: it is told to read the new one.
        """
        self._words[pool_ir.POOL_GONE // 8] = 1
        self._words = _native_pool(self.threads)
        self.address = address_of(self._words)

    def stop(self) -> None:
        """Ends the workers and waits for them; the next job starts new ones. Does nothing where a job does not pause
        within a second.
        """
        for _ in range(_STOP_TURNS):
            if self._runner.stop(ctypes.c_int64(self.address)) == 0:
                return

    def refusal(self, error: int) -> ExecutionError:
        """What JOB_ERROR says: the errno of starting a thread, and in the upper half how many there are without it."""
        reason = os.strerror(error & 0xFFFFFFFF)
        return ExecutionError(
            f"the system grants {error >> 32} of {self.threads} threads ({reason}); ask for fewer threads"
        )


def _native_pool(threads: int) -> np.ndarray:
    memory = aligned_bytes(pool_ir.POOL_WORKERS + pool_ir.WORKER_BYTES * threads)
    memory[:] = 0
    words = memory.view(np.int64)
    spin = _SPIN_ROUNDS if threads <= available_cpus() else _SPIN_ROUNDS_CROWDED
    words[pool_ir.POOL_THREADS // 8] = threads
    words[pool_ir.POOL_SPIN_IDLE // 8] = spin
    words[pool_ir.POOL_SPIN_BARRIER // 8] = spin
    words[pool_ir.POOL_PATIENCE // 8] = spin
    blocked = signal.valid_signals() - _SYNCHRONOUS
    words[pool_ir.POOL_SIGNALS // 8 :][:1].view(np.uint64)[0] = sum(1 << (number - 1) for number in blocked)
    for index in range(1, threads):
        at = pool_ir.POOL_WORKERS + pool_ir.WORKER_BYTES * index
        words[at // 8] = address_of(memory)
        words[at // 8 + 1] = index
    # a worker may look at its pool's words after the interpreter has let go of everything
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(words))
    return words


_runners: dict[str, Runner] = {}
_pools: dict[int, Pool] = {}


def load_runner(code: bytes | None = None) -> Runner:
    """The process's runner; the first call decides whether it comes from saved object code or is compiled."""
    found = _runners.get("")
    # two callers at once make two, of which one is taken: no lock, which a signal handler could find taken
    return found or _runners.setdefault("", Runner(native.compile_runner() if code is None else code))


def shared_pool(threads: int, runner: Runner) -> Pool:
    """The process's pool of that many threads, the caller included."""
    if not 2 <= threads <= MAX_THREADS:
        raise ExecutionError(f"a pool of {threads} threads; it may have 2 to {MAX_THREADS}")
    return _pools.get(threads) or _pools.setdefault(threads, Pool(threads, runner))


def _after_fork() -> None:
    for pool in list(_pools.values()):
        pool.forget()


def _at_exit() -> None:
    for pool in list(_pools.values()):
        pool.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
