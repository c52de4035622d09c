"""Threads that make something while runs go on, and the end of the process: it waits for them, and they are told."""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")

_NICE = 10  # of 19 (`man 7 sched`): about a tenth of a processor that a run wants as well
PATIENCE = 60.0  # seconds that the end of a process waits for a thread

_ENDING: list[bool] = []
_THREADS: set[threading.Thread] = set()


def in_background(task: Callable[[], None], name: str) -> None:
    """A thread for one task, which looks at `is_ending` now and then. Raises RuntimeError where none is to be had."""

    def work() -> None:
        try:
            task()
        finally:
            _THREADS.discard(thread)

    thread = threading.Thread(target=work, name=f"mapsto {name}", daemon=True)
    thread.start()
    _THREADS.add(thread)
    if not thread.is_alive():  # it has ended before it was in the set
        _THREADS.discard(thread)


def aside(task: Callable[[], _T]) -> _T:
    """What a task gives, done by a thread that makes way for all others, so that runs take hardly longer for it. That
    thread is the task's alone: a lower priority is for good. What is measured must not be done so.
    """
    found: Future[_T] = Future()
    context = contextvars.copy_context()

    def work() -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICE)
        try:
            found.set_result(context.run(task))
        except BaseException as error:
            found.set_exception(error)

    try:
        threading.Thread(target=work, name="mapsto aside", daemon=True).start()
    except RuntimeError:  # no thread is to be had
        return task()
    return found.result()


def is_ending() -> bool:
    """Whether the process ends: what is made in the background should stop."""
    return bool(_ENDING)


@atexit.register
def _end() -> None:
    """A thread inside native code, or waiting for a compile worker, would be torn down with the interpreter."""
    _ENDING.append(True)
    for thread in list(_THREADS):
        with contextlib.suppress(RuntimeError):  # after a fork: it is the parent's
            thread.join(PATIENCE)
