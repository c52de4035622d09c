"""A model file without its large tensors, which stay where they were read: protobuf would copy each of them twice.

What is left is a message of the same graph, in which such a tensor is external data of a name that no file has
(`DataFiles.held`). Only initializers of the main graph are looked at; what is not as exporters write it is read as a
whole. The encoding: https://protobuf.dev/programming-guides/encoding/, the fields: onnx.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

import numpy as np

LEAST = 1 << 16  # bytes of a tensor that is held

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # fields of ModelProto, GraphProto, TensorProto
_EXTERNAL_DATA, _DATA_LOCATION, _EXTERNAL = 13, 14, 1
_KEY, _VALUE = 1, 2  # of a StringStringEntryProto
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5  # wire types; the others are groups, which ONNX has none of
_MOST_DIGITS = 10  # bytes of a varint


@dataclass(frozen=True)
class ReadModel:
    """message: the model's bytes, or those without the tensors that are held, by their locations. pieces: all bytes, in
    order.
    """

    message: bytes
    held: Mapping[str, np.ndarray]
    pieces: tuple[bytes | np.ndarray, ...]


class _Odd(Exception):
    """Not as exporters write it."""


def read_model(file: IO[bytes], size: int) -> ReadModel:
    """What a file has from its start on, up to this size."""
    parts = _Parts(file)
    try:
        message = _model(parts, size)
    except _Odd:
        parts.take(size - parts.read, short=True)
        return ReadModel(b"".join(bytes(piece) for piece in parts.pieces), {}, tuple(parts.pieces))
    return ReadModel(message, parts.held, tuple(parts.pieces))


class _Parts:
    """A file that is read field by field. read: how many bytes so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.read = file, 0
        self.pieces: list[bytes | np.ndarray] = []
        self.held: dict[str, np.ndarray] = {}

    def take(self, count: int, short: bool = False) -> bytes:
        data = self.file.read(count)
        self.pieces.append(data)
        self.read += len(data)
        if len(data) != count and not short:
            raise _Odd
        return data

    def hold(self, count: int) -> str:
        """Reads what a tensor holds; the location that it has from now on."""
        array = np.empty(count, np.uint8)
        got = self.file.readinto(array.data)  # type: ignore[attr-defined]
        self.pieces.append(array[:got])
        self.read += got
        if got != count:
            raise _Odd
        location = f"\x00{len(self.held)}"
        self.held[location] = array
        return location

    def varint(self) -> tuple[int, bytes]:
        """A number, and its bytes."""
        value, digits = 0, b""
        while len(digits) < _MOST_DIGITS:
            digit = self.take(1)
            value |= (digit[0] & 0x7F) << (7 * len(digits))
            digits += digit
            if digit[0] < 0x80:
                return value, digits
        raise _Odd

    def field(self, end: int) -> tuple[int, int, int, bytes]:
        """(number, wire type, bytes of its value, what stands before them) of the next field."""
        tag, head = self.varint()
        number, wire = tag >> 3, tag & 7
        if wire == _DELIMITED:
            length, digits = self.varint()
            head += digits
        elif wire == _VARINT:
            length, digits = 0, self.varint()[1]
            head += digits
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise _Odd
        if self.read + length > end:
            raise _Odd
        return number, wire, length, head


def _model(parts: _Parts, size: int) -> bytes:
    out: list[bytes] = []
    graphs = 0
    while parts.read < size:
        number, wire, length, head = parts.field(size)
        if number == _GRAPH and wire == _DELIMITED:
            out.append(_delimited(_GRAPH, _graph(parts, parts.read + length)))
            graphs += 1
        else:
            out += [head, parts.take(length)]
    if graphs != 1 or parts.read != size:  # several are merged into one
        raise _Odd
    return b"".join(out)


def _graph(parts: _Parts, end: int) -> bytes:
    out: list[bytes] = []
    while parts.read < end:
        number, wire, length, head = parts.field(end)
        if number == _INITIALIZER and wire == _DELIMITED and length >= LEAST:
            out.append(_delimited(_INITIALIZER, _tensor(parts, parts.read + length)))
        else:
            out += [head, parts.take(length)]
    return b"".join(out)


def _tensor(parts: _Parts, end: int) -> bytes:
    """A tensor whose bytes are external data now, where they are many."""
    out: list[bytes] = []
    location = None
    while parts.read < end:
        number, wire, length, head = parts.field(end)
        if number in (_EXTERNAL_DATA, _DATA_LOCATION) or (number == _RAW_DATA and location is not None):
            raise _Odd
        if number == _RAW_DATA and wire == _DELIMITED and length >= LEAST:
            location = parts.hold(length)
        else:
            out += [head, parts.take(length)]
    if location is not None:
        entry = _delimited(_KEY, b"location") + _delimited(_VALUE, location.encode())
        out += [_delimited(_EXTERNAL_DATA, entry), _varint(_DATA_LOCATION << 3 | _VARINT), _varint(_EXTERNAL)]
    return b"".join(out)


def _delimited(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _DELIMITED) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)
