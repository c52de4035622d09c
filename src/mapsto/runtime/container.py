"""A file of a header and blobs, each with its checksum: the form of what `division_file` writes.

     0  8 bytes   what kind of file it is
     8  u64       length of the header
    16  32 bytes  SHA-256 of the header
    64  header    JSON; its `blobs` say where each is: [offset, length, SHA-256], `bytes` how long the file is
    ..  blobs     at multiples of 4096

Numbers are little-endian; what lies between is zero.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mapsto import files
from mapsto.errors import ModelError

_HEAD = 64
_PAGE = 4096  # executables, whose constants are used where they lie in the file, begin at pages


def write(path: str | os.PathLike[str], magic: bytes, header: Mapping[str, Any], blobs: Sequence[bytes]) -> None:
    """Writes the file whole or not at all. Raises FileError."""
    entries: list[list[Any]] = [[0, len(blob), hashlib.sha256(blob).hexdigest()] for blob in blobs]
    whole: dict[str, Any] = {**header, "blobs": entries, "bytes": 0}
    position = _HEAD + len(json.dumps(whole)) + 24 * (len(entries) + 1)  # room for the longest numbers
    for entry in entries:
        entry[0] = position = -(-position // _PAGE) * _PAGE
        position += entry[1]
    whole["bytes"] = position
    text = json.dumps(whole).encode()
    with files.written(path) as file:
        file.write(magic + struct.pack("<Q", len(text)) + hashlib.sha256(text).digest() + bytes(16) + text)
        end = _HEAD + len(text)
        for (offset, length, _), blob in zip(entries, blobs, strict=True):
            file.write(bytes(offset - end))
            file.write(blob)
            end = offset + length
        file.write(bytes(position - end))


def is_of_kind(path: str | os.PathLike[str], magic: bytes) -> bool:
    """Whether a file begins so. Raises ModelError where it cannot be read."""
    with files.plain_file(path, "compiled model") as file:
        return bool(file.read(len(magic)) == magic)


def read(path: str | os.PathLike[str], magic: bytes) -> tuple[dict[str, Any], list[memoryview]]:
    """The header, and the blobs, mapped into memory; every byte of the file has been looked at. Raises ModelError that
    says what is damaged.
    """
    with files.plain_file(path, "compiled model") as file:
        if os.fstat(file.fileno()).st_size < _HEAD:
            raise ModelError("the file is shorter than its head")
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))  # which lives as long as the view
    header, end = _header(data, magic)
    blobs = []
    for offset, length, digest in _entries(header):
        if offset < end or length < 0 or offset + length > len(data) or offset % _PAGE:
            raise ModelError(f"a blob of {length} bytes at {offset} does not fit into {len(data)} bytes")
        _check_zero(data, end, offset)
        blob = data[offset : offset + length]
        if hashlib.sha256(blob).hexdigest() != digest:
            raise ModelError(f"the {length} bytes at {offset} are damaged (their checksum is wrong)")
        blobs.append(blob)
        end = offset + length
    _check_zero(data, end, len(data))
    return header, blobs


def _header(data: memoryview, magic: bytes) -> tuple[dict[str, Any], int]:
    """And where it ends."""
    head = bytes(data[:_HEAD])
    (length,) = struct.unpack("<Q", head[8:16])
    if head[:8] != magic:
        raise ModelError("it does not begin as such a file does")
    if length > len(data) - _HEAD:
        raise ModelError("the header does not fit into the file: it is truncated or damaged")
    text = bytes(data[_HEAD : _HEAD + length])
    if hashlib.sha256(text).digest() != head[16:48] or any(head[48:]):
        raise ModelError("the header is damaged (its checksum is wrong)")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise ModelError("the header is not an object")
    if header.get("bytes") != len(data):
        raise ModelError(f"{len(data)} bytes where {header.get('bytes')} were written: it is truncated or damaged")
    return header, _HEAD + length


def _entries(header: Mapping[str, Any]) -> Iterator[tuple[int, int, str]]:
    entries = header.get("blobs")
    if not isinstance(entries, list):
        raise ModelError("there is no list of blobs")
    for entry in entries:
        if not isinstance(entry, list) or [type(each) for each in entry] != [int, int, str]:
            raise ModelError("a blob's entry is damaged")
        yield entry[0], entry[1], entry[2]


def _check_zero(data: memoryview, begin: int, end: int) -> None:
    if end > begin and np.frombuffer(data[begin:end], np.uint8).any():
        raise ModelError(f"bytes that must be zero are not, between {begin} and {end}")
