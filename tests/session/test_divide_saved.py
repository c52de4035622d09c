"""Models on several devices, saved and loaded: the same bits; devices that are not there; files that are damaged."""

from __future__ import annotations

import copy
import hashlib
import json
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import opencl
from tests.random_graphs import Case, cases
from tests.session.divisions import COUNT, at_random, common, diamond, split_diamond, two_branches, wanted
from tests.session.test_divide_updates import PAIRS, two_states

import mapsto
from mapsto.devices.backend import Backend
from mapsto.devices.cpu.workers import Workers
from mapsto.devices.opencl import saved as opencl_saved
from mapsto.errors import FileError, ModelError, UnsupportedError
from mapsto.ir.graph import Graph
from mapsto.runtime import artifact, container, division_file
from mapsto.runtime.divided import DividedExecutable
from mapsto.runtime.executable import load as load_one
from mapsto.session.compile import prepared
from mapsto.session.division import divided, replicated


@pytest.fixture(scope="module")
def backends() -> Iterator[Mapping[str, Backend]]:
    with Workers(cache=False, isa=None) as workers:
        yield {"cpu": workers, "opencl": opencl.backend()}


def again(exe: DividedExecutable, path: Path) -> DividedExecutable:
    exe.save(path)
    found = mapsto.load(path, threads=1)
    assert isinstance(found, DividedExecutable)
    assert [part.device for part in found.parts] == [part.device for part in exe.parts] and not found.notes
    return found


@settings(common, max_examples=max(COUNT // 3, 1))
@given(cases(most_nodes=8), st.integers(0, 2**32))
def test_random_cuts_give_the_same_bits(
    backends: Mapping[str, Backend], tmp_path_factory: pytest.TempPathFactory, case: Case, seed: int
) -> None:
    graph = prepared(case.model, case.shapes)
    exe = divided(graph, at_random(graph, seed), backends, 1)
    path = tmp_path_factory.getbasetemp() / "random.mapsto"
    expected, found = exe.run(case.feed), again(exe, path).run(case.feed)
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert array.tobytes() == found[name].tobytes() and array.dtype == found[name].dtype, name


@pytest.mark.parametrize("seed", range(4))
def test_sizes_that_are_open_or_of_data(seed: int, backends: Mapping[str, Backend], tmp_path: Path) -> None:
    graph = two_branches()
    seats = {name: d for name, d in at_random(graph, seed).items() if not graph.producers[name].graphs}
    exe = divided(graph, seats, backends, 1)
    loaded, rng = again(exe, tmp_path / "m.mapsto"), np.random.default_rng(seed)
    for n, m in ((3, 4), (1, 7), (0, 2)):
        x, w = rng.standard_normal((n, m)).astype(np.float32), rng.standard_normal((m, 3)).astype(np.float32)
        feed = {"x": x, "c": np.array(bool(n % 2)), "w": w}
        for name, expected in exe.run(feed).items():
            np.testing.assert_array_equal(loaded.run(feed)[name], expected)


def test_states_copies_constants_and_plans(backends: Mapping[str, Backend], tmp_path: Path) -> None:
    graph = two_states()
    exe = divided(graph, {name: k % 2 for k, name in enumerate(n.outputs[0].name for n in graph.nodes)}, backends, 1)
    loaded = again(exe, tmp_path / "m.mapsto")
    assert loaded.whole.updates == tuple(PAIRS.items())
    feeds = [{name: np.full((8, 4), 0.1, np.float32) for name in ("a", "b", "x")} for _ in range(2)]
    for feed, one in zip(feeds, (exe, loaded), strict=True):
        one.run(feed)
    assert all(np.array_equal(feeds[0][name], feeds[1][name]) for name in "abx")
    shared = again(replicated(diamond(), backends, 1), tmp_path / "c.mapsto")
    x = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    for outputs in shared.stream([{"x": x}] * 20):
        np.testing.assert_allclose(outputs["y"], wanted(x), rtol=1e-4, atol=1e-6)
    assert all(spent.runs for spent in shared.times)
    given = diamond()
    constant = Graph(given.name, given.inputs, (*given.outputs, "k"), given.nodes, {"k": np.arange(6, dtype=np.int64)})
    kept = again(divided(constant, {}, backends, 1), tmp_path / "k.mapsto").run({"x": x})["k"]
    assert kept.dtype == np.int64 and kept.tolist() == list(range(6)) and kept.flags.writeable


def model_saved(path: Path, **options: Any) -> DividedExecutable:
    opencl.required()
    digits = Path(__file__).parents[2] / "examples" / "mnist-cnn.onnx"
    pins = [("conv2", "opencl"), ("conv1", "cpu"), ("fc1", "cpu")]
    exe = mapsto.divide(
        digits, ["cpu", "opencl"], {"image": (1, 1, 28, 28)}, threads=1, adapt=False, pins=pins, **options
    )
    exe.save(path)
    return exe


IMAGE = np.random.default_rng(0).standard_normal((1, 1, 28, 28)).astype(np.float32)


def test_another_process_loads_it(tmp_path: Path) -> None:
    exe = model_saved(tmp_path / "m.mapsto")
    np.save(tmp_path / "x.npy", IMAGE)
    program = (
        "import sys, numpy as np, mapsto\n"
        f"exe = mapsto.load({str(tmp_path / 'm.mapsto')!r}, threads=1)\n"
        f"np.save({str(tmp_path / 'y.npy')!r}, exe(np.load({str(tmp_path / 'x.npy')!r})))\n"
        "assert exe.plan.works and exe.explain('conv2') and 'opencl' in exe.report()\n"
        "assert not [m for m in sys.modules if m.startswith(('mapsto.importers', 'mapsto.passes', 'onnx'))]\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "y.npy"), exe(IMAGE))
    loaded = mapsto.load(tmp_path / "m.mapsto", threads=1)
    assert isinstance(loaded, DividedExecutable) and loaded.plan_text == exe.plan_text
    loaded.save(tmp_path / "n.mapsto")
    assert (tmp_path / "n.mapsto").read_bytes() == (tmp_path / "m.mapsto").read_bytes()


def test_the_host_stands_in_for_what_fails_or_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exe = model_saved(tmp_path / "m.mapsto")
    loaded = mapsto.load(tmp_path / "m.mapsto", threads=1)
    broken = next(part.executable for part in loaded.parts if part.device == "opencl")

    def fails(inputs: object) -> None:
        raise RuntimeError("gone")

    monkeypatch.setattr(broken, "run", fails)
    np.testing.assert_allclose(loaded(IMAGE), exe(IMAGE), rtol=1e-4, atol=1e-4)
    assert loaded.lost == ["opencl"]

    def absent(number: int) -> None:
        raise UnsupportedError("there is no OpenCL device 0")

    monkeypatch.setattr(opencl_saved, "open_device", absent)
    alone = mapsto.load(tmp_path / "m.mapsto", threads=1)
    assert {part.device for part in alone.parts} == {"cpu"}
    assert "opencl is not to be had here, its parts run on cpu: there is no OpenCL device 0" in alone.report()
    np.testing.assert_allclose(alone(IMAGE), exe(IMAGE), rtol=1e-4, atol=1e-4)


def test_code_that_cannot_be_saved_says_what_does_instead(
    backends: Mapping[str, Backend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exe = split_diamond(backends["cpu"])  # type: ignore[arg-type]
    part = next(part for part in exe.parts if part.device == "opencl")
    monkeypatch.setattr(part.executable._code.engine, "_printed", None)  # type: ignore[union-attr]
    with pytest.raises(UnsupportedError, match=r"save `plan_text` beside the model .* `mapsto.divide\(model, plan="):
        exe.save(tmp_path / "m.mapsto")
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileError):
        split_diamond(backends["cpu"]).save(tmp_path / "none" / "m.mapsto")  # type: ignore[arg-type]


# ---- damage ----------------------------------------------------------------------------------------------------------


def test_any_byte_that_is_damaged_is_found(tmp_path: Path) -> None:
    path = tmp_path / "m.mapsto"
    model_saved(path)
    data = path.read_bytes()
    header, _ = container.read(path, artifact.MAGIC_OF_SEVERAL)
    assert division_file.verify(path) == (len(data), ["cpu", "opencl"])
    rng = np.random.default_rng(0)
    blobs = [offset for offset, length, _ in header["blobs"] if length]
    for at in [0, 7, 8, 15, 16, 47, 48, 63, 64, len(data) - 1, *blobs, *map(int, rng.integers(len(data), size=60))]:
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :])
        with pytest.raises(ModelError) as error:
            mapsto.load(path, threads=1)
        assert str(path) in str(error.value)
    for size in (0, 1, 8, 63, 64, 500, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ModelError, match="m.mapsto"):
            mapsto.load(path, threads=1)
    path.write_bytes(data + b"\0")
    with pytest.raises(ModelError, match=f"{len(data) + 1} bytes where {len(data)} were written"):
        mapsto.load(path, threads=1)
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"a model on several devices, which `mapsto.load` reads"):
        load_one(path)


def with_header(data: bytes, change: Any) -> bytes:
    """The file with another header, whose checksum is right."""
    (length,) = struct.unpack("<Q", data[8:16])
    header = json.loads(data[64 : 64 + length])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    assert len(text) <= length
    text += b" " * (length - len(text))
    return data[:16] + hashlib.sha256(text).digest() + data[48:64] + text + data[64 + length :]


WRONG = [
    (lambda h: h.update(format=2), "in format 2 of models on several devices; mapsto"),
    (lambda h: h.pop("parts"), "there is no 'parts'"),
    (lambda h: h.update(plan=99), "expected a number from 0 to"),
    (lambda h: h.update(plan=-1), "expected a number from 0 to"),
    (lambda h: h.update(blobs=5), "there is no list of blobs"),
    (lambda h: h["blobs"].__setitem__(0, [0, 5]), "a blob's entry is damaged"),
    (lambda h: h["blobs"][0].__setitem__(0, 4096 * 10**6), "does not fit into"),
    (lambda h: h["blobs"][0].__setitem__(2, "0" * 64), "are damaged"),
    (lambda h: h.update(bytes=5), "bytes where 5 were written"),
    (lambda h: h["parts"][0].update(device="gpu"), "not in tuple"),
    (lambda h: h["parts"][0].update(after=[1]), "expected a number"),
    (lambda h: h["parts"][1].update(after=[]), "part 1 reads"),
    (lambda h: h["parts"][1]["values"][0].__setitem__(0, "z"), "part 1 does not yield z"),
    (lambda h: h["parts"][1]["values"][0].__setitem__(1, "f31"), "'f31' is not a valid DType"),
    (lambda h: h["parts"][1].update(program={}), "damaged"),
    (lambda h: h["parts"][1].update(code=h["plan"]), "the kernels are damaged"),
    (lambda h: h["parts"][1].update(plan=None), "expected a number"),
    (lambda h: h["parts"][0].update(artifact=h["plan"]), "not a compiled mapsto model"),
    (lambda h: h.update(outputs=["none"]), "nothing makes the output none"),
    (lambda h: h.update(updates=[["x", "y"]]), "are no input and output"),
    (lambda h: h.update(inputs=[5]), "damaged"),
    (lambda h: h.update(devices={}), "expected a list, found dict"),
    (lambda h: h.update(copies=[77]), "expected a number"),
]


@pytest.fixture(scope="module")
def file_of_digits(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "m.mapsto"
    model_saved(path)
    return path.read_bytes()


@pytest.mark.parametrize(("change", "said"), WRONG, ids=[said[:25] for _, said in WRONG])
def test_what_is_wrong_with_a_file_is_said(change: Any, said: str, file_of_digits: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.mapsto"
    path.write_bytes(with_header(file_of_digits, lambda header: None))
    assert isinstance(mapsto.load(path, threads=1), DividedExecutable)
    path.write_bytes(with_header(file_of_digits, change))
    with pytest.raises(ModelError) as error:
        mapsto.load(path, threads=1)
    assert str(path) in str(error.value) and said in str(error.value)


def test_kernels_that_do_not_fit_what_starts_them(file_of_digits: bytes, tmp_path: Path) -> None:
    from mapsto.devices.opencl.code import read_code

    path = tmp_path / "m.mapsto"
    path.write_bytes(file_of_digits)
    header, blobs = container.read(path, artifact.MAGIC_OF_SEVERAL)
    code = json.loads(bytes(blobs[header["parts"][1]["code"]]))
    name = next(iter(code))
    read_code(json.dumps(code).encode())
    for key, value in (("dims", []), ("params", []), ("function", "other"), ("params", [["a", "f31"]]), ("dims", 5)):
        wrong = copy.deepcopy(code)
        wrong[name][key] = value
        if wrong == code:
            continue
        with pytest.raises(ModelError, match="the kernels are damaged"):
            read_code(json.dumps(wrong).encode())


def test_symbols_that_a_file_cannot_hold(backends: Mapping[str, Backend], tmp_path: Path) -> None:
    from mapsto.ir.expr import sym

    exe = split_diamond(backends["cpu"])  # type: ignore[arg-type]
    value = replace(exe.whole.inputs[0], shape=(sym("a b"), 16))
    exe.whole = replace(exe.whole, inputs=(value,))
    with pytest.raises(ModelError, match="the size a b cannot be saved"):
        exe.save(tmp_path / "m.mapsto")
