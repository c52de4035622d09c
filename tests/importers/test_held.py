"""Large tensors of a model's file are held where they were read: the graph is the same, and what is odd is read as a
whole.
"""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mapsto.errors import MapstoError, ModelError
from mapsto.importers import onnx as importer
from mapsto.importers.onnx.held import LEAST, ReadModel, read_model
from mapsto.importers.onnx.reader import read
from mapsto.ir.text import print_graph

LARGE = LEAST // 4 + 3  # elements of f32


def model(*tensors: TensorProto) -> onnx.ModelProto:
    """An addition of all tensors, of one shape, to an input."""
    nodes = [
        helper.make_node("Add", [f"s{n}" if n else "x", each.name], [f"s{n + 1}"]) for n, each in enumerate(tensors)
    ]
    shape = list(tensors[0].dims)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", f"s{len(tensors)}")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], list(tensors), doc_string="sums")
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def tensor(name: str, count: int = LARGE, seed: int = 0) -> TensorProto:
    return numpy_helper.from_array(np.random.default_rng(seed).normal(size=count).astype(np.float32), name)


def split(data: bytes) -> ReadModel:
    found = read_model(io.BufferedReader(io.BytesIO(data)), len(data))
    assert b"".join(bytes(piece) for piece in found.pieces) == data
    return found


def test_what_is_large_is_held_and_all_else_is_in_the_message() -> None:
    made = model(tensor("a"), tensor("b", seed=1))
    made.graph.initializer.append(tensor("small", 7))
    found = split(made.SerializeToString())
    left = onnx.ModelProto.FromString(found.message)
    assert len(found.held) == 2 and len(found.message) < 1000
    for before, after in zip(made.graph.initializer, left.graph.initializer, strict=True):
        if before.name != "small":
            assert after.data_location == TensorProto.EXTERNAL
            assert bytes(found.held[after.external_data[0].value]) == before.raw_data
            after.ClearField("external_data")
            after.ClearField("data_location")
            after.raw_data = before.raw_data
    assert left == made


def test_each_held_tensor_is_a_constant_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An array is gone when the next one is read, which may then have its id."""
    made = model(*(tensor(f"t{n}", seed=n) for n in range(3)))
    onnx.save(made, path := tmp_path / "m.onnx")
    monkeypatch.setattr("mapsto.importers.onnx.translate.id", lambda _: 0, raising=False)
    constants = importer.load(path).constants
    for each in made.graph.initializer:
        assert np.array_equal(constants[each.name], numpy_helper.to_array(each))


def test_a_file_gives_the_graph_that_its_bytes_give(tmp_path: Path) -> None:
    made = model(tensor("a"), tensor("b", seed=1))
    onnx.save(made, path := tmp_path / "m.onnx")
    of_file, of_bytes = importer.load(path), importer.load(made.SerializeToString())
    assert len(read(path).files.held) == 2 and not read(path, whole=True).files.held
    assert read(path, whole=True).model == made
    for name, array in of_bytes.constants.items():
        assert of_file.constants[name].tobytes() == array.tobytes() and of_file.constants[name].flags.aligned


def test_bytes_are_in_memory_once(tmp_path: Path) -> None:
    onnx.save(model(tensor("a", 1 << 22)), path := tmp_path / "m.onnx")
    tracemalloc.start()
    graph = importer.load(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (1 << 24) <= most < 1.3 * (1 << 24) and len(graph.constants) == 1


@pytest.mark.parametrize("count", [LARGE - 1, LARGE + 1])
def test_a_size_that_does_not_agree_is_named(count: int, tmp_path: Path) -> None:
    wrong = tensor("a")
    wrong.dims[0] = count
    onnx.save(model(wrong), path := tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=f"'a': {4 * LARGE} bytes of data for .{count}. elements of f32"):
        importer.load(path)


def odd_forms() -> dict[str, bytes]:
    plain = model(tensor("a")).SerializeToString()
    twice = model(tensor("a"))
    external = model(tensor("a"))
    external.graph.initializer[0].data_location = TensorProto.EXTERNAL
    again = onnx.ModelProto()
    again.graph.initializer.append(tensor("b"))
    doubled = twice.graph.initializer[0].SerializeToString()
    raw = doubled[doubled.index(twice.graph.initializer[0].raw_data[:16]) - 5 :]
    inner = model(tensor("a"))
    inner.graph.ClearField("initializer")
    head = inner.SerializeToString()
    return {
        "two graphs": plain + again.SerializeToString(),
        "a group": plain + b"\x0b\x0c",
        "external besides": external.SerializeToString(),
        "raw data twice": head + _delimited(7, _delimited(5, doubled + raw)),
        "a varint without end": plain + b"\xff" * 11,
        "a length past the end": plain + b"\x12\x7f",
    }


def _delimited(number: int, value: bytes) -> bytes:
    length, digits = len(value), bytearray([number << 3 | 2])
    while length >= 0x80:
        digits.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes(digits) + bytes([length]) + value


@pytest.mark.parametrize("name", odd_forms())
def test_what_is_odd_is_read_as_a_whole(name: str) -> None:
    data = odd_forms()[name]
    found = split(data)
    assert found.message == data and not found.held


def test_a_location_of_a_held_tensor_is_no_file_s(tmp_path: Path) -> None:
    """Beside a tensor that is held, one that says the same of itself is that tensor, and no file is opened."""
    made = model(tensor("a"), tensor("b", 16))
    says = TensorProto(name="b", data_type=1, dims=[16], data_location=TensorProto.EXTERNAL)
    made.graph.initializer[1].CopyFrom(says)
    entry = made.graph.initializer[1].external_data.add()
    entry.key, entry.value = "location", "\x000"
    onnx.save(made, path := tmp_path / "m.onnx")
    with pytest.raises(MapstoError, match="'b'"):
        importer.load(path)


def outcome(source: Path | bytes) -> str:
    """The graph's text, or the kind of error."""
    try:
        return print_graph(importer.load(source), elide=True)
    except MapstoError as error:
        return type(error).__name__


def test_a_file_that_is_cut_short_is_as_its_bytes_are(tmp_path: Path) -> None:
    data = model(tensor("a")).SerializeToString()
    found = set()
    for length in (*range(1, 40), *range(len(data) - 300, len(data), 7), len(data) // 2):
        (path := tmp_path / "m.onnx").write_bytes(data[:length])
        found.add(now := outcome(path).replace("graph m(", "graph g("))
        assert now == outcome(data[:length]).replace("graph model(", "graph g(")
    assert "ModelError" in found


@given(st.integers(0, 3000), st.binary(min_size=1, max_size=3))
def test_a_byte_that_is_another_never_ends_otherwise(place: int, other: bytes) -> None:
    """The message, with what is held put back, is as protobuf has the whole; or neither can be read."""
    data = model(tensor("a"), tensor("b", 9)).SerializeToString()
    at = place if place < 1500 else len(data) - 1 - (place - 1500)
    data = data[: max(at, 0)] + other + data[max(at, 0) + len(other) :]
    found = split(data)
    try:
        whole = onnx.ModelProto.FromString(data)
    except Exception:  # protobuf's own
        whole = None
    try:
        left = onnx.ModelProto.FromString(found.message)
    except Exception:
        left = None
    assert (whole is None) == (left is None)
    if whole is not None and left is not None:
        for each in left.graph.initializer:
            held = [e for e in each.external_data if e.value in found.held]
            if held:
                each.raw_data = bytes(found.held[held[0].value])
                each.ClearField("external_data")
                each.ClearField("data_location")
        assert left.SerializeToString(deterministic=True) == whole.SerializeToString(deterministic=True)
