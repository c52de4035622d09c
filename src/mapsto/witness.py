"""Which files a compile has read: their stamps and a digest of the very bytes, for a cache that must know them again.

Whoever reads a file that decides what is compiled says so here; the witness of a compile is carried by a context
variable, as its budget is (`mapsto.budget`).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Stamp = tuple[int, int, int, int, int]
"""(device, inode, size, mtime in ns, ctime in ns) of a file"""

MODEL = ""
"""The location of the model's own file."""


def stamp_of(status: os.stat_result) -> Stamp:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Seen:
    """One file: its stamp before anything of it was read, the time before that (ns), and what was read, in order."""

    def __init__(self, descriptor: int) -> None:
        self.time = time.time_ns()
        self.stamp = stamp_of(os.fstat(descriptor))
        self.changed = False
        self.regions: list[tuple[int, int]] = []
        self._known: set[tuple[int, int]] = set()
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        """SHA-256 of all bytes that were read, in the order that they were read in."""
        return self._digest.hexdigest()

    def read(self, offset: int, data: Any, anew: bool = True) -> None:
        """Is told of bytes that are used; anew: they were read just now, and not found to be those of another name of
        the file.
        """
        region = offset, len(data)
        if anew or region not in self._known:
            self._known.add(region)
            self.add(offset, [data])

    def add(self, offset: int, pieces: Iterable[Any]) -> None:
        """A region that comes in pieces."""
        length = 0
        for piece in pieces:
            self._digest.update(piece)
            length += len(piece)
        self.regions.append((offset, length))


class Witness:
    """Files by their location: that of external data below the model's folder, or MODEL."""

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}

    def opened(self, location: str, descriptor: int) -> Seen:
        """Is told of a file before anything of it is read, each time that it is opened."""
        found = self.seen.get(location)
        if found is None:
            found = self.seen[location] = Seen(descriptor)
        elif found.stamp != stamp_of(os.fstat(descriptor)):
            found.changed = True
        return found


_CURRENT: ContextVar[Witness | None] = ContextVar("mapsto_witness", default=None)


def current() -> Witness | None:
    """The witness of the compile that is going on; None where nobody wants to know."""
    return _CURRENT.get()


@contextmanager
def witnessing(witness: Witness | None) -> Iterator[None]:
    """What is read inside is told to this witness."""
    token = _CURRENT.set(witness)
    try:
        yield
    finally:
        _CURRENT.reset(token)
