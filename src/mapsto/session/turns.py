"""What is made in the background rests while devices are measured: it takes time of all of them, so that one that is as
quick as it was would look slow for as long as something is made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mapsto.budget import giving_up_when
from mapsto.runtime.background import is_ending

_PATIENCE = 0.5  # seconds that a measurement waits for what is made to come to a step
_LONGEST = 10.0  # seconds that it rests: a device that hangs while it is measured holds nobody up for ever


class Turns:
    """Making and measuring, of which the latter comes first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._measuring = self._making = self._resting = 0

    @contextmanager
    def making(self) -> Iterator[None]:
        """Around what is made: it rests at steps of its meter (`budget`), and by `rest`."""
        with self._changed:
            self._making += 1
        try:
            with giving_up_when(self.rest):
                yield
        finally:
            with self._changed:
                self._making -= 1
                self._changed.notify_all()

    def rest(self) -> bool:
        """Waits while something is measured. True: what is made is given up, as the process ends."""
        if self._measuring:  # looked at often, and mostly 0
            with self._changed:
                self._resting += 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._measuring, _LONGEST)
                self._resting -= 1
        return is_ending()

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Around what is measured: nothing is made meanwhile."""
        with self._changed:
            self._measuring += 1
            self._changed.wait_for(lambda: self._resting >= self._making, _PATIENCE)
        try:
            yield
        finally:
            with self._changed:
                self._measuring -= 1
                self._changed.notify_all()

    def measured(self, probe: Callable[[], float]) -> Callable[[], float]:
        """The probe, while nothing is made."""

        def measure() -> float:
            with self.measuring():
                return probe()

        return measure
