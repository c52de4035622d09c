"""External data: the files beside a model that hold its tensors, and none but those.

A location in a model file is untrusted: it names a file below the model's folder, without `..` and from no root, and
is opened part by part, following no link, so that nothing else on the machine can be read through a model. A download
cache keeps a model as links into a store (`snapshots/REVISION/model.data -> ../../blobs/DIGEST`): its user may name the
store's folder as the root that links have to stay in.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mapsto.errors import ModelError

_MOST_LINKS = 40  # as path_resolution(7) has it
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True)
class DataFiles:
    """The folder that external data lies in (None: the model was not given as a file), and the folder that links may
    not lead out of (None: links are refused). held: bytes of the model's own file, by locations that no file has.
    """

    folder: Path | None
    root: Path | None = None
    held: Mapping[str, np.ndarray] = field(default_factory=dict)

    def open(self, location: str, where: str) -> int:
        """A descriptor of the file at a location. Raises ModelError for one that may not be read."""
        if self.folder is None:
            raise ModelError(
                f"{where}: external data {location!r}, but the model was not given as a file: pass its path"
            )
        parts = location.replace("\\", "/").split("/")
        if not location or location.startswith(("/", "\\")) or ":" in location or "\0" in location or ".." in parts:
            raise ModelError(f"{where}: external data {location!r} must name a file inside the model's folder")
        parts = [part for part in parts if part not in ("", ".")]
        if not parts:
            raise ModelError(f"{where}: external data {location!r} names no file")
        where = f"{where}: external data {location!r}"
        try:
            if self.root is None:
                descriptor = _walk(self.folder, parts, None, where)
            else:
                root = self.root.resolve(strict=True)
                descriptor = _walk(root, [*_below(root, self.folder.resolve(strict=True), where), *parts], root, where)
        except OSError as error:
            raise ModelError(f"{where} cannot be read ({error.strerror})") from error
        return _plain(descriptor, where)


def _below(root: Path, folder: Path, where: str) -> Sequence[str]:
    if not folder.is_relative_to(root):
        raise ModelError(f"{where}: the model's folder {folder} does not lie in the data root {root}")
    return folder.relative_to(root).parts


def _walk(start: Path, parts: Sequence[str], root: Path | None, where: str) -> int:
    """A descriptor of the file that these parts lead to from a folder. Each is opened in the one before, as no link;
    where there is a root, what a link says is put in its place, and leads back to the root at most.
    """
    opened = [os.open(start, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
    try:
        left, links = list(parts), 0
        while left:
            part = left.pop(0)
            if part == "..":
                if len(opened) == 1:
                    raise ModelError(f"{where} is a link that leads out of the data root {root}")
                os.close(opened.pop())
                continue
            try:
                opened.append(os.open(part, _FLAGS, dir_fd=opened[-1]))
            except OSError as error:
                text = _link(part, opened[-1]) if error.errno in (errno.ELOOP, errno.EMLINK) else None
                if text is None:
                    raise
                links += 1
                if root is None:
                    raise ModelError(
                        f"{where} is a symbolic link, to {text}: data must lie in the model's folder itself. Copy it "
                        "there; or, where the model lies in a download cache, name the cache's folder as `data_root`"
                    ) from None
                if links > _MOST_LINKS:
                    raise ModelError(f"{where}: too many symbolic links") from None
                if text.startswith("/"):
                    text = _from_root(text, root, where)
                    while len(opened) > 1:
                        os.close(opened.pop())
                left = [p for p in text.split("/") if p not in ("", ".")] + left
        return opened.pop()
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _link(part: str, folder: int) -> str | None:
    try:
        return os.readlink(part, dir_fd=folder)
    except OSError:
        return None


def _from_root(text: str, root: Path, where: str) -> str:
    """What an absolute link says, as seen from the root."""
    if not Path(text).is_relative_to(root):
        raise ModelError(f"{where} is a link that leads out of the data root {root}, to {text}")
    return str(Path(text).relative_to(root))


def _plain(descriptor: int, where: str) -> int:
    """The descriptor, where it is of a regular file with one name."""
    status = os.fstat(descriptor)
    fault = None
    if not stat.S_ISREG(status.st_mode):
        fault = f"{where} is not a plain file"
    elif status.st_nlink > 1:
        fault = f"{where} is a hard link, which may lead out of the model's folder; copy the file"
    if fault is None:
        return descriptor
    os.close(descriptor)
    raise ModelError(fault)
