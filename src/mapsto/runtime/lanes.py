"""Threads that do one thing after the other, each for a device: of what it was given, what is first in its order."""

from __future__ import annotations

import atexit
import contextlib
import heapq
import itertools
import os
import queue
import threading
import weakref
from collections.abc import Callable

from mapsto.runtime.background import PATIENCE

LaneTask = Callable[[], None]
LaneOrder = tuple[int, ...]
_Put = tuple[LaneOrder, int, LaneTask]  # the number tells two of the same order apart


class DeviceThread:
    """A thread that does one thing after the other; it is started with the first, and once more in a forked child. It
    ends when nobody has the lane any more.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: queue.SimpleQueue[_Put | None] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._process = 0
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()

    def put(self, task: LaneTask, order: LaneOrder = ()) -> None:
        """order: what is less goes first, of what waits."""
        if self._process != os.getpid():
            with self._guard:
                if self._process != os.getpid():
                    self._begin()
        self._tasks.put((order, next(self._numbers), task))

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
            self._thread.join(PATIENCE)


def _work(tasks: queue.SimpleQueue[_Put | None]) -> None:
    waiting: list[_Put] = []
    while _taken(tasks, waiting):
        _do(heapq.heappop(waiting)[-1])


def _taken(tasks: queue.SimpleQueue[_Put | None], waiting: list[_Put]) -> bool:
    """Takes all that was put, one thing at least; False: there will be none any more."""
    with contextlib.suppress(queue.Empty):
        while True:
            put = tasks.get(block=not waiting)
            if put is None:
                return False
            heapq.heappush(waiting, put)
    return True


def _do(task: LaneTask) -> None:
    """Nothing of the task is kept. Tasks tell their errors themselves."""
    with contextlib.suppress(Exception):
        task()


_LANES: weakref.WeakSet[DeviceThread] = weakref.WeakSet()


@atexit.register
def _end_lanes() -> None:
    """At the end of the process: a thread inside native code would abort it. What waits is not begun any more."""
    for lane in list(_LANES):
        lane.end()
