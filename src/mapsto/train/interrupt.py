"""Ctrl-C in the middle of a training: a step is done to its end first, so that the state is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Interruption:
    """While it is entered, an interruption within `held` work is noted, and raised as KeyboardInterrupt when that is
    done; outside of it, it is raised at once, and a second one always is. Only the main thread is interrupted by
    signals; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self._held = self._asked = False
        self._before: object = None
        self._installed = False

    def __enter__(self) -> Interruption:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._on_signal)
            self._installed = True
        return self

    def __exit__(self, *raised: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._before)  # type: ignore[arg-type]

    def hold(self) -> None:
        self._held = True

    def release(self) -> None:
        """Raises KeyboardInterrupt where one was noted."""
        self._held = False
        if self._asked:
            self._asked = False
            raise KeyboardInterrupt

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if not self._held or self._asked:
            raise KeyboardInterrupt
        self._asked = True
