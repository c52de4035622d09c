"""Object code on disk, found by what it was made from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from mapsto.store import EntryStore

KIND = "objects"
BOUND = 1 << 30  # bytes


def objects(root: Path | None) -> EntryStore:
    """The object files of a cache folder (None: nothing is kept)."""
    return EntryStore(root, KIND, ".o", BOUND, sharded=True)


@dataclass(frozen=True)
class ObjectCache:
    """Object files in a cache folder.

    A file that is missing, cut or altered is a miss; a folder that cannot be used is no error, but a warning, once.
    """

    folder: Path | None

    def get(self, key: str) -> bytes | None:
        return objects(self.folder).get(key)

    def put(self, key: str, body: bytes) -> None:
        """A reader sees all of it or nothing; what a crash cuts short is a miss, so that nothing waits for the disk."""
        objects(self.folder).put(key, body)


def key_of(*parts: str) -> str:
    """A name made from everything that the object code depends on."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")  # a path may be any bytes
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
