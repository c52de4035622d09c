"""Executables in the cache folder: looked for before a compile, kept after it.

Two kinds of records lead to an executable's file. A *reference* is found by the path of a model, and says by stamps
that its files are as they were. A record of *content* is found by the digest of the model's own bytes, whatever it is
called and wherever it lies. Both name all files that were read, with digests of what was read. The file itself is found
by the digest of its header, which holds those of all that is in it, so no record can lead to another model's code.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mapsto.devices.cache import key_of
from mapsto.errors import CompileError, MapstoError, ModelError, VerifyError
from mapsto.files import is_keras_file
from mapsto.runtime import artifact
from mapsto.runtime.executable import Executable, load
from mapsto.session.cache.content import MOST_REGIONS, Files, ReadFile, ReadFiles, content_of
from mapsto.session.cache.key import Uncached, absolute, options_digest
from mapsto.session.request import Request
from mapsto.store import EntryStore, default_folder
from mapsto.witness import MODEL, Seen, Witness

EXECUTABLES, REFERENCES = "executables", "references"
BOUND = 4 << 30  # bytes of executables
_BOUND_OF_REFERENCES = 256 << 20
FOUND, KEPT = "found in the cache", "kept in the cache"
_NAMELESS = "model"  # what a model is called that was not given as a file


def executables(root: Any) -> EntryStore:
    """The executables of a cache folder (None: nothing is kept)."""
    return EntryStore(root, EXECUTABLES, ".mapsto", BOUND)


def references(root: Any) -> EntryStore:
    """The records that lead to them."""
    return EntryStore(root, REFERENCES, ".json", _BOUND_OF_REFERENCES, sharded=True)


@dataclass(frozen=True)
class Record:
    """The files that an executable was made from, the initializers that may be given to it as well, and its own file's
    name.
    """

    contents: ReadFiles
    listed: frozenset[str]
    name: str

    def to_bytes(self) -> bytes:
        files = {location: content.to_data() for location, content in self.contents.items()}
        return json.dumps({"files": files, "listed": sorted(self.listed), "name": self.name}).encode()


def _record(data: bytes | None) -> Record | None:
    """From what `to_bytes` gave; None for what is none."""
    if data is None:
        return None
    try:
        found = json.loads(data)
        contents = {str(location): ReadFile.of(content) for location, content in found["files"].items()}
        return Record(contents, frozenset(map(str, found["listed"])), str(found["name"]))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


@dataclass(frozen=True)
class Kept:
    """An executable, and the initializers that may be given to it as well."""

    executable: Executable
    listed: frozenset[str]


class Place:
    """Where the executable of one request is kept, or would be. Raises Uncached where it is not."""

    def __init__(self, asked: Request) -> None:
        self._asked = asked
        self._root = default_folder()
        if not asked.cache:
            raise Uncached("`cache` is off")
        if self._root is None or not BOUND:
            raise Uncached("the cache is off")
        model = asked.model
        if not isinstance(model, (str, os.PathLike, bytes, bytearray, memoryview)):
            raise Uncached(f"the model was given as a {type(model).__name__}, not as a file or its bytes")
        if is_keras_file(model):
            raise Uncached("a Keras file is traced by Keras and torch, which are no part of a key")
        self._digest = options_digest(asked)
        self._files: Files | None = None
        self._bytes: ReadFile | None = None  # of a model that was given as bytes
        self._stem = _NAMELESS
        if isinstance(model, (str, os.PathLike)):
            self._files = _files(asked)
            self._stem = os.path.splitext(os.path.basename(self._files.path))[0]
        else:
            self._bytes = ReadFile(((0, memoryview(model).nbytes),), hashlib.sha256(model).hexdigest(), None)
        self.witness = Witness() if self._files is not None else None

    # -- looking -------------------------------------------------------------------------------------------------------

    def find(self) -> Kept | None:
        """The executable of what is asked for; None where there is none that can be used."""
        try:
            record = self._known()
        except (MapstoError, OSError):  # a file that cannot be read: the compile says so
            return None
        return None if record is None else self._opened(record)

    def _known(self) -> Record | None:
        if self._files is None:
            assert self._bytes is not None
            return next((r for r in self._by_content(self._bytes.digest) if set(r.contents) == {MODEL}), None)
        kept = _record(references(self._root).get(self._reference()))
        if kept is not None and self._files.unchanged(kept.contents):
            return kept
        whole = self._files.whole()
        for record in (*([] if kept is None else [kept]), *self._by_content(whole.digest)):
            if (same := self._same(record, whole)) is not None:
                return same
        return None

    def _same(self, record: Record, whole: Seen) -> Record | None:
        """The record with today's stamps, where the files hold what it says; it is kept as this path's reference."""
        assert self._files is not None
        try:
            contents = self._files.same(record.contents, {MODEL: whole})
        except (MapstoError, OSError):
            return None
        if contents is None:
            return None
        found = replace(record, contents=contents)
        references(self._root).put(self._reference(), found.to_bytes())
        return found

    def _by_content(self, digest: str) -> Iterator[Record]:
        for name in ("", self._stem):
            record = _record(references(self._root).get(self._content(digest, name)))
            if record is not None:
                yield record

    def _opened(self, record: Record) -> Kept | None:
        """The executable that a record names. One that is damaged is removed, and a warning says so."""
        store = executables(self._root)
        path = store.find(record.name)
        if path is None:
            return None
        try:
            if artifact.name_of(path) != record.name:
                raise ModelError(f"{path}: damaged: its header is not the one that it is called by")
            return Kept(load(path, self._asked.threads), record.listed)
        except (ModelError, VerifyError, CompileError) as error:
            if not path.exists():  # it made way for others just now
                return None
            store.remove(record.name)
            warnings.warn(f"a compiled model in the cache is made again: {error}", RuntimeWarning, stacklevel=2)
            return None

    # -- keeping -------------------------------------------------------------------------------------------------------

    def keep(self, made: Kept) -> None:
        """Keeps what was compiled for the request. Raises Uncached with the reason where it is not kept."""
        exe = made.executable
        contents = self._read(exe)
        if options_digest(self._asked) != self._digest:
            raise Uncached("the machine's figures or the package were changed while it was compiled")
        try:
            parts = exe.parts()
        except MapstoError as error:
            raise Uncached(str(error)) from None
        name = artifact.name_of(parts[0])
        if not executables(self._root).write(name, parts):
            raise Uncached(f"it cannot be kept in {self._root}")
        record = Record(contents, made.listed, name).to_bytes()
        store = references(self._root)
        own = self._stem if exe.program.name == self._stem else ""
        store.put(self._content(contents[MODEL].digest, own), record)
        if self._files is not None:
            store.put(self._reference(), record)

    def _read(self, exe: Executable) -> dict[str, ReadFile]:
        """What the compile has read. Raises Uncached where it may have changed meanwhile."""
        if self._bytes is not None:
            return {MODEL: self._bytes}
        assert self._files is not None and self.witness is not None
        seen = self.witness.seen
        try:
            changed = [at for at, each in seen.items() if each.changed or self._files.stamp(at) != each.stamp]
        except (MapstoError, OSError) as error:
            raise Uncached(f"a file of the model has gone: {error}") from None
        if changed or MODEL not in seen:
            raise Uncached("the model's files changed while they were read")
        if sum(len(each.regions) for each in seen.values()) > MOST_REGIONS:
            raise Uncached("its data lies in too many pieces")
        return {at: content_of(each) for at, each in seen.items()}

    # -- keys ----------------------------------------------------------------------------------------------------------

    def _reference(self) -> str:
        assert self._files is not None
        return key_of("path", self._files.path, self._digest)

    def _content(self, digest: str, name: str) -> str:
        """name: the file's, where the program is called by it; "" where the model has a name of its own."""
        return key_of("content", digest, name, self._digest)


def _files(asked: Request) -> Files:
    try:
        root = None if asked.data_root is None else absolute(asked.data_root, "data_root")
        return Files(absolute(asked.model, "model"), root)
    except (MapstoError, OSError) as error:
        raise Uncached(f"the model's path cannot be told: {error}") from None
