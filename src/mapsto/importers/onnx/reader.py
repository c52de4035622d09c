"""Reads an ONNX model file into its protobuf message, within the budget. A model file is untrusted input."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from mapsto.arguments import brief
from mapsto.budget import current
from mapsto.errors import ArgumentError, ModelError
from mapsto.files import name_of, plain_file, taken_for
from mapsto.importers.external import DataFiles
from mapsto.importers.onnx.held import ReadModel, read_model
from mapsto.witness import MODEL
from mapsto.witness import current as witness

# The versions that the rows were written for. Newer files are tried: what changed shows as an error of the node
# concerned.
OLDEST_OPSET = 1
NEWEST_OPSET = 28
NEWEST_IR = 14
MOST_VERSION = (1 << 31) - 1  # of an operator set: the onnx package counts them so
MOST_DOMAINS = 256  # of operator sets; each function carries those around it
LARGEST_FILE = (1 << 31) - 1  # of protobuf, bytes
# The most bytes of elements that a byte of a file stands for: a 64-bit integer is written in as little as one.
_OF_A_BYTE = 8
_OLD_KERAS = ".h5", ".hdf5"
_CONVERTED = (
    "convert it to ONNX (`python -m tf2onnx.convert --saved-model FOLDER --output model.onnx`), or save a Keras "
    "model as a `.keras` file"
)
# Inputs and outputs of a node that are not counted: the call costs more.
_FEW = 16


@dataclass(frozen=True)
class Source:
    """A model, and where its external data may lie."""

    model: Any
    files: DataFiles
    name: str

    @property
    def opsets(self) -> dict[str, int]:
        """Versions of the operator sets by domain, the standard one among them. Raises ModelError."""
        # files of before IR version 3 say none: they are of the first set
        unsaid = OLDEST_OPSET if 0 < self.model.ir_version < 3 else NEWEST_OPSET
        return {"": unsaid, **opset_of(self.model.opset_import, self.name)}


def read(source: Any, data_root: str | os.PathLike[str] | None = None, whole: bool = False) -> Source:
    """Parses a model from a path, its bytes, or takes a `ModelProto`, or what was read before, as it is. whole: the
    message has all of a file, to be written again; else its large tensors are held beside it. Raises ModelError,
    ArgumentError.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, onnx.ModelProto):
        current().earn("tensors", _OF_A_BYTE * source.ByteSize())
        return _checked(Source(source, DataFiles(None), "model"))
    if isinstance(source, (bytes, bytearray, memoryview)):
        current().charge("bytes", len(source), "the model")
        current().earn("tensors", _OF_A_BYTE * len(source))
        return _checked(Source(_parse(bytes(source), "the model"), DataFiles(None), "model"))
    if not isinstance(source, (str, os.PathLike)):
        raise ArgumentError(
            f"model: expected a path, the bytes of an ONNX file, an onnx.ModelProto or a graph, got {brief(source)}"
        )
    path = Path(name_of(source, "model"))
    content = _content(path, whole)
    # a path that is a link is followed, as the user named it; the model's folder is that of the link
    files = DataFiles(path.parent, None if data_root is None else _root(data_root), content.held)
    try:
        return _checked(Source(_parse(content.message, str(path)), files, path.stem))
    except ModelError as error:
        if path.suffix == ".pb":
            raise ModelError(f"{error}; if it is a graph of TensorFlow: {_CONVERTED}") from error
        raise


def _content(path: Path, whole: bool) -> ReadModel:
    if (path / "saved_model.pb").exists() or path.name == "saved_model.pb" or path.suffix == ".tflite":
        raise ModelError(f"{path}: a graph of TensorFlow is not read: {_CONVERTED}")
    if path.suffix in _OLD_KERAS:
        raise ModelError(f"{path}: Keras's older files are not read: save the model as a `.keras` file")
    with plain_file(path, "model") as file:
        seen = None if (told := witness()) is None else told.opened(MODEL, file.fileno())
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise ModelError(f"{path}: the file is empty: it holds no graph")
        if size > LARGEST_FILE:
            raise ModelError(
                f"{path}: not an ONNX model: {size} bytes, and such a file holds {LARGEST_FILE} at most; larger models "
                "keep their tensors in files beside it (external data)"
            )
        head = file.read(64)
        if looks := taken_for(head):
            raise ModelError(f"{path}: not an ONNX model: it is {looks}")
        current().charge("bytes", size, str(path))
        current().earn("tensors", _OF_A_BYTE * size)
        file.seek(0)
        content = read_model(file, size) if not whole else ReadModel(data := file.read(size), {}, (data,))
        if seen is not None:
            seen.add(0, content.pieces)
        return content


def _root(folder: Any) -> Path:
    root = Path(name_of(folder, "data_root"))
    if not os.path.isdir(root):
        raise ArgumentError(f"data_root: there is no folder {root}")
    return root


def _parse(data: bytes, where: str) -> Any:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, ValueError, RuntimeError) as error:
        looks = taken_for(data[:64]) or ("a text" if _is_text(data[:64]) else None)
        said = f"it is {looks}" if looks else str(error)
        raise ModelError(f"{where}: not an ONNX model, or a damaged one ({said})") from error
    return model


def _is_text(head: bytes) -> bool:
    return bool(head) and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head)


def _checked(source: Source) -> Source:
    model = source.model
    if not model.HasField("graph"):
        raise ModelError(f"{source.name}: the file holds no graph; is it an ONNX model?")
    if model.ir_version > NEWEST_IR:
        raise ModelError(
            f"{source.name}: IR version {model.ir_version} is newer than {NEWEST_IR}, the newest known; "
            "save the model in an older version"
        )
    check_names(model.graph, source.name)
    for function in model.functions:
        check_names(function, source.name)
    return source


def check_names(graph: Any, where: str, depth: int = 0) -> None:
    """Names must be text (protobuf hands over bytes where they are not UTF-8), and no longer than the budget allows;
    neither may graphs be nested deeper.
    """
    meter = current()
    meter.check("depth", depth, where)
    names = [graph.name]
    for entry in (*graph.input, *graph.output, *getattr(graph, "initializer", ())):
        names.append(entry if isinstance(entry, (str, bytes)) else entry.name)
        if isinstance(entry, onnx.ValueInfoProto):
            names.extend(dim.dim_param for dim in entry.type.tensor_type.shape.dim)
    for index, node in enumerate(graph.node):
        if (ports := len(node.input) + len(node.output)) > _FEW:
            name = node.name[:80] or f"{node.op_type[:80]}_{index}"
            meter.check("operands", ports, f"{where}: node {name!r} ({node.op_type[:80]})")
        names.extend((node.name, node.op_type, node.domain, *node.input, *node.output))
        for attribute in node.attribute:
            names.extend((attribute.name, attribute.ref_attr_name))
            if attribute.HasField("g"):
                check_names(attribute.g, where, depth + 1)
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise ModelError(f"{where}: the name {wrong[:40]!r} is not text: the file is damaged")
    longest = max(names, key=len)
    meter.check("name", len(longest), f"{where}: the name {longest[:40]!r}...")


def opset_of(imports: Any, where: str) -> dict[str, int]:
    """Versions of the operator sets by domain ('' is the standard one). Raises ModelError for versions out of range,
    and for more domains than any model has.
    """
    if len(imports) > MOST_DOMAINS:
        raise ModelError(f"{where}: {len(imports)} operator sets are imported; {MOST_DOMAINS} are allowed")
    found = {("" if entry.domain == "ai.onnx" else entry.domain): int(entry.version) for entry in imports}
    standard = found.get("", NEWEST_OPSET)
    if not OLDEST_OPSET <= standard <= NEWEST_OPSET:
        raise ModelError(
            f"{where}: opset {standard} is outside {OLDEST_OPSET}..{NEWEST_OPSET}; "
            "export it for one of these, or convert it with onnx.version_converter"
        )
    wrong = {domain: version for domain, version in found.items() if not 0 <= version <= MOST_VERSION}
    if wrong:
        raise ModelError(f"{where}: there are no such versions of operator sets: {wrong}")
    return found
