"""Files: every one that mapsto writes is written here, whole or not at all; and only plain files are read as models.

A regular file (or a new one) is written under a name of its own in the same folder, synced, and renamed over the
target, so that a reader or a crash sees the old content or the new. A symbolic link stays, and its target is replaced.
What is no regular file (a device, a pipe, /dev/stdout) is written in place.

A writer that is killed leaves its unfinished file. Writers hold a lock (flock(2)) on theirs as long as they live, so
the next writer into that folder knows those that nobody holds any more, and removes them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import re
import stat
from collections.abc import Iterator
from typing import IO, Any

from mapsto.errors import ArgumentError, FileError, ModelError

Path = str | os.PathLike[str]

_KERAS_SUFFIX = ".keras"

_UNFINISHED = ".mapsto-unfinished-"
_UNFINISHED_NAME = re.compile(re.escape(_UNFINISHED) + r"[0-9a-f]{16}\Z")
_MOST_LINKS = 40  # as path_resolution(7) has it
_DESCRIPTOR = re.compile(r"/proc/(\d+)(?:/task/\d+)?/fd/(\d+)\Z")

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def name_of(path: Any, what: str) -> str:
    """A path as text. Raises ArgumentError for what is none, FileError for what names no file."""
    try:
        name = os.fsdecode(path)
    except Exception:  # anybody's class may be here
        raise ArgumentError(f"{what}: expected a path, got {type(path).__name__}") from None
    if not name or "\0" in name:
        raise FileError(f"{what}: {name!a} is no name of a file")
    return name


def is_keras_file(model: Any) -> bool:
    """Whether a model is the path of a file that is read by way of Keras. Nothing is raised, whatever it is."""
    if not isinstance(model, (str, os.PathLike)):
        return False
    try:
        return os.fsdecode(model).endswith(_KERAS_SUFFIX)
    except Exception:  # anybody's class may be here
        return False


# -- writing -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def written(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """A binary file to write into, front to back; what was written is at `path` when the block ends well, and `path` is
    as before when it does not.

    durable: on the disk when this returns, not only in the system's memory. Raises FileError, ArgumentError.
    """
    name = name_of(path, "the file to write")
    try:
        with _opened_to_write(name, durable) as file:
            yield file
    except OSError as error:
        raise FileError(f"{name} cannot be written: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Writes a text (UTF-8) as `written` does. Raises FileError."""
    with written(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def check_writable(path: Path) -> None:
    """Sees beforehand whether `written` will find a folder to write into, so that no long work is done in vain.

    Raises FileError where it will not.
    """
    name = name_of(path, "the file to write")
    try:
        target = _target_of(name)
        if isinstance(target, int):
            os.close(target)
            return
        status = _status_of(target)
        if status is None or stat.S_ISREG(status.st_mode):
            _check_replaceable(target, status)
        elif stat.S_ISDIR(status.st_mode):
            raise FileError(f"{name} cannot be written: it is a folder; name a file in it")
    except OSError as error:
        raise FileError(f"{name} cannot be written: {error.strerror or error}") from error


def _check_replaceable(target: str, before: os.stat_result | None) -> None:
    folder = os.path.dirname(target) or "."
    if not os.path.isdir(folder):
        raise FileError(f"{target} cannot be written: there is no folder {folder}")
    if before is not None and not os.access(target, os.W_OK):
        raise FileError(f"{target} cannot be written: it is read-only")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FileError(f"{target} cannot be written: this process may make no file in {folder}")


@contextlib.contextmanager
def _opened_to_write(path: str, durable: bool) -> Iterator[IO[bytes]]:
    target = _target_of(path)
    if isinstance(target, int):
        with io.BufferedWriter(_InPlace(target, "wb")) as file:
            yield file
        return
    status = _status_of(target)
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise FileError(f"{path} cannot be written: it is a folder; name a file in it")
    if status is not None and not stat.S_ISREG(status.st_mode):
        descriptor = os.open(target, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
        with io.BufferedWriter(_InPlace(descriptor, "wb")) as file:
            yield file
        return
    with _replacing(target, status, durable) as file:
        yield file


class _InPlace(io.FileIO):
    """Written front to back only: a device says that it can go back, and does not (/dev/null is always at 0)."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: Any) -> int:
        raise io.UnsupportedOperation("seek")

    def tell(self) -> int:
        raise io.UnsupportedOperation("tell")


def _target_of(path: str) -> str | int:
    """The path behind symbolic links; or, where they lead to an open file of a process, a descriptor of it.

    Links are followed one by one, since those under /proc do not lead where their text says: /dev/stdout is a link to
    /proc/self/fd/1, whose text may be `pipe:[4711]`.
    """
    for _ in range(_MOST_LINKS):
        folder = os.path.realpath(os.path.dirname(path) or ".")
        whole = os.path.join(folder, os.path.basename(path))
        if opened := _DESCRIPTOR.match(whole):
            if int(opened[1]) == os.getpid():
                return os.dup(int(opened[2]))
            return os.open(whole, os.O_WRONLY | os.O_TRUNC | os.O_NOCTTY | os.O_CLOEXEC)
        if not os.path.islink(whole):
            return whole
        path = os.path.join(folder, os.readlink(whole))
    raise FileError(f"{path} cannot be written: too many symbolic links")


def _status_of(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _replacing(target: str, before: os.stat_result | None, durable: bool) -> Iterator[IO[bytes]]:
    """A new file that takes the place of the target when the block ends well, with the mode and owner of the old."""
    _check_replaceable(target, before)
    folder = os.path.dirname(target) or "."
    remove_unfinished(folder)
    descriptor, temporary = _new_file(folder, 0o666 if before is None else 0o600)
    renamed = False
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if before is not None:
                _take_after(descriptor, before)
            if durable:
                os.fsync(descriptor)
            os.replace(temporary, target)  # the lock is held until nobody knows the file by that name
            renamed = True
    finally:
        if not renamed:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
    if durable:
        _sync_folder(folder)


def _new_file(folder: str, mode: int) -> tuple[int, str]:
    """(descriptor, path) of a new file in the folder, locked as long as it is open."""
    while True:
        path = os.path.join(folder, f"{_UNFINISHED}{os.urandom(8).hex()}")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        with contextlib.suppress(OSError):  # some file systems have no locks: there nothing is ever removed as stale
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, path
        os.close(descriptor)  # another writer took it for a stale one before it was locked


def _take_after(descriptor: int, before: os.stat_result) -> None:
    """Owner and mode of the file that is replaced, as far as this process may set them."""
    now = os.fstat(descriptor)
    mode = stat.S_IMODE(before.st_mode)
    if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        try:
            os.fchown(descriptor, before.st_uid, before.st_gid)
        except OSError:
            mode &= ~(stat.S_ISUID | stat.S_ISGID)  # they would be another's
            with contextlib.suppress(OSError):
                os.fchown(descriptor, -1, before.st_gid)
    os.fchmod(descriptor, mode)


def _sync_folder(folder: str) -> None:
    with contextlib.suppress(OSError):  # not every file system syncs folders
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_unfinished(folder: str) -> None:
    """Removes what writers that are no more have left unfinished in a folder; never what a living one holds."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _UNFINISHED_NAME.match(entry.name):
                with contextlib.suppress(OSError):
                    _remove_if_nobodys(entry.path)


def _remove_if_nobodys(path: str) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError: its writer lives
            os.unlink(path)
    finally:
        os.close(descriptor)


# -- reading -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def plain_file(path: Path, what: str) -> Iterator[IO[bytes]]:
    """A regular file, open for reading. What is none (a folder, pipe, socket, device) is refused at once,
    without waiting for it.

    what: what the file should be, for messages. Raises ModelError, for what goes wrong inside the block as well.
    """
    name = name_of(path, f"the {what} file")
    try:
        with os.fdopen(_open_to_read(name, what), "rb") as file:
            yield file
    except OSError as error:
        raise ModelError(f"{name}: cannot be read ({error.strerror or error})") from error


def _open_to_read(name: str, what: str) -> int:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # open(2) has no other word for a socket
            raise ModelError(f"{name}: cannot be read (it is a socket or a device, not a {what} file)") from error
        raise
    kind = kind_of(os.fstat(descriptor).st_mode)
    if kind is None:
        return descriptor
    os.close(descriptor)
    raise ModelError(f"{name}: cannot be read (it is {kind}, not a {what} file)")


def kind_of(mode: int) -> str | None:
    """What something is that is no regular file."""
    if stat.S_ISREG(mode):
        return None
    return next((kind for test, kind in _KINDS if test(mode)), "no regular file")


def taken_for(head: bytes) -> str | None:
    """What a file is that is taken for a model by mistake, and what to do, by its first bytes (64 tell); None where
    they may be a model's.
    """
    return next((said for begins, said in _TAKEN_FOR if head.startswith(begins)), None)


_TAKEN_FOR = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, which stands for the file that was not downloaded; fetch it with `git lfs pull`",
    ),
    (b"mapsto\x00", "a compiled mapsto model; load it with `mapsto.load`, or call it NAME.mapsto for `mapsto run`"),
    (b"PK\x03\x04", "a zip archive (a PyTorch checkpoint, an npz file, a packed model?); unpack it, or export to ONNX"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "compressed with gzip; unpack it with `gunzip`"),
    (b"BZh", "compressed with bzip2; unpack it with `bunzip2`"),
    (b"\xfd7zXZ\x00", "compressed with xz; unpack it with `unxz`"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it with `unzstd`"),
    (b"\x93NUMPY", "an array of numpy, not a model; give it as an input"),
    (b"\x89HDF\r\n", "an HDF5 file (of Keras?); export the model to ONNX"),
    (b"\x80\x02", "a pickle (a PyTorch checkpoint?); export the model to ONNX"),
    (b"\x80\x04", "a pickle (a PyTorch checkpoint?); export the model to ONNX"),
    (b"\x7fELF", "a program or library, not a model"),
    (b"\x89PNG", "a picture, not a model"),
    (b"\xff\xd8\xff", "a picture, not a model"),
    (b"<!DOCTYPE", "a web page, not a model; what the address gave when it was downloaded?"),
    (b"<!doctype", "a web page, not a model; what the address gave when it was downloaded?"),
    (b"<html", "a web page, not a model; what the address gave when it was downloaded?"),
    (b"GGUF", "a GGUF file, which holds weights for another program; export the model to ONNX"),
    (b"{", "a text (JSON?), not a model in binary form"),
    (b"<?xml", "a text (XML; of OpenVINO?), not a model in binary form"),
    (b"\x00\x00\x00\x00", "zeros at its start: it was not written to its end, or not downloaded"),
)
