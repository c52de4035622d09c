"""What a device with memory of its own must be able to do for a program to run on it (`runtime.walk`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

Memory = Any
"""A stretch of a device's memory, as its engine knows it."""

Launch = Callable[[Sequence[tuple[Memory, int]], Sequence[int], int], None]
"""Starts a function: (memory, offset in bytes) of each operand, sizes, extent. By one thread at a time."""


class Engine(Protocol):
    """A device with the functions of one program. What it is told is done in that order; only `read` and `wait` wait
    for it. Raises ExecutionError for what the device cannot do.
    """

    @property
    def name(self) -> str:
        """For messages."""

    def reserve(self, count: int) -> Memory:
        """At least so many bytes (0 too), at a multiple of `program.ALIGNMENT`; free again when nobody holds it."""

    def write(self, memory: Memory, offset: int, data: np.ndarray) -> None:
        """Copies an array, C-contiguous, to the device; it may be changed as soon as this returns."""

    def read(self, memory: Memory, offset: int, into: np.ndarray) -> None:
        """Copies bytes from the device into an array, C-contiguous."""

    def launcher(self, function: str) -> Launch:
        """A new one, that belongs to whoever asked for it."""

    def wait(self) -> None:
        """Until all is done."""
