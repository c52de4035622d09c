"""What a device with memory of its own must be able to do for a program to run on it (`runtime.walk`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

Memory = Any
"""A stretch of a device's memory, as its engine knows it."""


class Launcher(Protocol):
    """A function of an engine, to be started again and again. By one thread at a time."""

    def set(self, operands: Sequence[tuple[Memory, int]], dims: Sequence[int], extent: int, grain: int) -> None:
        """What it works on from its next start on: (memory, offset in bytes) of each operand, sizes, extent (above 0).
        `grain`: the least share of the extent that is worth a unit of its own.
        """

    def start(self) -> None:
        """Starts it; it has been `set` before."""

    def timed(self) -> int:
        """Starts it and waits for it. The nanoseconds that the device took."""


class Engine(Protocol):
    """A device with the functions of one program. What it is told is done in that order; only `read` and `timed` wait
    for it. Raises ExecutionError for what the device cannot do.
    """

    @property
    def name(self) -> str:
        """For messages."""

    def code(self) -> bytes | None:
        """What a file has of the functions, from which the device makes them again; None: it cannot."""

    def reserve(self, count: int) -> Memory:
        """At least so many bytes (0 too), at a multiple of `program.ALIGNMENT`; free again when nobody holds it."""

    def write(self, memory: Memory, offset: int, data: np.ndarray) -> Any:
        """Copies an array, C-contiguous, to the device. It may be changed after a later `read`, or when nobody holds
        what this returns any more: letting go of that waits.
        """

    def read(self, *wanted: tuple[Memory, int, np.ndarray]) -> None:
        """Copies bytes from the device, from an offset on, into each array, C-contiguous."""

    def launcher(self, function: str) -> Launcher:
        """A new one, that belongs to whoever asked for it."""
