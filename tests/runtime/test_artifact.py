"""One file: what goes in comes out, and a damaged or foreign file is an error, never a crash."""

import copy
import hashlib
import json
import multiprocessing
import os
import pickle
import struct
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.helpers import FUNCTIONS, N, f32, objects

from mapsto.errors import FileError, MapstoError, ModelError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import floordiv, maximum, sym
from mapsto.runtime import artifact
from mapsto.runtime.arrays import Deferred, pack_constants
from mapsto.runtime.artifact import Target
from mapsto.runtime.executable import Executable, load
from mapsto.runtime.program import (
    Bind,
    Bounds,
    BranchIfFalse,
    Buffer,
    Check,
    Jump,
    Port,
    Program,
    Require,
    Run,
    SetSize,
)
from mapsto.runtime.program_json import program_from_json, program_to_json

REPOSITORY = Path(__file__).parents[2]
M = sym("m")
CONSTANTS, OFFSETS = pack_constants({"c": np.arange(1000, dtype=np.float32)})

# y = the first m of x + c, where m counts x's positive elements: a program with a step of every kind
PROGRAM = Program(
    "everything",
    (Port("x", DType.F32, (N,), 0),),
    (Port("y", DType.F32, (M,), 1),),
    (
        Buffer("x", "input", f32(N)),
        Buffer("y", "output", f32(M)),
        Buffer("c", "constant", 4000, OFFSETS["c"]),
        Buffer("m", "arena", 8),
        Buffer("cond", "arena", 1),
        Buffer("t", "arena", f32(maximum(floordiv(N, 2) * 2 + 2, N))),
    ),
    (
        Require(1000 - N, "at most 1000", "guard"),
        Run("count", ((0, 0), (3, 0)), (N,), 1, (1,), label="count", provenance=("a", "b")),
        Bind("m", (3, 0), DType.I64, "the size", ("c",)),
        Run("is_positive", ((0, 0), (4, 0)), writes=(1,)),
        BranchIfFalse((4, 0), 6),
        Jump(6),
        Bounds((3, 0), "signed", "index", 1, N, "node 'g' (Gather)", "guard", ("g",)),
        Run("add", ((0, 0), (2, 0), (5, 0)), (), N, (2,), grain=7),
        Run("relu", ((5, 0), (1, 0)), (), M, (1,)),
        SetSize("k", M + 1, "one more", ("k",)),
    ),
    CONSTANTS,
    (),
    (Check(N, "never"),),
)


def _x(n=10, positive=4):
    x = -np.ones(n, np.float32)
    x[:positive] = 2
    return x


def _expected(n=10, positive=4):
    return np.maximum(_x(n, positive) + np.arange(n), 0)[:positive]


@pytest.fixture()
def saved(tmp_path):
    path = tmp_path / "model.mapsto"
    Executable(PROGRAM, objects(), 1, plan="the plan: φ\n").save(path)
    return path


def test_round_trip(saved):
    exe = load(saved, threads=2)
    assert exe.program == PROGRAM and exe.plan_text == "the plan: φ\n" and exe.objects == tuple(objects())
    assert np.array_equal(exe(_x()), _expected())
    again = saved.with_name("again.mapsto")
    exe.save(again)
    assert again.read_bytes() == saved.read_bytes()
    assert np.array_equal(load(again, 1)(_x()), _expected())


def test_the_program_as_json():
    text = json.dumps(program_to_json(PROGRAM))
    assert program_from_json(json.loads(text), CONSTANTS) == PROGRAM


def test_constants_are_mapped_not_read(saved):
    constants = artifact.load(saved).program.constants
    assert not constants.flags.owndata and not constants.flags.writeable
    assert constants.ctypes.data % 64 == 0 and bytes(constants) == bytes(CONSTANTS)


def test_no_ir_is_compiled_when_loading(saved):
    """In a process of its own: only the linker is asked, and the runner comes from the file."""
    script = f"""
import llvmlite.binding as llvm
def refuse(*args, **kwargs):
    raise AssertionError("compiles")
llvm.parse_assembly = llvm.parse_bitcode = llvm.create_pass_builder = refuse
import numpy as np
from mapsto.runtime.executable import load
exe = load({str(saved)!r}, 2)
x = -np.ones(10, np.float32)
x[:4] = 2
print(exe(x).tolist())
import sys
assert not [m for m in sys.modules if m.startswith(("onnx", "mapsto.passes", "mapsto.devices", "mapsto.importers"))]
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{_expected().tolist()}\n"


def test_no_constants(tmp_path):
    program = replace(PROGRAM, buffers=(Buffer("y", "output", 0),), inputs=(), outputs=(Port("y", DType.F32, (0,), 0),))
    program = replace(program, steps=(), constants=b"", checks=())
    Executable(program, [], 1).save(tmp_path / "a")
    assert load(tmp_path / "a", 1)().shape == (0,)


def test_a_file_is_written_whole_or_not_at_all(saved, monkeypatch):
    before = saved.read_bytes()

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FileError, match="model.mapsto cannot be written: disk full"):
        load(saved, 1).save(saved)
    assert saved.read_bytes() == before and os.listdir(saved.parent) == [saved.name]


def test_saving_over_a_file_in_use(saved):
    exe = load(saved, 1)
    exe.save(saved)
    assert np.array_equal(exe(_x()), _expected())


def test_a_symbol_that_cannot_be_written_is_named(tmp_path):
    odd = sym("batch size")
    program = Program("odd", (Port("x", DType.F32, (odd,), 0),), (), (Buffer("x", "input", odd * 4),), ())
    with pytest.raises(ModelError, match="batch size.*cannot be saved"):
        Executable(program, [], 1).save(tmp_path / "a")


def _same(exe, other):
    return exe.program == other.program and exe.objects == other.objects and exe.plan_text == other.plan_text


def test_an_executable_is_pickled_and_copied_as_its_file(saved):
    exe = load(saved, 2)
    for other in (pickle.loads(pickle.dumps(exe)), copy.copy(exe), copy.deepcopy({"a": [exe]})["a"][0]):
        assert _same(exe, other) and other.threads == 2 and other.target == exe.target
        assert np.array_equal(other(_x()), _expected())


def test_an_executable_goes_to_a_process_that_is_started_anew(saved):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.apply(_call, (load(saved, 1), _x())), _expected())


def _call(exe, x):
    return exe(x)


def test_a_damaged_pickle_is_an_error(saved):
    rebuild, (data, threads) = load(saved, 1).__reduce__()
    for changed in (data[:100], data[:-1], data + b"x", b"", data.replace(b"everything", b"everythinG")):
        with pytest.raises(ModelError, match="a pickled executable"):
            rebuild(changed, threads)


def test_loading_again_and_again_takes_no_memory():
    """In a process of its own; 9 kB a load were kept once."""
    script = """
import gc, resource, sys, weakref
from tests.runtime.test_artifact import PROGRAM, _expected, _x
from tests.runtime.helpers import objects
from mapsto.runtime.executable import Executable, load
Executable(PROGRAM, objects(), 1).save(sys.argv[1])
def rss():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
kept = load(sys.argv[1], 1)
def many(count):
    for _ in range(count):
        exe = load(sys.argv[1], 1)
        assert (exe(_x()) == _expected()).all()
gc.disable()
exe = load(sys.argv[1], 2)
exe(_x())
gone = weakref.ref(exe)
del exe
assert gone() is None, "an executable waits for the garbage collector"
gc.enable()
many(500)
before = rss()
many(1000)
assert (kept(_x()) == _expected()).all()
print(rss() - before)
"""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])}
        command = [sys.executable, "-c", script, f"{folder}/a.mapsto"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2 << 20


def test_a_file_for_another_machine_is_verified_all_the_same(tmp_path):
    exe = Executable(PROGRAM, objects(), 1)
    target = Target("riscv64", "rv64gc")
    artifact.save(tmp_path / "a", artifact.Artifact(PROGRAM, exe.objects, target))
    found = artifact.verify(tmp_path / "a")
    assert (found.bytes, found.target) == ((tmp_path / "a").stat().st_size, target)
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-1] + b"\1")
    with pytest.raises(ModelError, match="must be zero"):
        artifact.verify(tmp_path / "a")


def test_the_sums_of_constants_tell_pages_and_words_apart():
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, 3 * 4096 + 100, np.uint8)
    found = {artifact.page_sums(data.tobytes())}
    for change in (
        data[4096:],
        data[:-1],
        np.concatenate([data, np.zeros(1, np.uint8)]),
        np.concatenate([data[4096:8192], data[:4096], data[8192:]]),
        np.concatenate([data[8:16], data[:8], data[16:]]),
        np.concatenate([np.zeros(4096, np.uint8), data[4096:]]),
        data[:0],
    ):
        found.add(artifact.page_sums(change.tobytes()))
    assert len(found) == 8


# -- files that must be refused ----------------------------------------------------------------------------------------


def _rewrite(path, change):
    """Changes the header and makes its checksum right again."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[8:16])
    header = json.loads(data[64 : 64 + length])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (length - len(text))
    assert len(text) == length, "the change must not grow the header"
    path.write_bytes(data[:16] + hashlib.sha256(text).digest() + data[48:64] + text + data[64 + length :])


def _with_format(number, header):
    header["format"] = number


def _refused(path, message):
    with pytest.raises(ModelError, match=message) as caught:
        load(path, 1)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("keep", [0, 5, 63, 64, 500, -65, -1])
def test_a_truncated_file(saved, keep):
    data = saved.read_bytes()
    saved.write_bytes(data[:keep])
    _refused(saved, "not a compiled|truncated|damaged")


def test_more_bytes_than_were_written(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    _refused(saved, "truncated or damaged")


def test_other_files(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"PK\x03\x04" + b"\0" * 200)
    _refused(path, "not a compiled mapsto model")
    _refused(tmp_path / "missing", "cannot be read")
    _refused(tmp_path, "cannot be read")


def test_a_changed_byte_of_code(saved):
    exe = artifact.load(saved)
    data = bytearray(saved.read_bytes())
    data[data.index(exe.objects[0]) + 100] ^= 1
    saved.write_bytes(data)
    _refused(saved, "checksum")


def test_a_changed_constant_is_found(saved):
    data = bytearray(saved.read_bytes())
    data[data.index(bytes(CONSTANTS)) + 400] ^= 1
    saved.write_bytes(data)
    _refused(saved, "constants are damaged")


def test_constants_changed_on_purpose_are_found_by_their_sha256(saved):
    """Two words of a page are changed so that the page's weighted sum stays."""
    data = bytearray(saved.read_bytes())
    start = data.index(bytes(CONSTANTS))
    words = np.frombuffer(data, "<u8", 2, start).copy()
    words += np.array([3, (1 << 64) - 1], np.uint64)  # weights 1 and 3
    data[start : start + 16] = words.tobytes()
    saved.write_bytes(data)
    assert load(saved, 1) is not None
    for check in (lambda: load(saved, 1, verify=True), lambda: artifact.load(saved, verify_constants=True)):
        with pytest.raises(ModelError, match="constants are damaged"):
            check()


def test_every_bit_of_a_file_is_looked_at(saved):
    original = saved.read_bytes()
    changed = bytearray(original)
    unseen = []
    for place in range(len(original)):
        changed[place] ^= 1 << (place % 8)
        try:
            artifact.read("changed", memoryview(bytes(changed)))
            unseen.append(place)
        except ModelError:
            pass
        changed[place] = original[place]
    assert len(original) > 10_000 and unseen == []


def test_another_version(saved):
    data = saved.read_bytes()
    saved.write_bytes(b"mapsto\x00\x02" + data[8:])
    _refused(saved, "another version")
    saved.write_bytes(data)
    for found, advice in ((9, "update mapsto"), (2, "compile the model again"), ([], "compile"), ("3", "compile")):
        _rewrite(saved, partial(_with_format, found))
        _refused(saved, f"format .*reads up to {artifact.FORMAT_VERSION}: {advice}")
        saved.write_bytes(data)
    _rewrite(saved, lambda header: header.update(format=9, mapsto="7.1"))
    _refused(saved, "written by mapsto 7.1, in format 9; ")


def test_a_runner_of_another_version_is_left_aside(saved):
    assert artifact.load(saved).runner is not None
    _rewrite(saved, lambda header: header.update(runner=9))
    assert artifact.load(saved).runner is None
    child = (
        f"import numpy as np, mapsto; exe = mapsto.load({str(saved)!r}, threads=2)\n"
        "print(len(exe.run({'x': np.ones(9, 'f')})['y']))"
    )
    found = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "9"


def test_another_machine(tmp_path):
    path = tmp_path / "a"
    exe = Executable(PROGRAM, objects(), 1)
    for target, message in [
        (Target("riscv64", "rv64gc"), "made for riscv64"),
        (Target(exe.target.arch, "avx9000", ("avx9000f", "sse2")), "lacks avx9000f"),
    ]:
        artifact.save(path, artifact.Artifact(PROGRAM, exe.objects, target))
        _refused(path, message)


def _set(*keys_and_value):
    *keys, last, value = keys_and_value

    def change(header):
        place = header
        for key in keys:
            place = place[key]
        place[last] = value

    return change


TAMPERED = [
    _set("bytes", 1),
    _set("objects", -1),
    _set("objects", 3),
    _set("objects", None),
    _set("blobs", 0, 1, 10**7),
    _set("blobs", 0, 1, -1),
    _set("blobs", 0, 0, 1),
    _set("blobs", -1, 1, 64),
    _set("blobs", -1, 0, 2**40),
    _set("blobs", 0, 0),
    _set("blobs", 0),
    _set("target", 0),
    _set("program", 0),
    _set("program", "name", 0),
    _set("program", "dims", 0, "n^2"),
    _set("program", "dims", 0, None),
    _set("program", "dims", []),
    _set("program", "buffers", 2, 3, -64),
    _set("program", "buffers", 2, 3, 64),
    _set("program", "buffers", 0, 1, "heap"),
    _set("program", "buffers", 0, []),
    _set("program", "inputs", 0, 1, "f31"),
    _set("program", "inputs", 0, 3, 99),
    _set("program", "inputs", []),
    _set("program", "outputs", 0, 3, 0),
    _set("program", "steps", 1, "operands", 0, 0, 99),
    _set("program", "steps", 1, "operands", 0, 0, -1),
    _set("program", "steps", 1, "operands", 0, 1, -1),
    _set("program", "steps", 1, "operands", 0, []),
    _set("program", "steps", 1, "writes", [0]),
    _set("program", "steps", 1, "writes", [8]),
    _set("program", "steps", 1, "grain", 0),
    _set("program", "steps", 1, "grain", 2.5),
    _set("program", "steps", 2, "bind", 0),
    _set("program", "steps", 2, "dtype", "f32"),
    _set("program", "steps", 4, "branch", 99),
    _set("program", "steps", 5, "jump", -1),
    _set("program", "steps", 5, {}),
    _set("program", "steps", 5, 0),
    _set("program", "updates", [["x", "y"]]),
]


@pytest.mark.parametrize("number", range(len(TAMPERED)))
def test_a_tampered_header_with_a_right_checksum(saved, number):
    _rewrite(saved, TAMPERED[number])
    _refused(saved, "damaged|truncated")


def test_a_function_that_no_object_has(saved):
    _rewrite(saved, _set("program", "steps", 1, "run", "cnt"))
    with pytest.raises(MapstoError, match="cnt"):
        load(saved, 1)


def test_json_nested_without_end(saved):
    data = saved.read_bytes()
    (length,) = struct.unpack("<Q", data[8:16])
    text = (b"[" * length)[:length]
    saved.write_bytes(data[:16] + hashlib.sha256(text).digest() + data[48:64] + text + data[64 + length :])
    _refused(saved, "damaged")


def test_the_header_says_what_the_file_is(saved):
    data = saved.read_bytes()
    (length,) = struct.unpack("<Q", data[8:16])
    header = json.loads(data[64 : 64 + length])
    assert header["objects"] == len(FUNCTIONS) and header["program"]["name"] == "everything"
    assert header["bytes"] == len(data) and header["blobs"][-1][0] % 4096 == 0


def test_what_is_deferred_is_written_in_its_place_and_copied_while_that_is_alive() -> None:
    written = []

    def write(place: np.ndarray) -> None:
        assert not place.any() and place.shape == (3, 5) and place.dtype == np.float32
        written.append(place.ctypes.data)
        place[:] = np.arange(15).reshape(3, 5)

    late = Deferred((3, 5), np.dtype(np.float32), write)
    assert late.nbytes == 60 and np.array_equal(np.asarray(late), np.arange(15).reshape(3, 5))
    written.clear()
    first, offsets = pack_constants({"a": np.ones(7, np.int8), "late": late, "again": late})
    assert offsets["late"] == offsets["again"] == 64 and written == [first.ctypes.data + 64]
    second, others = pack_constants({"late": late})
    assert len(written) == 1 and others["late"] == 0
    assert second[:60].tobytes() == first[64:124].tobytes() == np.arange(15, dtype=np.float32).tobytes()
    del first, second
    pack_constants({"late": late})
    assert len(written) == 2


def test_constants_that_are_the_same_memory_lie_in_the_block_once() -> None:
    weights = np.arange(1000, dtype=np.float32)
    arrays = {"a": weights, "b": weights.reshape(10, 100), "half": weights[:500], "c": weights + 1}
    block, offsets = pack_constants(arrays)
    assert offsets["a"] == offsets["b"]
    assert block.nbytes == 4032 + 2048 + 4032
    for name, array in arrays.items():
        assert np.array_equal(block[offsets[name] : offsets[name] + array.nbytes].view(np.float32), array.reshape(-1))
