"""A model file is untrusted input: only errors of ours come out of it, and nothing outside its folder is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import TensorProto
from tests.importers.models import graph, ints, model, node, port

from mapsto.budget import Budget
from mapsto.errors import MapstoError, ModelError, UnsupportedError
from mapsto.importers.onnx import load
from mapsto.passes import run_passes

# -- damaged files -----------------------------------------------------------------------------------------------------


def several_ops() -> bytes:
    """A small model with a bit of everything: attributes, a branch, a window, a size that depends on data."""
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["c"], ["r"]),
        node("MaxPool", ["r"], ["m"], kernel_shape=[2, 2]),
        node("Shape", ["m"], ["s"]),
        node("Slice", ["s", "zero", "one"], ["n"]),
        node("Concat", ["n", "open"], ["t"], axis=0),
        node("Reshape", ["m", "t"], ["f"]),
        node("Gemm", ["f", "g"], ["h"], transB=1),
        node(
            "If",
            ["p"],
            ["i"],
            then_branch=graph([node("Neg", ["h"], ["u"])], ["u"]),
            else_branch=graph([node("Exp", ["h"], ["v"])], ["v"]),
        ),
        node("Softmax", ["i"], ["y"], axis=1),
        node("NonZero", ["y"], ["z"]),
    ]
    constants = {
        "w": rng.standard_normal((3, 2, 3, 3)).astype(np.float32),
        "b": np.zeros(3, np.float32),
        "g": rng.standard_normal((4, 27)).astype(np.float32),
        "zero": ints(0),
        "one": ints(1),
        "open": ints(-1),
    }
    inputs = [port("x", ["n", 2, 8, 8]), port("p", [], np.bool_)]
    return bytes(model(nodes, inputs, ["y", "z"], constants).SerializeToString())


WHOLE = several_ops()
SMALL = Budget(nodes=1000, bytes=1 << 22)


def only_our_errors(data: bytes) -> None:
    try:
        load(data, budget=SMALL)
    except MapstoError as error:
        assert str(error)


def test_the_model_that_is_damaged_below_is_right() -> None:
    assert {"conv", "if", "bind_dim"} <= {n.op for n in load(WHOLE).nodes}


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(WHOLE) - 1))
def test_a_file_cut_short(length: int) -> None:
    only_our_errors(WHOLE[:length])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_file_with_bytes_changed(changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for at, byte in changes:
        data[at] = byte
    only_our_errors(bytes(data))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_a_file_of_anything(data: bytes) -> None:
    only_our_errors(data)


# Values that an attribute or a shape should not have.
_ODD = [-(2**63), -7, -1, 0, 1, 5, 2**31, 2**62]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_attributes_and_constants_out_of_range(data: st.DataObject) -> None:
    proto = onnx.ModelProto.FromString(WHOLE)
    numbers = [
        a
        for n in proto.graph.node
        for a in n.attribute
        if a.type in (onnx.AttributeProto.INT, onnx.AttributeProto.INTS)
    ]
    if data.draw(st.booleans()):
        attribute = data.draw(st.sampled_from(numbers))
        value = data.draw(st.sampled_from(_ODD))
        if attribute.type == onnx.AttributeProto.INT:
            attribute.i = value
        else:
            attribute.ints[data.draw(st.integers(0, len(attribute.ints) - 1))] = value
    else:
        tensor = data.draw(st.sampled_from([t for t in proto.graph.initializer if t.data_type == TensorProto.INT64]))
        tensor.raw_data = np.int64(data.draw(st.sampled_from(_ODD))).tobytes()
    only_our_errors(proto.SerializeToString())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_nodes_with_their_wires_crossed(data: st.DataObject) -> None:
    proto = onnx.ModelProto.FromString(WHOLE)
    names = (
        [o for n in proto.graph.node for o in n.output]
        + [t.name for t in proto.graph.initializer]
        + ["", "x", "nothing"]
    )
    for _ in range(data.draw(st.integers(1, 3))):
        chosen = data.draw(st.sampled_from(list(proto.graph.node)))
        chosen.input[data.draw(st.integers(0, len(chosen.input) - 1))] = data.draw(st.sampled_from(names))
    only_our_errors(proto.SerializeToString())


# -- tensors that lie about themselves ---------------------------------------------------------------------------------


def with_weight(change: Any) -> Any:
    proto = model([node("Add", ["x", "w"])], {"x": [4]}, constants={"w": np.ones(4, np.float32)})
    change(proto.graph.initializer[0])
    return proto


def dims(*extents: int) -> Any:
    def change(tensor: Any) -> None:
        tensor.dims[:] = extents

    return change


@pytest.mark.parametrize("extents", [(5,), (3,), (2**40, 2**40), (2**63 - 1,), (-4,), (1,) * 50])
def test_a_shape_that_its_data_do_not_fill(extents: tuple[int, ...]) -> None:
    with pytest.raises(ModelError):
        load(with_weight(dims(*extents)))


def test_typed_fields_are_checked_as_well() -> None:
    def change(tensor: Any) -> None:
        tensor.ClearField("raw_data")
        tensor.float_data.extend([1.0, 2.0])

    with pytest.raises(ModelError, match="2 elements in `float_data` for shape"):
        load(with_weight(change))


@pytest.mark.parametrize("kind", [TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.UNDEFINED, 27, 99])
def test_element_types_without_a_twin_are_named(kind: int) -> None:
    def change(tensor: Any) -> None:
        tensor.data_type = kind

    with pytest.raises(UnsupportedError, match="element type"):
        load(with_weight(change))


@pytest.mark.parametrize(
    ("kind", "bits", "expected"),
    [(TensorProto.FLOAT16, [0x3C00, 0xC000], [1.0, -2.0]), (TensorProto.BFLOAT16, [0x3F80, 0xC000], [1.0, -2.0])],
)
def test_half_precision_is_read_from_bits(kind: int, bits: list[int], expected: list[float]) -> None:
    for raw in (True, False):
        tensor = onnx.TensorProto(name="w", data_type=kind, dims=[2])
        if raw:
            tensor.raw_data = np.array(bits, "<u2").tobytes()
        else:
            tensor.int32_data.extend(bits)
        proto = model([node("Cast", ["w"], to=TensorProto.FLOAT)], {})
        proto.graph.initializer.append(tensor)
        (constant,) = [a for a in load(proto).constants.values() if a.dtype == np.float32]
        np.testing.assert_array_equal(constant, expected)


def test_a_boolean_is_true_or_false_whatever_its_byte() -> None:
    proto = model([node("Where", ["c", "x", "n"])], {"x": [2]}, constants={"n": np.zeros(2, np.float32)})
    proto.graph.initializer.append(
        onnx.TensorProto(name="c", data_type=TensorProto.BOOL, dims=[2], raw_data=b"\x02\x00")
    )
    (array,) = [a for a in load(proto).constants.values() if a.dtype == np.bool_]
    assert array.tobytes() == b"\x01\x00"


# -- external data -----------------------------------------------------------------------------------------------------


def external(folder: Path, location: str, offset: str = "0", length: str = "16") -> Path:
    def change(tensor: Any) -> None:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=value)

    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(with_weight(change).SerializeToString())
    return path


WEIGHTS = np.arange(8, dtype=np.float32)


def test_external_data_beside_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    path = external(folder, "data/./weights.bin", offset="16")
    (folder / "data").mkdir()
    (folder / "data" / "weights.bin").write_bytes(WEIGHTS.tobytes())
    np.testing.assert_array_equal(load(path).constants["w"], [4, 5, 6, 7])


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "/etc/passwd", "data/../../secret.bin", "..\\secret.bin", "", ".", "C:/x", "a\0b", "missing.bin"],
)
def test_external_data_elsewhere_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(WEIGHTS.tobytes())
    with pytest.raises(ModelError):
        load(external(tmp_path / "m", location))


@pytest.mark.parametrize("kind", ["symlink", "hard link", "linked folder", "folder", "fifo"])
def test_links_and_special_files_are_refused(tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(WEIGHTS.tobytes())
    path = external(tmp_path / "m", "sub/secret.bin" if kind == "linked folder" else "weights.bin")
    target = path.parent / "weights.bin"
    if kind == "symlink":
        target.symlink_to(secret)
    elif kind == "hard link":
        os.link(secret, target)
    elif kind == "linked folder":
        (path.parent / "sub").symlink_to(tmp_path, target_is_directory=True)
    elif kind == "folder":
        target.mkdir()
    else:
        os.mkfifo(target)
    with pytest.raises(ModelError):
        load(path)


def store(tmp_path: Path, link: str) -> tuple[Path, Path]:
    """(the path of a model, the folder) of a download cache: what is loaded are links into a folder of contents."""
    cache = tmp_path / "cache"
    snapshot = cache / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    path = external(cache / "blobs", "model.data")
    path.rename(cache / "blobs" / "aa")
    (cache / "blobs" / "bb").write_bytes(WEIGHTS.tobytes())
    (snapshot / "model.onnx").symlink_to("../../blobs/aa")
    (snapshot / "model.data").symlink_to(link.format(cache=cache))
    return snapshot / "model.onnx", cache


@pytest.mark.parametrize(
    "link", ["../../blobs/bb", "../.././blobs//bb", "{cache}/blobs/bb", "other", "../1/../../blobs/bb"]
)
def test_links_inside_a_store_are_followed_where_its_root_is_given(tmp_path: Path, link: str) -> None:
    path, cache = store(tmp_path, link)
    (path.parent / "other").symlink_to("../../blobs/bb")
    (tmp_path / "way").symlink_to(cache)
    for root in (cache, str(cache), tmp_path, tmp_path / "way", Path(os.path.relpath(cache))):
        np.testing.assert_array_equal(load(path, data_root=root).constants["w"], [0, 1, 2, 3])
    with pytest.raises(ModelError, match="model.data' is a symbolic link, to .*name the cache's folder as `data_root`"):
        load(path)


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ("../../../secret", "leads out of the data root"),
        ("/etc/passwd", "leads out of the data root .*, to /etc/passwd"),
        ("../../blobs/out", "leads out of the data root"),
        ("../../blobs/outside/secret", "leads out of the data root"),
        ("model.data", "too many symbolic links"),
        ("../../blobs", "not a plain file"),
        ("../../blobs/hard", "hard link"),
        ("../../blobs/pipe", "not a plain file"),
        ("../../blobs/none", "cannot be read"),
    ],
)
def test_no_link_leads_out_of_the_root(tmp_path: Path, link: str, message: str) -> None:
    path, cache = store(tmp_path, link)
    (tmp_path / "secret").write_bytes(WEIGHTS.tobytes())
    (cache / "blobs" / "out").symlink_to("../../secret")
    (cache / "blobs" / "outside").symlink_to(tmp_path)
    os.link(tmp_path / "secret", cache / "blobs" / "hard")
    os.mkfifo(cache / "blobs" / "pipe")
    with pytest.raises(ModelError, match=message):
        load(path, data_root=cache)


def test_the_root_must_hold_the_model(tmp_path: Path) -> None:
    path, cache = store(tmp_path, "../../blobs/bb")
    with pytest.raises(ModelError, match="does not lie in the data root"):
        load(path, data_root=cache / "blobs")
    for wrong in (tmp_path / "none", path, 5, ""):
        with pytest.raises(MapstoError, match="data_root"):
            load(path, data_root=wrong)


def test_descriptors_are_closed_whatever_a_link_says(tmp_path: Path) -> None:
    path, cache = store(tmp_path, "../../blobs/none")
    good, _ = store(tmp_path / "good", "../../blobs/bb")
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        for root in (None, cache):
            with pytest.raises(ModelError):
                load(path, data_root=root)
        load(good, data_root=tmp_path)
    assert len(os.listdir("/proc/self/fd")) == len(before)


# -- files that are no models ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n", "Git LFS pointer.*git lfs pull"),
        (b"PK\x03\x04" + bytes(60), "zip archive"),
        (b"hello\n", "a text"),
        (b"", "the file is empty: it holds no graph"),
        (bytes(1000), "zeros at its start"),
    ],
)
def test_files_that_are_no_models_are_told_what_they_are(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=f"m.onnx: .*{message}"):
        load(tmp_path / "m.onnx")


def test_a_file_larger_than_models_are_is_not_read(tmp_path: Path) -> None:
    for size, message in (
        (3 << 30, "holds 2147483647 at most"),
        (1 << 40, "holds 2147483647 at most"),
        (1 << 30, "zeros"),
    ):
        with open(tmp_path / "m.onnx", "wb") as file:
            file.truncate(size)  # takes no room on the disk
        with pytest.raises(ModelError, match=message):
            load(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("offset", "length"),
    [("17", "16"), ("-1", "16"), ("0", "15"), ("0", "99999999999999999999"), ("1e3", "16"), ("٣", "16")],
)
def test_external_sizes_are_checked(tmp_path: Path, offset: str, length: str) -> None:
    path = external(tmp_path / "m", "weights.bin", offset, length)
    (path.parent / "weights.bin").write_bytes(WEIGHTS.tobytes())
    with pytest.raises(ModelError):
        load(path)


def test_a_model_without_a_file_has_no_folder(tmp_path: Path) -> None:
    path = external(tmp_path / "m", "weights.bin")
    with pytest.raises(ModelError, match="pass its path"):
        load(path.read_bytes())


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        load(tmp_path / "nothing.onnx")


# -- small files that ask for much -------------------------------------------------------------------------------------


def doubling() -> Any:
    """50 concats, each of the one before with itself: 4 * 2^50 elements."""
    nodes = [node("Concat", [f"v{i}", f"v{i}"], [f"v{i + 1}"], axis=0) for i in range(50)]
    return model(nodes, {}, ["v50"], {"v0": np.ones(4, np.float32)})


def powers() -> Any:
    """n^(2^60), as shape arithmetic."""
    nodes = [node("Shape", ["x"], ["v0"]), *(node("Mul", [f"v{i}", f"v{i}"], [f"v{i + 1}"]) for i in range(60))]
    return model(nodes, {"x": ["n"]}, ["v60"])


def extremes() -> Any:
    """min and max nested 60 deep, the value twice in each."""
    nodes = [node("Shape", ["x"], ["v0"])]
    for i in range(60):
        nodes.append(node("Add", [f"v{i}", "k"], [f"a{i}"]))
        nodes.append(node("Mul", [f"v{i}", "two"], [f"b{i}"]))
        nodes.append(node("Min", [f"a{i}", f"b{i}"], [f"v{i + 1}"]))
    return model(nodes, {"x": ["n"]}, ["v60"], {"k": ints(3), "two": ints(2)})


def filled() -> Any:
    return model([node("ConstantOfShape", ["s"])], {}, constants={"s": ints(2**20, 2**20)})


@pytest.mark.parametrize("make", [doubling, powers, extremes, filled])
def test_what_is_asked_for_is_not_built_when_compiling(make: Any) -> None:
    graph_ = run_passes(load(make()))
    assert graph_.nodes
    assert sum(array.size for array in graph_.constants.values()) < 1 << 25


def test_sizes_that_grow_without_end_are_refused() -> None:
    """The outer product of a vector with itself, flattened, 40 times: n^(2^40) elements."""
    nodes = []
    for i in range(40):
        nodes.append(node("Unsqueeze", [f"v{i}", "zero"], [f"r{i}"]))
        nodes.append(node("Unsqueeze", [f"v{i}", "one"], [f"c{i}"]))
        nodes.append(node("Mul", [f"r{i}", f"c{i}"], [f"o{i}"]))
        nodes.append(node("Reshape", [f"o{i}", "flat"], [f"v{i + 1}"]))
    proto = model(nodes, {"v0": ["n"]}, ["v40"], {"zero": ints(0), "one": ints(1), "flat": ints(-1)})
    with pytest.raises(MapstoError, match="too long to follow"):
        load(proto)
