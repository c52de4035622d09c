"""One file that holds an executable: program, object code, constants, and which machines it is for.

     0  8 bytes   "mapsto" 0 1
     8  u64       length of the header
    16  32 bytes  SHA-256 of the header
    64  header    JSON: format, target, program, where each blob is and its SHA-256
    ..  blobs     object code, runner and plan at multiples of 64; constants at a multiple of 4096, mapped into memory

Numbers are little-endian; what lies between is zero. The file is refused, with a reason, where it is damaged or for
another machine. It holds machine code: load one only from where you would take a program from.

A file of an earlier version is read as long as `READABLE` has its format (docs/reliability.md). What a format means is
this layout, the header's keys, and how code is called: `void f(void** buffers, int64_t* dims, int64_t begin, int64_t
end)`, buffers at multiples of ALIGNMENT. A change of any of these takes a new number, and a reader of the old one. The
runner is the host's own part: one for other structures is left aside, and compiled anew.

Each byte of a file is looked at when it is loaded. The SHA-256 of 100 MB takes 125 ms, so constants are checked by sums
of their pages (9 ms), which find every accident that damages less than 8 bytes of a page, and all but one of 2^64 of
others; their SHA-256 is looked at where that is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mapsto import files
from mapsto.arguments import brief
from mapsto.errors import ModelError, VerifyError
from mapsto.runtime import native, runner_ir
from mapsto.runtime.arrays import aligned_bytes
from mapsto.runtime.program import ALIGNMENT, Program
from mapsto.runtime.program_json import program_from_json, program_to_json
from mapsto.runtime.verify import verify_program
from mapsto.version import VERSION

MAGIC = b"mapsto\x00\x01"
MAGIC_OF_SEVERAL = b"mapsto\x00D"  # of a file of `runtime.division_file`
FORMAT_VERSION = 4  # 4: steps that set sizes
READABLE = (3, 4)
_HEAD = 64
_PAGE = 4096


class Blob(NamedTuple):
    """A stretch of the file, and its SHA-256."""

    offset: int
    length: int
    digest: str


@dataclass(frozen=True)
class Target:
    """The machines that code runs on: architecture, the instruction set's name, LLVM's names of what it needs."""

    arch: str
    isa: str
    features: tuple[str, ...] = ()

    @staticmethod
    def baseline() -> Target:
        """This architecture, and nothing that any of its machines lacks."""
        return Target(native.architecture(), "baseline")

    def check(self, where: str) -> None:
        """Raises ModelError where this machine is not one of them."""
        if self.arch != native.architecture():
            raise ModelError(
                f"{where}: made for {self.arch}, this machine is {native.architecture()}; compile again here"
            )
        missing = native.lacking(self.features)
        if missing:
            raise ModelError(
                f"{where}: made for {self.isa}; this machine lacks {', '.join(missing)}; compile again for this machine"
            )


@dataclass(frozen=True)
class Artifact:
    """What a file holds. `runner` is the step runner's object code (None: compiled when it is needed)."""

    program: Program
    objects: tuple[bytes, ...]
    target: Target
    plan: str = ""
    runner: bytes | None = None


def save(path: str | os.PathLike[str], artifact: Artifact) -> None:
    """Writes the file whole or not at all. Raises FileError."""
    content = parts(artifact)
    with files.written(path) as file:
        for part in content:
            file.write(part)


def to_bytes(artifact: Artifact) -> bytes:
    """What `save` writes."""
    return b"".join(parts(artifact))


def parts(artifact: Artifact) -> list[Any]:
    """The content of a file, front to back, as bytes-like objects; the first one begins with what `name_of` reads."""
    runner = artifact.runner or native.compile_runner()
    constants = memoryview(artifact.program.constants).cast("B")
    blobs: list[Any] = [*artifact.objects, runner, artifact.plan.encode("utf-8", "surrogatepass"), constants]
    header: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "mapsto": VERSION,
        "runner": runner_ir.RUNNER_VERSION,
        "target": {
            "arch": artifact.target.arch,
            "isa": artifact.target.isa,
            "features": list(artifact.target.features),
        },
        "program": program_to_json(artifact.program),
        "objects": len(artifact.objects),
        "blobs": [[0, len(blob), hashlib.sha256(blob).hexdigest()] for blob in blobs],
        "sums": page_sums(constants),
        "bytes": 0,
    }
    text = _place_blobs(header)
    made: list[Any] = [MAGIC + struct.pack("<Q", len(text)) + hashlib.sha256(text).digest() + bytes(16), text]
    position = _HEAD + len(text)
    for (offset, length, _), blob in zip(header["blobs"], blobs, strict=True):
        made += [bytes(offset - position), blob]
        position = offset + length
    return [*made, bytes(header["bytes"] - position)]


def name_of(head: bytes | os.PathLike[str]) -> str:
    """A name for a file that no other content has, from its first bytes or its path: the SHA-256 of the header, which
    holds those of all blobs. Raises ModelError where the file cannot be read.
    """
    if not isinstance(head, bytes):
        with files.plain_file(head, "compiled model") as file:
            head = file.read(_HEAD)
    return head[16:48].hex()


def page_sums(data: Any) -> str:
    """A digest of bytes at the speed of memory: SHA-256 of each page's sum of its 64-bit words, times odd weights.

    A change of one word changes its page's sum, as an odd weight times any difference is not 0 modulo 2^64.
    """
    whole = np.frombuffer(data, np.uint8) if len(data) else np.zeros(0, np.uint8)
    pages = len(whole) // _PAGE * _PAGE
    rest = np.zeros(_PAGE, np.uint8)
    rest[: len(whole) - pages] = whole[pages:]
    weights = np.arange(1, _PAGE // 4, 2, dtype="<u8")
    digest = hashlib.sha256(len(whole).to_bytes(8, "little"))
    for part in (whole[:pages], rest):
        words = part.view("<u8").reshape(-1, _PAGE // 8)
        digest.update(np.einsum("ij,j->i", words, weights).tobytes())
    return digest.hexdigest()


def _place_blobs(header: dict[str, Any]) -> bytes:
    """Fills in where the blobs go, and gives the header's text. Its own length moves them: room is left for the longest
    numbers.
    """
    blobs = header["blobs"]
    room = len(json.dumps(header)) + 24 * (len(blobs) + 1)
    position = _HEAD + room
    for number, blob in enumerate(blobs):
        step = _PAGE if number == len(blobs) - 1 else ALIGNMENT
        blob[0] = position = -(-position // step) * step
        position += blob[1]
    header["bytes"] = -(-position // ALIGNMENT) * ALIGNMENT + ALIGNMENT
    text = json.dumps(header).encode()
    assert len(text) <= room
    return text


def load(path: str | os.PathLike[str], verify_constants: bool = False) -> Artifact:
    """Reads a file that `save` wrote; constants are mapped into memory. verify_constants: see to it by SHA-256 that
    they are the very bytes that were written, not only that no accident befell them.

    Raises ModelError where the file is damaged, of another version, or made for another machine.
    """
    return read(files.name_of(path, "the compiled model"), _mapped(path), verify_constants)


def read(name: str, data: memoryview, verify_constants: bool = False) -> Artifact:
    """What `load` gives, from the bytes of a file. name: for messages. Raises ModelError."""
    with _told_of(name):
        header = _read_header(name, data)
        header.target.check(name)
        return _read(data, header, verify_constants)


@dataclass(frozen=True)
class Verified:
    """What a file is that is as it was written: its size, the number of object files in it, the machines it is for."""

    bytes: int
    objects: int
    target: Target


def verify(path: str | os.PathLike[str]) -> Verified:
    """Sees to it by SHA-256 that each byte of a file is as `save` wrote it; the file may be for another machine.

    Raises ModelError where one is not.
    """
    name, data = files.name_of(path, "the compiled model"), _mapped(path)
    with _told_of(name):
        header = _read_header(name, data)
        found = _read(data, header, verify_constants=True)
        return Verified(len(data), len(found.objects), header.target)


def _mapped(path: str | os.PathLike[str]) -> memoryview:
    with files.plain_file(path, "compiled model") as file:
        if not os.fstat(file.fileno()).st_size:
            raise ModelError(f"{os.fsdecode(path)}: not a compiled mapsto model: the file is empty")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))  # which lives as long as the view


@contextlib.contextmanager
def _told_of(name: str) -> Iterator[None]:
    """Errors that name the file."""
    try:
        yield
    except (ModelError, VerifyError) as error:
        raise ModelError(str(error) if name in str(error) else f"{name}: damaged: {error}") from None


@dataclass(frozen=True)
class _Header:
    """The header of a file, whose version and size are right. `end`: where its text ends."""

    values: dict[str, Any]
    end: int
    target: Target


def _read(data: memoryview, header: _Header, verify_constants: bool) -> Artifact:
    blobs = _blobs(header.values, len(data))
    count = header.values.get("objects")
    if not isinstance(count, int) or count < 0 or len(blobs) != count + 3:
        raise ModelError("the list of blobs is not complete")
    _check_gaps(data, header.end, blobs)
    codes = [_blob(data, blob) for blob in blobs[:-1]]
    constants = _constants(data, blobs[-1], header.values.get("sums"), verify_constants)
    program = program_from_json(header.values.get("program"), constants)
    verify_program(program)
    try:
        plan = codes[count + 1].decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise ModelError("the plan is not text") from None
    ours = header.values.get("runner") == runner_ir.RUNNER_VERSION
    return Artifact(program, tuple(codes[:count]), header.target, plan, codes[count] if ours else None)


def _read_header(name: str, data: memoryview) -> _Header:
    head = bytes(data[:_HEAD])
    if len(head) < _HEAD or head[:6] != MAGIC[:6]:
        looks = files.taken_for(head)
        raise ModelError(f"{name}: not a compiled mapsto model" + (f": it is {looks}" if looks else ""))
    if head[:8] == MAGIC_OF_SEVERAL:
        raise ModelError(f"{name}: a model on several devices, which `mapsto.load` reads")
    if head[:8] != MAGIC:
        raise ModelError(
            f"{name}: written by another version of mapsto, in a form that {VERSION} does not read; compile the "
            "model again"
        )
    (length,) = struct.unpack("<Q", head[8:16])
    if length > len(data) - _HEAD:
        raise ModelError(f"{name}: the header does not fit into the file: it is truncated or damaged")
    text = bytes(data[_HEAD : _HEAD + length])
    if hashlib.sha256(text).digest() != head[16:48]:
        raise ModelError(f"{name}: the header is damaged (its checksum is wrong)")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise ModelError("the header is not an object")
    if any(head[48:]):
        raise ModelError("bytes that must be zero are not, before the header")
    if header.get("format") not in READABLE:
        raise ModelError(f"{name}: {_other_version(header)}")
    if header.get("bytes") != len(data):
        raise ModelError(
            f"{name}: {len(data)} bytes where {header.get('bytes')} were written: the file is truncated or damaged"
        )
    return _Header(header, _HEAD + length, _read_target(header))


def _other_version(header: dict[str, Any]) -> str:
    """What is wrong with a format that is not read."""
    found, by = header.get("format"), header.get("mapsto")
    which = f"mapsto {by}" if isinstance(by, str) and len(by) < 40 else "another version of mapsto"
    newer = isinstance(found, int) and found > FORMAT_VERSION
    advice = "update mapsto, or compile the model again" if newer else "compile the model again"
    return f"written by {which}, in format {brief(found)}; mapsto {VERSION} reads up to {FORMAT_VERSION}: {advice}"


def _check_gaps(data: memoryview, position: int, blobs: list[Blob]) -> None:
    """Between the blobs, and after them, there is nothing."""
    for offset, length, _ in [*blobs, Blob(len(data), 0, "")]:
        if offset < position:
            raise ModelError(f"a blob at {offset} begins before the end of what is before it, at {position}")
        if offset > position and np.frombuffer(data[position:offset], np.uint8).any():
            raise ModelError(f"bytes that must be zero are not, between {position} and {offset}")
        position = offset + length


def _read_target(header: dict[str, Any]) -> Target:
    target = header.get("target")
    if not isinstance(target, dict):
        raise ModelError("no target")
    arch, isa, features = target.get("arch"), target.get("isa"), target.get("features")
    if not isinstance(arch, str) or not isinstance(isa, str) or not isinstance(features, list):
        raise ModelError("the target is incomplete")
    return Target(arch, isa, tuple(str(feature) for feature in features))


def _blobs(header: dict[str, Any], size: int) -> list[Blob]:
    entries = header.get("blobs")
    if not isinstance(entries, list):
        raise ModelError("no blobs")
    found: list[Blob] = []
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != 3:
            raise ModelError("a blob's entry is damaged")
        offset, length, digest = entry
        if not isinstance(offset, int) or not isinstance(length, int) or not isinstance(digest, str):
            raise ModelError("a blob's entry is damaged")
        if offset < _HEAD or length < 0 or offset + length > size or offset % ALIGNMENT:
            raise ModelError(f"a blob of {length} bytes at {offset} does not fit into {size} bytes")
        found.append(Blob(offset, length, digest))
    return found


def _blob(data: memoryview, blob: Blob) -> bytes:
    offset, length, digest = blob
    found = bytes(data[offset : offset + length])
    if hashlib.sha256(found).hexdigest() != digest:
        raise ModelError(f"the code at {offset} is damaged (its checksum is wrong)")
    return found


def _constants(data: memoryview, blob: Blob, sums: Any, by_sha: bool) -> np.ndarray:
    """The constants where they lie in the file's bytes, which the array keeps alive."""
    offset, length, digest = blob
    found = data[offset : offset + length]
    if page_sums(found) != sums or (by_sha and hashlib.sha256(found).hexdigest() != digest):
        raise ModelError("the constants are damaged (their checksum is wrong)")
    return np.frombuffer(found, np.uint8) if length else aligned_bytes(0)
