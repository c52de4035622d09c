"""Threads that do one thing after the other, each for a device."""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import threading
import weakref
from collections.abc import Callable

_PATIENCE = 60.0  # seconds that the end of a process waits for a task

LaneTask = Callable[[], None]


class DeviceThread:
    """A thread that does one thing after the other; it is started with the first, and once more in a forked child. It
    ends when nobody has the lane any more.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: queue.SimpleQueue[LaneTask | None] = queue.SimpleQueue()
        self._process = 0
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()

    def put(self, task: LaneTask) -> None:
        if self._process != os.getpid():
            with self._guard:
                if self._process != os.getpid():
                    self._begin()
        self._tasks.put(task)

    def _begin(self) -> None:
        self._tasks = queue.SimpleQueue()
        weakref.finalize(self, self._tasks.put, None)
        self._thread = threading.Thread(target=_work, args=(self._tasks,), name=f"mapsto {self._name}", daemon=True)
        self._thread.start()
        _LANES.add(self)
        self._process = os.getpid()

    def end(self) -> None:
        """Waits for the task that is being done; the others are dropped."""
        if self._thread is not None and self._process == os.getpid():
            with contextlib.suppress(queue.Empty):
                while True:
                    self._tasks.get_nowait()
            self._tasks.put(None)
            self._thread.join(_PATIENCE)


def _work(tasks: queue.SimpleQueue[LaneTask | None]) -> None:
    while _is_done(tasks.get()):
        pass


def _is_done(task: LaneTask | None) -> bool:
    """Does a task, of which nothing is kept; False: there will be none any more. Tasks tell their errors themselves."""
    if task is not None:
        with contextlib.suppress(Exception):
            task()
    return task is not None


_LANES: weakref.WeakSet[DeviceThread] = weakref.WeakSet()


@atexit.register
def _end_lanes() -> None:
    """At the end of the process: a thread inside native code would abort it. What waits is not begun any more."""
    for lane in list(_LANES):
        lane.end()
