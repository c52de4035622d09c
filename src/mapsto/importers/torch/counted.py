"""What is changed for the whole process while a module is traced, and is as it was when the last thread is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any


class WhileAnyone:
    """A context manager of the process, entered by the first thread that comes in and left by the last one: each of
    several putting back what it found would leave what another had set.
    """

    def __init__(self, change: Callable[[], AbstractContextManager[Any]]) -> None:
        self._change = change
        self._lock = threading.RLock()
        self._inside = 0
        self._entered: AbstractContextManager[Any] | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._entered = self._change()
                self._entered.__enter__()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside and self._entered is not None:
                    self._entered.__exit__(None, None, None)
