"""Object code on disk, found by what it was made from."""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from mapsto.errors import FileError
from mapsto.files import written

_DIGEST_BYTES = 32
_warned: set[Path] = set()  # folders that a warning has told of


def default_folder() -> Path:
    """$MAPSTO_CACHE, else $XDG_CACHE_HOME/mapsto, else ~/.cache/mapsto. A user without a home gets one that cannot be
    written, and so is told.
    """
    named = os.environ.get("MAPSTO_CACHE")
    if named:
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mapsto"
    except RuntimeError:
        return Path(os.devnull) / "mapsto"


@dataclass(frozen=True)
class ObjectCache:
    """A folder of object files.

    A file that is missing, cut or altered is a miss; a folder that cannot be written is no error, but a warning, once.
    """

    folder: Path

    def get(self, key: str) -> bytes | None:
        try:
            stored = self._path(key).read_bytes()
        except OSError:
            return None
        digest, body = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
        return body if body and hashlib.sha256(body).digest() == digest else None

    def put(self, key: str, body: bytes) -> None:
        """A reader sees all of it or nothing; what a crash cuts short is a miss, so that nothing waits for the disk."""
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with written(path, durable=False) as file:
                file.write(hashlib.sha256(body).digest() + body)
        except OSError as error:
            self._warn(error.strerror or str(error))
        except FileError as error:
            self._warn(str(error))

    def _warn(self, reason: str) -> None:
        if self.folder in _warned:
            return
        _warned.add(self.folder)
        warnings.warn(
            f"compiled code cannot be kept in {self.folder} ({reason}): it is made again each time; "
            "MAPSTO_CACHE names another folder",
            RuntimeWarning,
            stacklevel=2,
        )

    def _path(self, key: str) -> Path:
        return self.folder / "objects" / key[:2] / f"{key[2:]}.o"


def key_of(*parts: str) -> str:
    """A name made from everything that the object code depends on."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
