"""The files that an executable was made from, and whether they are still the same.

A file whose stamp (device, inode, size, mtime, ctime) is what it was when it was read holds what it held: a change
sets its ctime, which no program can set. That is so only where the file had been left alone for longer than a tick of
the clock when it was read: one that is changed again within the same tick would have the same stamp. So the stamp of a
file that was changed just before is not kept, and its bytes are compared instead ("racily clean" entries of Git's index
are the same thought).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mapsto.files import plain_file
from mapsto.importers.external import DataFiles
from mapsto.session.cache.key import TICK
from mapsto.witness import MODEL, Seen, Stamp, stamp_of

_CHUNK = 1 << 22  # bytes
MOST_REGIONS = 100_000


@dataclass(frozen=True)
class ReadFile:
    """What was read of one file: (offset, length) of each region in order, SHA-256 of all of them one after another;
    the file's stamp where it can be trusted.
    """

    regions: tuple[tuple[int, int], ...]
    digest: str
    stamp: Stamp | None

    def to_data(self) -> list[Any]:
        return [[list(region) for region in self.regions], self.digest, self.stamp]

    @staticmethod
    def of(data: Any) -> ReadFile:
        """From what `to_data` gave. Raises TypeError, ValueError for what is none."""
        regions, digest, stamp = data
        if stamp is not None:
            device, inode, size, mtime, ctime = (int(word) for word in stamp)
            stamp = device, inode, size, mtime, ctime
        return ReadFile(tuple((int(offset), int(length)) for offset, length in regions), str(digest), stamp)


ReadFiles = Mapping[str, ReadFile]
"""By location, as `mapsto.witness` has it."""


def content_of(seen: Seen) -> ReadFile:
    """What was seen of a file; its stamp only where nothing could have changed it since without changing that."""
    changed = max(seen.stamp[3:])
    return ReadFile(tuple(seen.regions), seen.digest, seen.stamp if changed + TICK <= seen.time else None)


@dataclass(frozen=True)
class Files:
    """The model's file and the data beside it. path: of the model. root: a folder that links may lead into."""

    path: str
    root: str | None = None

    @contextlib.contextmanager
    def open(self, location: str) -> Iterator[int]:
        """A descriptor of one of them. Raises ModelError where it may not be read."""
        if location == MODEL:
            with plain_file(self.path, "model") as file:
                yield file.fileno()
            return
        folder = Path(os.path.dirname(self.path))
        descriptor = DataFiles(folder, None if self.root is None else Path(self.root)).open(location, self.path)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def stamp(self, location: str) -> Stamp:
        """Raises ModelError, OSError."""
        with self.open(location) as descriptor:
            return stamp_of(os.fstat(descriptor))

    def unchanged(self, contents: ReadFiles) -> bool:
        """Whether each file is known, by its stamp alone, to hold what it held. Raises ModelError, OSError."""
        return MODEL in contents and all(
            each.stamp is not None and self.stamp(location) == each.stamp for location, each in contents.items()
        )

    def whole(self) -> Seen:
        """The model's file, read to its end. Raises ModelError, OSError."""
        return self._read(MODEL, None)

    def same(self, contents: ReadFiles, known: Mapping[str, Seen]) -> dict[str, ReadFile] | None:
        """These contents with today's stamps, where each file holds what it held; None where one does not. known: what
        has been read of them already. Raises ModelError, OSError.
        """
        found = {}
        for location, content in contents.items():
            seen = known.get(location) or self._read(location, content.regions)
            if seen.digest != content.digest or tuple(seen.regions) != content.regions:
                return None
            if self.stamp(location) != seen.stamp:
                return None  # it is being changed
            found[location] = content_of(seen)
        return found

    def _read(self, location: str, regions: Sequence[tuple[int, int]] | None) -> Seen:
        with self.open(location) as descriptor:
            seen = Seen(descriptor)
            for offset, length in [(0, seen.stamp[2])] if regions is None else regions:
                seen.add(offset, _pieces(descriptor, offset, length))
            return seen


def _pieces(descriptor: int, offset: int, length: int) -> Iterator[bytes]:
    """The bytes of a region, piece by piece, as far as the file goes."""
    end = offset + length
    while offset < end and (piece := os.pread(descriptor, min(_CHUNK, end - offset), offset)):
        yield piece
        offset += len(piece)
