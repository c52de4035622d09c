"""A file that holds a model on several devices: each part as an executable, and what puts them together.

A part of the host is an artifact (`runtime.artifact`). One of another device is its program, its constants, its plan
and what the device's engine says of its functions (`Engine.code`), and the same part as an artifact for the host, which
stands in for it where the device fails or is not to be had. Like an artifact, it holds code: load one only from where
you would take a program from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache as remembered
from typing import Any

import numpy as np

from mapsto import files
from mapsto.errors import MapstoError, ModelError, ParseError, UnsupportedError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr_text import parse_dim
from mapsto.ir.graph import Value
from mapsto.runtime import artifact, container
from mapsto.runtime.divisions import DividedPart, Division, Whole
from mapsto.runtime.executable import Executable, executable_of
from mapsto.runtime.program import Program
from mapsto.runtime.program_json import dim_to_json, program_from_json, program_to_json
from mapsto.version import VERSION

FORMAT_VERSION = 1

DeviceLoader = Callable[[str, Program, bytes, str], Executable]
"""The executable of a device (its name), from a program, the code of its functions, and its plan."""


@dataclass(frozen=True)
class SavedDivision:
    """What a file holds; notes: what could not be as it was saved."""

    whole: Whole
    division: Division
    devices: tuple[str, ...]
    notes: tuple[str, ...]


# ---- writing ---------------------------------------------------------------------------------------------------------


def save(path: str | os.PathLike[str], whole: Whole, division: Division, devices: Sequence[str]) -> None:
    """Raises FileError where it cannot be written, ModelError for sizes that cannot be saved, UnsupportedError for code
    of a device that cannot be.
    """
    blobs = _Blobs()
    header = {
        "format": FORMAT_VERSION,
        "mapsto": VERSION,
        "devices": list(devices),
        "name": whole.name,
        "inputs": [_value(value) for value in whole.inputs],
        "outputs": list(whole.outputs),
        "constants": [[name, *_array(array, blobs)] for name, array in whole.constants.items()],
        "updates": [list(pair) for pair in whole.updates],
        "parts": [_part(part, devices[0], blobs) for part in division.parts],
        "copies": list(division.copies),
        "joules": division.joules,
        "plan": blobs.add(division.plan_text.encode("utf-8", "surrogatepass")),
    }
    container.write(path, artifact.MAGIC_OF_SEVERAL, header, blobs.every)


class _Blobs:
    def __init__(self) -> None:
        self.every: list[bytes] = []

    def add(self, data: bytes) -> int:
        """Its number."""
        self.every.append(data)
        return len(self.every) - 1


def _part(part: DividedPart, host: str, blobs: _Blobs) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": part.name,
        "device": part.device,
        "after": list(part.after),
        "told": dict(part.told),
        "values": [_value(value) for value in part.values],
        "holds": [list(pair) for pair in part.holds],
        "makes": sorted(part.makes),
    }
    if part.device == host:
        return found | {"artifact": blobs.add(b"".join(part.executable.parts()))}
    executable = part.executable
    code = executable.device_code
    if code is None:
        raise UnsupportedError(
            f"{part.name}: code for {part.device} cannot be saved; save `plan_text` beside the model instead, which "
            "`mapsto.divide(model, plan=...)` does again"
        )
    return found | {
        "program": program_to_json(executable.program),
        "data": blobs.add(bytes(executable.program.constants)),
        "code": blobs.add(code),
        "plan": blobs.add(executable.plan_text.encode("utf-8", "surrogatepass")),
        "artifact": blobs.add(b"".join(part.on_host().parts())),
    }


def _value(value: Value) -> list[Any]:
    return [value.name, value.dtype.value, [dim_to_json(dim) for dim in value.shape]]


def _array(array: np.ndarray, blobs: _Blobs) -> list[Any]:
    dtype = next(each for each in DType if each.numpy == array.dtype)
    return [dtype.value, list(array.shape), blobs.add(np.ascontiguousarray(array).tobytes())]


# ---- reading ---------------------------------------------------------------------------------------------------------


def verify(path: str | os.PathLike[str]) -> tuple[int, list[str]]:
    """Sees to it by SHA-256 that each byte of a file is as `save` wrote it; its size and devices. Raises ModelError."""
    name = files.name_of(path, "the compiled model")
    with _told_of(name):
        header, _ = container.read(path, artifact.MAGIC_OF_SEVERAL)
        _check_version(header)
        return int(header["bytes"]), [_text(each) for each in _list(header["devices"])]


def load(path: str | os.PathLike[str], threads: int, making: DeviceLoader) -> SavedDivision:
    """Reads a file that `save` wrote. A device that cannot be had is left out, and the host does its parts.

    Raises ModelError where the file is damaged, of another version, or made for another machine.
    """
    name = files.name_of(path, "the compiled model")
    with _told_of(name):
        header, blobs = container.read(path, artifact.MAGIC_OF_SEVERAL)
        _check_version(header)
        return _Reading(name, header, blobs, threads, making).division()


@contextmanager
def _told_of(name: str) -> Iterator[None]:
    """Errors that name the file."""
    try:
        yield
    except ModelError as error:
        raise ModelError(str(error) if name in str(error) else f"{name}: damaged: {error}") from None
    except (ParseError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        said = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ModelError(f"{name}: damaged: {said}") from None


def _check_version(header: Mapping[str, Any]) -> None:
    if header.get("format") != FORMAT_VERSION:
        by, found = header.get("mapsto"), header.get("format")
        raise ModelError(
            f"written by mapsto {by}, in format {found} of models on several devices; mapsto {VERSION} reads "
            f"{FORMAT_VERSION}: divide the model again"
        )


class _Reading:
    def __init__(
        self, name: str, header: Mapping[str, Any], blobs: Sequence[memoryview], threads: int, making: DeviceLoader
    ) -> None:
        self.name, self.header, self.blobs, self.threads, self.making = name, header, blobs, threads, making
        self.missing: dict[str, str] = {}  # devices that cannot be had, and why

    def division(self) -> SavedDivision:
        header = self.header
        devices = tuple(_text(each) for each in _list(header["devices"]))
        entries = _list(header["parts"])
        constants = {_text(n): self.array(DType(t), shape, at) for n, t, shape, at in _list(header["constants"])}
        inputs, outputs = tuple(map(_read_value, _list(header["inputs"]))), tuple(map(_text, _list(header["outputs"])))
        whole = Whole(_text(header["name"]), inputs, outputs, constants, _pairs(header["updates"]))
        _check_names(whole)
        made = [self.part(entry, k, devices, len(entries)) for k, entry in enumerate(entries)]
        _check_parts(whole, made)
        copies = tuple(_number(k, len(made)) for k in _list(header["copies"]))
        joules = None if header["joules"] is None else float(header["joules"])
        division = Division(tuple(made), self.text(header["plan"]), copies, (), joules)
        notes = tuple(
            f"{device} is not to be had here, its parts run on {devices[0]}: {why}"
            for device, why in self.missing.items()
        )
        return SavedDivision(whole, division, devices, notes)

    def part(self, entry: Mapping[str, Any], k: int, devices: Sequence[str], count: int) -> DividedPart:
        device = devices[_number(devices.index(entry["device"]), len(devices))]
        on_host = remembered(lambda: self.of_host(entry["artifact"]))
        executable = None if device == devices[0] else self.of_device(device, entry)
        after = tuple(_number(each, k) for each in _list(entry["after"]))
        told = {_text(port): _text(size) for port, size in entry["told"].items()}
        values = tuple(map(_read_value, _list(entry["values"])))
        return DividedPart(
            _text(entry["name"]), devices[0] if executable is None else device, executable or on_host(), on_host, after,
            told, values, _pairs(entry["holds"]), frozenset(map(_text, _list(entry["makes"]))),
        )  # fmt: skip

    def of_host(self, at: Any) -> Executable:
        saved = artifact.read(self.name, self.blobs[_number(at, len(self.blobs))])
        return executable_of(saved, self.threads)

    def of_device(self, device: str, entry: Mapping[str, Any]) -> Executable | None:
        """None: the device cannot be had."""
        if device in self.missing:
            return None
        constants = np.frombuffer(self.blob(entry["data"]), np.uint8)
        program = program_from_json(entry["program"], constants)
        try:
            return self.making(device, program, bytes(self.blob(entry["code"])), self.text(entry["plan"]))
        except ModelError:
            raise
        except MapstoError as error:
            self.missing[device] = str(error)
            return None

    def blob(self, at: Any) -> memoryview:
        return self.blobs[_number(at, len(self.blobs))]

    def text(self, at: Any) -> str:
        return bytes(self.blob(at)).decode("utf-8", "surrogatepass")

    def array(self, dtype: DType, shape: Any, at: Any) -> np.ndarray:
        return np.frombuffer(self.blob(at), dtype.numpy).reshape([_number(dim, 1 << 40) for dim in _list(shape)])


def _check_names(whole: Whole) -> None:
    names = {value.name for value in whole.inputs}
    for source, output in whole.updates:
        if source not in names or output not in whole.outputs:
            raise ModelError(f"{source} and {output}, of which one takes over the other, are no input and output")


def _check_parts(whole: Whole, parts: Sequence[DividedPart]) -> None:
    """Each part reads what the inputs or parts that it waits for yield, and all outputs are made."""
    inputs = {value.name for value in whole.inputs}
    for part in parts:
        there = inputs.union(*({v.name for v in parts[k].values} for k in part.after))
        for port in part.executable.program.inputs:
            if port.name not in there and port.name not in part.told:
                raise ModelError(f"{part.name} reads {port.name}, which no part that it waits for makes")
        yielded = {port.name for port in part.executable.program.outputs}
        if missing := [value.name for value in part.values if value.name not in yielded]:
            raise ModelError(f"{part.name} does not yield {missing[0]}")
    every = inputs.union(whole.constants, *({v.name for v in part.values} for part in parts))
    if missing := [name for name in whole.outputs if name not in every]:
        raise ModelError(f"nothing makes the output {missing[0]}")


def _read_value(entry: Any) -> Value:
    name, dtype, dims = entry
    shape = tuple(_number(d, 1 << 40) if isinstance(d, int) else parse_dim(_text(d)) for d in _list(dims))
    return Value(_text(name), DType(dtype), shape)


def _pairs(entries: Any) -> tuple[tuple[str, str], ...]:
    return tuple((_text(a), _text(b)) for a, b in _list(entries))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ModelError(f"expected a list, found {type(value).__name__}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ModelError(f"expected a text, found {type(value).__name__}")
    return value


def _number(value: Any, end: int) -> int:
    """From 0 to below an end."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < end:
        raise ModelError(f"expected a number from 0 to {end - 1}, found {value!r:.40}")
    return value
