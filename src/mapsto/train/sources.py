"""Where a recipe's arrays come from: npz, CSV and idx files, or a function of a Python file, which is run."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import inspect
import io
import math
import os
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mapsto.arguments import brief
from mapsto.errors import ArgumentError, MapstoError, ModelError, ShapeError
from mapsto.files import plain_file
from mapsto.ir.dtypes import from_numpy
from mapsto.ir.graph import Value
from mapsto.train.data import arrays_of

Loaded = dict[str, np.ndarray]

SOURCES = ("npz", "csv", "idx", "function")
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_LARGEST_TEXT = 1 << 31  # bytes


@dataclass(frozen=True)
class DataSource:
    """kind: one of `SOURCES`. files: by arrays' names (idx), or one under "" (of a function: the Python file). name: of
    the function; arguments: what it is called with. columns: of a CSV file, the columns of each array; label: the
    column that holds the label. scale: by arrays' names, what the numbers are divided by; shapes: of an example.
    """

    kind: str
    files: Mapping[str, str]
    name: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    label: str = "label"
    scale: Mapping[str, float] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def loaded(source: DataSource) -> Any:
    """A dict of arrays by name; of a function whatever it gives. Raises ModelError for files that cannot be read as
    what they should be, ShapeError, ArgumentError.
    """
    if source.kind == "function":
        found = called(source.files[""], source.name, source.arguments)
        if not isinstance(found, Mapping):
            if source.scale or source.shapes:
                raise ArgumentError(f"{source.name}: scale and shapes are for a dict of arrays; it gave {brief(found)}")
            return found
        arrays = arrays_of(found, source.name)
    elif source.kind == "npz":
        arrays = arrays_of(_npz(source.files[""]), source.files[""])
    elif source.kind == "csv":
        arrays = _csv(source.files[""], source.columns, source.label)
    else:
        arrays = arrays_of({name: read_idx(path) for name, path in source.files.items()}, "idx")
    return {name: _prepared(name, array, source) for name, array in arrays.items()}


def _prepared(name: str, array: np.ndarray, source: DataSource) -> np.ndarray:
    if name in source.scale:
        array = array.astype(np.float32) / np.float32(source.scale[name])
    shape = source.shapes.get(name)
    if shape is not None:
        if math.prod(shape) * len(array) != array.size:
            raise ShapeError(f"shapes: {name}: an example has the shape {list(array.shape[1:])}, not {list(shape)}")
        array = array.reshape(len(array), *shape)
    return array


def as_inputs_of(arrays: Loaded, inputs: tuple[Value, ...]) -> Loaded:
    """The arrays with those of inputs in the inputs' types, where that loses no kind of numbers (f64 to f32, integers
    to floats).
    """
    types = {value.name: value.dtype for value in inputs}
    found = {}
    for name, array in arrays.items():
        wanted = types.get(name)
        if wanted is not None and wanted.numpy != array.dtype and (wanted.is_float or array.dtype.kind in "iub"):
            is_float = array.dtype.kind not in "iub" and from_numpy(array.dtype).is_float
            if wanted.is_float or not is_float:
                array = array.astype(wanted.numpy)
        found[name] = array
    return found


# ---- files -----------------------------------------------------------------------------------------------------------


def _npz(path: str) -> Loaded:
    with plain_file(path, "npz") as file:
        try:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                raise ModelError(f"{path}: a single array without a name; save an npz file of arrays by inputs' names")
            with found:
                return {name: found[name] for name in found.files}
        except MapstoError:
            raise
        except MemoryError:
            raise ModelError(f"{path} cannot be read: no memory for the arrays that it says it holds") from None
        except Exception as error:  # zipfile, zlib and numpy raise all kinds for damaged files
            raise ModelError(f"{path} cannot be read as npz (without pickled objects): {error}") from None


def read_idx(path: str) -> np.ndarray:
    """The array of an idx file, the format of MNIST; one whose name ends in .gz is unpacked. Raises ModelError.

    Two zero bytes, a type, a rank, one big-endian unsigned 32 bits for each extent, the elements.
    """
    with plain_file(path, "idx") as file:
        data = file.read(_LARGEST_TEXT)
    if path.endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ModelError(f"{path} cannot be unpacked ({error})") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX_TYPES:
        raise ModelError(f"{path} is no idx file: it begins with {data[:4].hex() or 'nothing'}")
    dtype, rank = np.dtype(_IDX_TYPES[data[2]]), data[3]
    start = 4 + 4 * rank
    if len(data) < start:
        raise ModelError(f"{path} is cut short: it ends within its shape")
    shape = [int(extent) for extent in np.frombuffer(data, ">u4", rank, 4)]
    if start + math.prod(shape) * dtype.itemsize != len(data):
        raise ModelError(f"{path}: {len(data) - start} bytes of elements are not {shape} of {dtype.name}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _csv(path: str, columns: Mapping[str, tuple[str, ...]], label: str) -> Loaded:
    """Columns of numbers, under a line of names. An array without columns of its own has all that are left."""
    with plain_file(path, "CSV") as file:
        data = file.read(_LARGEST_TEXT)
    try:
        rows = [row for row in csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ModelError(f"{path} is no CSV file ({error})") from None
    if len(rows) < 2:
        raise ModelError(f"{path}: expected a line of names, and lines of numbers")
    names, numbers = [name.strip() for name in rows[0]], np.empty((len(rows) - 1, len(rows[0])))
    for at, row in enumerate(rows[1:]):
        if len(row) != len(names):
            raise ModelError(f"{path}: row {at + 1} has {len(row)} fields, the line of names {len(names)}")
        for column, text in enumerate(row):
            try:
                numbers[at, column] = float(text)
            except ValueError:
                raise ModelError(f"{path}: row {at + 1}, {names[column]}: {text!r} is no number") from None
    return _arrays_of_columns(path, names, numbers, columns, label)


def _arrays_of_columns(
    path: str, names: list[str], numbers: np.ndarray, columns: Mapping[str, tuple[str, ...]], label: str
) -> Loaded:
    used = {column for each in columns.values() for column in each}
    missing = [name for name in (*used, label) if name not in names]
    if missing:
        raise ModelError(f"{path}: there is no column {', '.join(missing)}; there are {', '.join(names)}")
    left = tuple(name for name in names if name not in used and name != label)
    chosen = {array: each or left for array, each in columns.items()} or {"x": left}
    found = {
        array: np.ascontiguousarray(numbers[:, [names.index(column) for column in each]], np.float32)
        for array, each in chosen.items()
    }
    wanted = numbers[:, names.index(label)]
    found["label"] = wanted.astype(np.int64) if np.array_equal(wanted, np.rint(wanted)) else wanted.astype(np.float32)
    return found


# ---- functions of Python files ---------------------------------------------------------------------------------------


def called(path: str, name: str, arguments: Mapping[str, Any], **offered: Any) -> Any:
    """What a function of a Python file gives. The file's code is run. offered: arguments that it gets where it takes
    them. What it raises becomes an ArgumentError, with that as its cause.
    """
    function = _function(path, name)
    takes = _parameters(function)
    given = {**{key: value for key, value in offered.items() if key in takes}, **arguments}
    try:
        return function(**given)
    except MapstoError:
        raise
    except Exception as error:
        raise ArgumentError(f"{path}:{name} raised {type(error).__name__}: {error}") from error


def _parameters(function: Any) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return set()


def _function(path: str, name: str) -> Any:
    with plain_file(path, "Python"):
        pass  # it is one that can be read
    key = f"{os.path.abspath(path)} {os.stat(path).st_mtime_ns}"
    module_name = f"_recipe_{zlib.crc32(os.fsencode(key)):08x}"
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise ArgumentError(f"{path}: Python takes this for no file of code; call it NAME.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            raise ArgumentError(f"{path} raised {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ArgumentError(f"{path} has no function {name!r}; it has {', '.join(known) or 'none'}")
    return function
