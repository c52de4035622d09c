"""What a model is fed from the command line: shapes, files, literal numbers, random data."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from mapsto.cli.options import FeedOptions, ReadOptions
from mapsto.cli.usage import UsageError
from mapsto.files import check_writable, is_keras_file, kind_of, plain_file
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr
from mapsto.report.arrays import load_arrays
from mapsto.runtime.cpus import memory_bytes

T = TypeVar("T")

GENERATED = ("random", "zeros", "ones")
LABELS = ("label", "labels")
LARGEST_TEXT = 1 << 28  # bytes; a plan of 100,000 steps has some 50 million


class InputPort(Protocol):
    """An input of a model: an executable's port or a graph's value."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> DType: ...
    @property
    def shape(self) -> tuple[Dim, ...]: ...


@dataclass(frozen=True)
class Given:
    """What the command line says of the inputs: arrays by name, and how to make others ("random", "[1, 2]", ...).

    What has the name "" goes to the only input; so does an array that a file named otherwise, if none `said` its name.
    """

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    made: Mapping[str, str] = field(default_factory=dict)
    said: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Fed:
    """The inputs of a run, how those that no file gave were made, and each example's label where a file has them."""

    feed: dict[str, np.ndarray]
    made: Mapping[str, str]
    labels: np.ndarray | None = None


def existing(path: Path, what: str = "model") -> Path:
    """The path, where there is a file that can be read again and again. Raises UsageError."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise UsageError(f"there is no {what} file {path}") from None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the {what} file {path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    if (kind := kind_of(mode)) is not None:
        article = "an" if what[0] in "aeiou" else "a"
        raise UsageError(f"{path} is {kind}, not {article} {what} file")
    return path


def read_text(path: Path, what: str) -> str:
    """A text file's content. Raises UsageError where it is none."""
    try:
        with plain_file(existing(path, what), what) as file:
            if os.fstat(file.fileno()).st_size > LARGEST_TEXT:
                raise UsageError(f"{path} is no {what}: it has more than {LARGEST_TEXT} bytes")
            return file.read(LARGEST_TEXT).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is no {what}: it is not text in UTF-8 ({error.reason} at byte {error.start})"
        ) from None


def writable(output: Path, besides: Sequence[Path | None], option: str = "--output") -> None:
    """Sees, before any work is done, that the output can be written and is none of the inputs (or of other outputs).

    Raises FileError, UsageError.
    """
    check_writable(output)
    for path in besides:
        if path is None:
            continue
        if output.is_file() and path.exists() and os.path.samefile(output, path):
            raise UsageError(
                f"{option} {output} is an input of this command, and would be overwritten; name another file"
            )
        if not path.exists() and output.absolute() == path.absolute():
            raise UsageError(f"{option} {output} is written for another option; name another file")


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int | None, ...]] | None:
    """`x=1,3,?` as {"x": (1, 3, None)}; None where nothing was said. Raises UsageError."""
    shapes: dict[str, tuple[int | None, ...]] = {}
    for text in texts:
        name, equals, dims = text.rpartition("=")
        if not equals or not name:
            raise UsageError(f"--shape {text}: expected NAME=DIMS, such as x=1,3,224,224")
        shapes[name] = tuple(_dim(dim.strip(), text) for dim in dims.split(",")) if dims.strip() else ()
    return shapes or None


def _dim(text: str, whole: str) -> int | None:
    if text == "?":
        return None
    if not text.isdecimal():
        raise UsageError(f"--shape {whole}: {text!r} is neither a number nor `?`")
    return int(text)


def parse_updates(texts: Sequence[str]) -> dict[str, str] | None:
    """`past=present` as {"past": "present"}; None where nothing was said. Raises UsageError."""
    updates: dict[str, str] = {}
    for text in texts:
        name, equals, output = text.partition("=")
        if not equals or not name or not output:
            raise UsageError(f"--update {text}: expected INPUT=OUTPUT, such as past=present")
        if name in updates:
            raise UsageError(f"--update {text}: {name} is updated by {updates[name]} already")
        updates[name] = output
    return updates or None


def read_given(inputs_file: Path | None, texts: Sequence[str]) -> Given:
    """Reads the files that `--inputs` and `--input` name. Raises UsageError, ModelError."""
    arrays = dict(load_arrays(existing(inputs_file, "inputs"))) if inputs_file is not None else {}
    made: dict[str, str] = {}
    for text in texts:
        name, equals, what = text.partition("=")
        if not equals:
            name, what = "", text
        if what.endswith((".npy", ".npz")):
            arrays[name] = _array_of(existing(Path(what), "input"), name)
        else:
            made[name] = what
    return Given(arrays, made, frozenset(text.partition("=")[0] for text in texts if "=" in text))


def _array_of(path: Path, name: str) -> np.ndarray:
    """The array for an input: the only one of the file, or the one of its name."""
    found = load_arrays(path)
    if len(found) == 1:
        return next(iter(found.values()))
    if name in found:
        return found[name]
    raise UsageError(f"{path} holds {', '.join(found) or 'nothing'}; none of them is called {name!r}")


def make_feed(ports: Sequence[InputPort], given: Given, seed: int = 0) -> Fed:
    """An array for each input. Raises UsageError naming every input that cannot be made up, and what to say of it."""
    names = [port.name for port in ports]
    arrays = _by_name(given.arrays, names, given.said)
    made = _by_name(given.made, names, frozenset(given.made) - {""})
    labels = next((arrays.pop(key) for key in LABELS if key in arrays and key not in names), None)
    unknown = [name for name in (*arrays, *made) if name not in names]
    if unknown:
        raise UsageError(f"the model has no input {', '.join(map(repr, unknown))}; its inputs are: {_listed(ports)}")
    missing = [port for port in ports if port.name not in arrays]
    open_ports = [port for port in missing if not _can_make(port, made.get(port.name, "random"))]
    if open_ports:
        raise UsageError(_what_is_needed(open_ports))
    how = {name: made.get(name, "random") for name in names if name not in arrays}
    fresh = {port.name: _make(port, how[port.name], seed) for port in ports if port.name in how}
    return Fed({name: arrays.get(name, fresh.get(name)) for name in names}, how, labels)  # type: ignore[misc]


def feed_of_model(model: Path, reading: ReadOptions, feeding: FeedOptions) -> Fed:
    """The same for the inputs that an ONNX or Keras file says."""
    from mapsto.importers import keras, onnx

    path, shapes = existing(model), parse_shapes(reading.shape or [])
    graph = keras.load(path, shapes) if is_keras_file(path) else onnx.load(path, shapes, data_root=reading.data_root)
    return make_feed(graph.inputs, read_given(feeding.inputs, feeding.given or []), feeding.seed)


def _by_name(found: Mapping[str, T], names: Sequence[str], said: frozenset[str]) -> dict[str, T]:
    """The nameless one goes to the only input; so does the only one whose name nobody said and that is no label."""
    named = dict(found)
    if len(names) != 1:
        if "" in named:
            raise UsageError(f"say which input is meant: NAME=..., where NAME is one of {', '.join(names)}")
        return named
    others = [name for name in named if name not in (*names, *LABELS, *said)]
    if len(others) == 1 and names[0] not in named:
        named[names[0]] = named.pop(others[0])
    return named


def _is_literal(what: str) -> bool:
    return what not in GENERATED


def _can_make(port: InputPort, what: str) -> bool:
    return _is_literal(what) or not any(isinstance(dim, Expr) for dim in port.shape)


def _listed(ports: Sequence[InputPort]) -> str:
    return ", ".join(f"{port.name} ({port.dtype.value}[{', '.join(map(str, port.shape))}])" for port in ports) or "none"


def _what_is_needed(ports: Sequence[InputPort]) -> str:
    lines = ["the sizes of these inputs are open; give data, or say the shape:"]
    for port in ports:
        dims = ",".join("N" if isinstance(dim, Expr) else str(dim) for dim in port.shape)
        lines.append(
            f"  {port.name}: {port.dtype.value}[{', '.join(map(str, port.shape))}]"
            f"   --input {port.name}=FILE.npy   or   --shape {port.name}={dims} with numbers"
        )
    return "\n".join(lines)


def _make(port: InputPort, what: str, seed: int) -> np.ndarray:
    """Data for one input: normal floats, integers 0 and 1, or what a literal says."""
    shape = tuple(int(dim) for dim in port.shape if not isinstance(dim, Expr))
    if _is_literal(what):
        return _literal(port, what)
    _check_room(port, shape)
    if what in ("zeros", "ones"):
        return np.full(shape, int(what == "ones"), port.dtype.numpy)
    random = np.random.default_rng([seed, zlib.crc32(port.name.encode())])
    drawn = random.standard_normal(shape) if port.dtype.decoded.is_float else random.integers(0, 2, shape)
    return np.asarray(drawn).astype(port.dtype.numpy)


def _check_room(port: InputPort, shape: Sequence[int]) -> None:
    """Raises UsageError for more data than this machine's memory holds."""
    count = math.prod(shape) * port.dtype.size
    if count > memory_bytes():
        raise UsageError(f"input {port.name}: {list(shape)} elements are {count:,} bytes, more than this machine has")


def _literal(port: InputPort, what: str) -> np.ndarray:
    """A number, fitted to an input of fixed shape, or a list in the input's own shape."""
    try:
        array = np.array(json.loads(what))
    except (ValueError, RecursionError):
        array = np.array(None)
    if array.dtype.kind not in "iufb":
        raise UsageError(
            f"--input {port.name}={what}: expected a .npy or .npz file, {', '.join(GENERATED)}, a number, or [numbers]"
        )
    with np.errstate(all="ignore"):  # what does not fit is told below
        converted = array.astype(port.dtype.numpy)
    if not port.dtype.decoded.is_float and not np.array_equal(converted.astype(port.dtype.decoded.numpy), array):
        raise UsageError(f"--input {port.name}={what}: not every number fits {port.dtype.value}")
    if converted.ndim == 0 and not any(isinstance(dim, Expr) for dim in port.shape):
        shape = tuple(int(d) for d in port.shape if isinstance(d, int))
        _check_room(port, shape)
        return np.full(shape, converted)
    return converted
