"""One run of a division: which of its parts can be done next, and how it ended.

A part can be done when those that it waits for are done, and the part before it on its device. So the parts of a run
that are on one device are done in the order of the whole, whatever is ready first; while one of them waits for another
device, that one may go on with another run.

There is no lock: an interrupt (Ctrl-C) may come anywhere, and could leave one that nobody releases. What several
threads change is changed by single steps of the interpreter: of those that take the last of a list, each gets another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from queue import SimpleQueue

import numpy as np

from mapsto.runtime.divisions import CurrentDivision


class DivisionRun:
    """of: what is run. values, sizes: so far, by name. number: of the run; those with less go first on a device."""

    def __init__(
        self, number: int, of: CurrentDivision, values: dict[str, np.ndarray], sizes: dict[str, int],
        parts: Sequence[int],
    ) -> None:  # fmt: skip
        """parts: those of the division that this run does."""
        self.number, self.of, self.values, self.sizes = number, of, values, sizes
        self._parts = parts
        self._missing = {k: list(range(of.waits_for[k])) for k in parts}
        self._left = list(range(len(parts)))
        self._errors: list[BaseException] = []
        self._is_over = not parts
        self._said: SimpleQueue[int | None] = SimpleQueue()  # to the one who waits for the end
        if not parts:
            self._said.put(None)

    def first(self) -> list[int]:
        """Parts that wait for nothing."""
        return [k for k in self._parts if not self.of.waits_for[k]]

    def done(self, k: int) -> Iterator[int]:
        """A part is done: those that can be done now."""
        for other in self.of.followers[k]:
            if self._missing[other].pop() == 0:
                yield other
        if self._left.pop() == 0:
            self._is_over = True
            self._said.put(None)

    def stop(self, error: BaseException) -> None:
        """Nothing of it is begun any more. The first error counts."""
        self._errors.append(error)
        self._is_over = True
        self._said.put(None)

    @property
    def is_stopped(self) -> bool:
        return bool(self._errors)

    def give(self, k: int) -> None:
        """A part for the thread that waits for the end."""
        self._said.put(k)

    def given(self) -> Iterator[int]:
        """Parts that are to be done by whoever waits for the end, until it is there."""
        while not self._is_over:
            k = self._said.get()
            if k is not None and not self._errors:
                yield k

    def result(self) -> None:
        """Waits for the end, where nothing is given to who waits; raises what stopped it."""
        for k in self.given():
            raise AssertionError(f"part {k} was given to nobody")
        error = self._errors[0] if self._errors else None
        try:
            if error is not None:
                raise error
        finally:
            del error  # which holds this frame
