"""One file that holds an executable: program, object code, constants, and which machines it is for.

0   8 bytes    "mapsto" 0 1 8   u64        length of the header 16  32 bytes   SHA-256 of the header 64  header
JSON: format, target, program, where each blob is and its SHA-256 ..  blobs      object code, runner, plan at multiples
of 64; constants at a multiple of 4096, mapped into memory, not read

Numbers are little-endian. The file is refused, with a reason, where it is damaged or for another machine. It holds
machine code: load one only from where you would take a program from.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import secrets
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mapsto.errors import ModelError, VerifyError
from mapsto.runtime import native, runner_ir
from mapsto.runtime.arrays import aligned_bytes
from mapsto.runtime.program import ALIGNMENT, Program
from mapsto.runtime.program_json import program_from_json, program_to_json
from mapsto.runtime.verify import verify_program

MAGIC = b"mapsto\x00\x01"
FORMAT = 1
_HEAD = 64
_PAGE = 4096


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
        missing = sorted(set(self.features) - native.host_features())
        if missing:
            raise ModelError(
                f"{where}: made for {self.isa}; this machine lacks {', '.join(missing)}; compile again for this machine"
            )


@dataclass(frozen=True)
class Artifact:
    """What a file holds. `runner` is the step runner's object code (None: compiled when saved)."""

    program: Program
    objects: tuple[bytes, ...]
    target: Target
    plan: str = ""
    runner: bytes | None = None


def save(path: str | os.PathLike[str], artifact: Artifact) -> None:
    """Writes the file whole or not at all."""
    runner = artifact.runner or native.compile_runner()
    constants = memoryview(artifact.program.constants).cast("B")
    blobs: list[Any] = [*artifact.objects, runner, artifact.plan.encode(), constants]
    header: dict[str, Any] = {
        "format": FORMAT,
        "runner": runner_ir.VERSION,
        "target": {
            "arch": artifact.target.arch,
            "isa": artifact.target.isa,
            "features": list(artifact.target.features),
        },
        "program": program_to_json(artifact.program),
        "objects": len(artifact.objects),
        "blobs": [[0, len(blob), hashlib.sha256(blob).hexdigest()] for blob in blobs],
        "bytes": 0,
    }
    text = _place_blobs(header)
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            file.write(MAGIC + struct.pack("<Q", len(text)) + hashlib.sha256(text).digest())
            for (offset, _, _), blob in zip([(_HEAD, 0, ""), *header["blobs"]], [text, *blobs], strict=True):
                file.seek(offset)
                file.write(blob)
            file.truncate(header["bytes"])
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


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
    """Reads a file that `save` wrote; constants are mapped, and looked at only on demand.

    Raises ModelError where the file is damaged, of another version, or made for another machine.
    """
    name = str(path)
    try:
        with open(path, "rb") as file:
            return _read(name, file, verify_constants)
    except OSError as error:
        raise ModelError(f"{name}: cannot be read: {error.strerror or error}") from None
    except (ModelError, VerifyError) as error:
        raise ModelError(str(error) if name in str(error) else f"{name}: damaged: {error}") from None


def _read(name: str, file: BinaryIO, verify_constants: bool) -> Artifact:
    size = os.fstat(file.fileno()).st_size
    header = _read_header(name, file, size)
    if header.get("format") != FORMAT or header.get("runner") != runner_ir.VERSION:
        raise ModelError(f"{name}: written by another version of mapsto; compile the model again")
    if header.get("bytes") != size:
        raise ModelError(
            f"{name}: {size} bytes where {header.get('bytes')} were written: the file is truncated or damaged"
        )
    target = _read_target(header)
    target.check(name)
    blobs = _blobs(header, size)
    count = header.get("objects")
    if not isinstance(count, int) or count < 0 or len(blobs) != count + 3:
        raise ModelError("the list of blobs is not complete")
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        codes = [_blob(whole, blob, check=True) for blob in blobs[:-1]]
    constants = _map_constants(file, blobs[-1], verify_constants)
    program = program_from_json(header.get("program"), constants)
    verify_program(program)
    try:
        plan = codes[count + 1].decode()
    except UnicodeDecodeError:
        raise ModelError("the plan is not text") from None
    return Artifact(program, tuple(codes[:count]), target, plan, codes[count])


def _read_header(name: str, file: BinaryIO, size: int) -> dict[str, Any]:
    head = file.read(_HEAD)
    if len(head) < _HEAD or head[:6] != MAGIC[:6]:
        raise ModelError(f"{name}: not a compiled mapsto model")
    if head[:8] != MAGIC:
        raise ModelError(f"{name}: written by another version of mapsto; compile the model again")
    (length,) = struct.unpack("<Q", head[8:16])
    if length > size - _HEAD:
        raise ModelError(f"{name}: the header does not fit into the file: it is truncated or damaged")
    text = file.read(length)
    if hashlib.sha256(text).digest() != head[16:48]:
        raise ModelError(f"{name}: the header is damaged (its checksum is wrong)")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise ModelError("the header is not an object")
    return header


def _read_target(header: dict[str, Any]) -> Target:
    target = header.get("target")
    if not isinstance(target, dict):
        raise ModelError("no target")
    arch, isa, features = target.get("arch"), target.get("isa"), target.get("features")
    if not isinstance(arch, str) or not isinstance(isa, str) or not isinstance(features, list):
        raise ModelError("the target is incomplete")
    return Target(arch, isa, tuple(str(feature) for feature in features))


Blob = tuple[int, int, str]


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
        found.append((offset, length, digest))
    return found


def _blob(whole: mmap.mmap, blob: Blob, check: bool) -> bytes:
    offset, length, digest = blob
    data = whole[offset : offset + length]
    if check and hashlib.sha256(data).hexdigest() != digest:
        raise ModelError(f"the code at {offset} is damaged (its checksum is wrong)")
    return data


def _map_constants(file: BinaryIO, blob: Blob, verify: bool) -> np.ndarray:
    offset, length, digest = blob
    if not length:
        return aligned_bytes(0)
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # lives as long as the array
    constants: np.ndarray = np.frombuffer(mapped, np.uint8, length, offset)
    if verify and hashlib.sha256(memoryview(mapped)[offset : offset + length]).hexdigest() != digest:
        raise ModelError("the constants are damaged (their checksum is wrong)")
    return constants
