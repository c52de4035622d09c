"""Threads that make something while runs go on, and the end of the process: it waits for them, and they are told."""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections.abc import Callable

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
