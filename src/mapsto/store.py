"""What is kept on disk from one process to the next: folders of entries by key, in the cache folder.

    $MAPSTO_CACHE/KIND/KEY.SUFFIX       or, where there are many, $MAPSTO_CACHE/KIND/KE/Y.SUFFIX

An entry is written whole or not at all (`mapsto.files`), and never changed. Nothing waits for a lock: what one process
removes, another may have open or mapped, and keeps. Each write sees to the bound: the entries whose last use is longest
ago go. The time of last use is the file's mtime, set anew by a use an hour later or more.

Entries may be machine code, so a folder is used only where nobody else can have written into it: its owner is this
user, and neither it nor the cache folder may be written by others.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mapsto.errors import FileError
from mapsto.files import remove_unfinished, written

VARIABLE = "MAPSTO_CACHE"
OFF = "off"
OFF_TOO = frozenset({OFF, "0", "no", "false", "none"})  # what people write for it, in any case of letters
_DIGEST_BYTES = 32
_TOUCH = 3600.0  # seconds after which a use is noted again
_SHARDS = 256
_SHARD = re.compile(r"[0-9a-f]{2}\Z")
_ENTRY = re.compile(r"[0-9a-f]{16,64}\Z")
_OTHERS = 0o022  # of a mode: others may write
_warned: set[Path] = set()  # cache folders that a warning has told of


def default_folder() -> Path | None:
    """$MAPSTO_CACHE, else $XDG_CACHE_HOME/mapsto, else ~/.cache/mapsto; None where MAPSTO_CACHE is `off` or another
    word of `OFF_TOO`. A user without a home gets one that cannot be written, and so is told.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return None if named.casefold() in OFF_TOO else Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mapsto"
    except RuntimeError:
        return Path(os.devnull) / "mapsto"


def fault_of(folder: Path) -> str:
    """Why entries may not be taken from a folder ("": they may): somebody else could have written into it. What is not
    there has no fault.
    """
    for each in (folder.parent, folder):
        try:
            status = os.stat(each)
        except FileNotFoundError:
            continue
        except OSError as error:
            return error.strerror or str(error)
        if not stat.S_ISDIR(status.st_mode):
            return f"{each} is no folder"
        if status.st_uid != os.geteuid():
            return f"{each} belongs to user {status.st_uid}, not to {os.geteuid()}, who runs this"
        if status.st_mode & _OTHERS:
            return f"{each} may be written by others; `chmod go-w {each}`, after a look at what is in it"
    return ""


def make_folder(folder: Path) -> None:
    """A folder that is only this user's, with those above it. Raises OSError."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)


@dataclass(frozen=True)
class Entry:
    """One file of a store: bytes, and when it was last used (seconds since 1970)."""

    path: Path
    bytes: int
    used: float


@dataclass(frozen=True)
class EntryStore:
    """Entries of one kind. root: the cache folder (None: nothing is kept). bound: bytes of all entries. sharded: in 256
    folders, each with a part of the bound, so that a write looks at few of many small files.
    """

    root: Path | None
    kind: str
    suffix: str
    bound: int
    sharded: bool = False

    # -- entries -------------------------------------------------------------------------------------------------------

    def find(self, key: str) -> Path | None:
        """The file of an entry, noted as used; None where there is none, or it may not be used (a warning says so)."""
        path = self._path(key)
        if path is None:
            return None
        try:
            used = path.stat().st_mtime
        except OSError:
            return None
        if fault := fault_of(self._folder):
            self._warn(fault)
            return None
        if abs(time.time() - used) > _TOUCH:
            with contextlib.suppress(OSError):  # a read-only disk
                os.utime(path)
        return path

    def write(self, key: str, parts: Sequence[Any]) -> bool:
        """Keeps an entry of these bytes-like parts; whether that went well. A warning, once, says why it did not.

        It is not waited for until it is on the disk: whoever reads an entry sees whether it is whole.
        """
        path, size = self._path(key), sum(memoryview(part).nbytes for part in parts)
        if path is None or size > self._share:
            return False
        try:
            if fault := self._prepared(path.parent):
                self._warn(fault)
                return False
            trim(self._entries_of(path.parent), self._share - size)  # before: so a kill leaves no more than the bound
            with written(path, durable=False) as file:
                for part in parts:
                    file.write(part)
        except OSError as error:
            self._warn(error.strerror or str(error))
            return False
        except FileError as error:
            self._warn(str(error))
            return False
        return True

    def get(self, key: str) -> bytes | None:
        """What `put` kept; None where it is missing, cut or altered."""
        path = self.find(key)
        try:
            stored = b"" if path is None else path.read_bytes()
        except OSError:
            return None
        digest, body = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
        return body if body and hashlib.sha256(body).digest() == digest else None

    def put(self, key: str, body: bytes) -> bool:
        """Keeps a few bytes with their checksum; whether that went well."""
        return self.write(key, [hashlib.sha256(body).digest(), body])

    def remove(self, key: str) -> None:
        """Removes an entry, as far as that can be done."""
        path = self._path(key)
        if path is not None and not fault_of(self._folder):
            with contextlib.suppress(OSError):
                path.unlink()

    # -- all of them ---------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Every entry, in no order. Those of a folder that is not this user's are none."""
        if self.root is None or fault_of(self._folder):
            return []
        return [entry for folder in self._folders() for entry in self._entries_of(folder)]

    def sweep(self) -> None:
        """Removes what writers that are no more have left unfinished."""
        if self.root is not None and not fault_of(self._folder):
            for folder in self._folders():
                remove_unfinished(str(folder))

    # -- within --------------------------------------------------------------------------------------------------------

    @property
    def _folder(self) -> Path:
        assert self.root is not None
        return self.root / self.kind

    @property
    def _share(self) -> int:
        """The bound of one folder."""
        return self.bound // _SHARDS if self.sharded else self.bound

    def _path(self, key: str) -> Path | None:
        if self.root is None:
            return None
        if self.sharded:
            return self._folder / key[:2] / f"{key[2:]}{self.suffix}"
        return self._folder / f"{key}{self.suffix}"

    def _folders(self) -> Iterator[Path]:
        if not self.sharded:
            yield self._folder
            return
        with contextlib.suppress(OSError), os.scandir(self._folder) as found:
            for each in found:
                if _SHARD.match(each.name) and each.is_dir(follow_symlinks=False):
                    yield Path(each.path)

    def _entries_of(self, folder: Path) -> list[Entry]:
        entries = []
        with contextlib.suppress(OSError), os.scandir(folder) as found:
            for each in found:
                name = each.name.removesuffix(self.suffix)
                if name == each.name or not _ENTRY.match(name):
                    continue
                with contextlib.suppress(OSError):  # gone meanwhile
                    status = each.stat(follow_symlinks=False)
                    entries.append(Entry(Path(each.path), status.st_size, status.st_mtime))
        return entries

    def _prepared(self, folder: Path) -> str:
        """Makes the folders of an entry where they are not there; why they may not be used. Raises OSError."""
        assert self.root is not None
        if fault := fault_of(self._folder):
            return fault
        make_folder(self.root)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if os.stat(self._folder).st_mode & 0o077:
            with contextlib.suppress(OSError):  # of an older version; nobody else could write there
                self._folder.chmod(0o700)
        folder.mkdir(mode=0o700, exist_ok=True)
        return ""

    def _warn(self, reason: str) -> None:
        assert self.root is not None
        if self.root in _warned:
            return
        _warned.add(self.root)
        warnings.warn(
            f"compiled code cannot be kept in {self.root} ({reason}): it is made again each time; "
            f"{VARIABLE} names another folder, or is `{OFF}`",
            RuntimeWarning,
            stacklevel=2,
        )


def trim(entries: Iterable[Entry], most: float, since: float | None = None) -> list[Entry]:
    """Removes entries until those left have `most` bytes together and were all used after `since`: the ones used
    longest ago first. Those that it removed.
    """
    ordered = sorted(entries, key=lambda entry: (entry.used, entry.path))
    total, gone = sum(entry.bytes for entry in ordered), []
    for entry in ordered:
        if total <= most and (since is None or entry.used >= since):
            break
        try:
            entry.path.unlink()
            gone.append(entry)
        except FileNotFoundError:  # another process was there first
            pass
        except OSError:
            continue
        total -= entry.bytes
    return gone
