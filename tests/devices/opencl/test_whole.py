"""Whole models on an OpenCL device, by the flow of the CPU: what they compute, what they refuse, their plans."""

from __future__ import annotations

import functools
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests import opencl
from tests.plan.graphs import layer_norm_rows, small_cnn
from tests.session.support import Feed, assert_close, assert_same_bits, by_onnxruntime, normal, parse
from tests.session.test_branches import CASES, conditions

import mapsto
from mapsto.devices.opencl.backend import OpenClBackend
from mapsto.errors import ArgumentError, ExecutionError, MapstoError, ParseError, ShapeError, UnsupportedError
from mapsto.importers.onnx import load
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.runtime.executable import Executable
from mapsto.session.compile import build, prepared

pytestmark = pytest.mark.opencl

DIGITS = Path(__file__).parents[3] / "examples"


@functools.cache
def digits() -> Mapping[str, np.ndarray]:
    with np.load(DIGITS / "digits.npz") as found:
        return dict(found)


@functools.cache
def mnist() -> Executable:
    opencl.required()
    return mapsto.compile(DIGITS / "mnist-cnn.onnx", device="opencl")


def check(backend: OpenClBackend, model: Any, *feeds: Feed) -> Executable:
    """One executable for all feeds, right beside the reference; the same bits again, with dead memory poisoned."""
    exe = build(prepared(model, None), backend, 1, None)
    graph = load(model) if isinstance(model, onnx.ModelProto) else model
    for feed in feeds:
        found = exe.run(feed)
        assert_close(found, run_graph(graph, feed))
        exe.poison()
        assert_same_bits(exe.run(feed), found)
        exe.poison(False)
    return exe


# -- what is computed --------------------------------------------------------------------------------------------------


def test_the_digits_are_read_as_the_cpu_and_onnxruntime_read_them() -> None:
    feed = {"image": digits()["image"]}
    ours = mnist().run(feed)
    assert ours["logits"].shape == (64, 10)
    assert (ours["logits"].argmax(1) == digits()["label"]).all()
    assert_close(ours, mapsto.compile(DIGITS / "mnist-cnn.onnx").run(feed))
    assert_close(ours, by_onnxruntime(onnx.load(DIGITS / "mnist-cnn.onnx"), feed))
    assert_same_bits(mnist().run(feed), ours)


def test_no_step_is_made_or_run_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the CPU was asked for code")

    opencl.required()
    for where in ("devices.cpu.compiler.CompilePool.__init__", "runtime.native.Library.__init__"):
        monkeypatch.setattr(f"mapsto.{where}", refuse)
    exe = mapsto.compile(DIGITS / "mnist-cnn.onnx", device="opencl")
    exe.poison()
    found = exe.run({"image": digits()["image"][:2]})
    assert found["logits"].argmax(1).tolist() == digits()["label"][:2].tolist()
    assert exe.objects == () and set(exe.addresses.values()) == {0}


@pytest.mark.parametrize("batch", [64, 1, 0, 5])
def test_an_open_batch(batch: int) -> None:
    image = digits()["image"][:batch]
    found = mnist()(image)
    assert found.shape == (batch, 10)
    assert found.argmax(1).tolist() == digits()["label"][:batch].tolist() if batch else found.size == 0


def test_layouts_concats_and_residuals(backend: OpenClBackend) -> None:
    """Blocked channels, borders, values that are parts of another one's buffer; fixed sizes and open ones."""
    check(backend, small_cnn(), {"x": normal(1, 3, 32, 32)})
    check(backend, small_cnn(sym("h"), sym("w")), *({"x": normal(1, 3, *s)} for s in ((19, 24), (8, 8))))
    check(backend, layer_norm_rows(), {"x": normal(1, 48, 40)})


def test_axes_that_may_broadcast(backend: OpenClBackend) -> None:
    model = parse("g (float[a, 5] x, float[b, 5] z) => (float[c, 5] y) { s = Add(x, z) y = Exp(s) }")
    sizes = ((4, 4), (4, 1), (1, 4), (1, 1), (0, 0), (1, 0))
    exe = check(backend, model, *({"x": normal(a, 5), "z": normal(b, 5, seed=1)} for a, b in sizes))
    with pytest.raises(ExecutionError, match="must be equal"):
        exe.run({"x": normal(3, 5), "z": normal(4, 5)})


@pytest.mark.parametrize("name", CASES)
def test_either_branch(name: str, backend: OpenClBackend) -> None:
    check(backend, parse(CASES[name]), *(f for rows in (3, 0) for f in conditions("c", x=normal(rows, 8))))


def test_sizes_that_data_decides(backend: OpenClBackend) -> None:
    model = parse("""g (float[N] x) => (int64[1, M] at, float[M] y) {
        zero = Constant<value_float = 0.0>() more = Greater(x, zero) at = NonZero(more)
        axis = Constant<value_ints = [0]>() flat = Squeeze(at, axis) y = Gather(x, flat)
    }""")
    exe = check(backend, model, *({"x": normal(n, seed=n)} for n in (40, 3, 200, 40)), {"x": -np.ones(6, np.float32)})
    assert exe.run({"x": np.array([1, -1, 2], np.float32)})["y"].tolist() == [1, 2]


def test_an_index_out_of_range_stops_the_run(backend: OpenClBackend) -> None:
    model = parse("g (float[4, 3] x, int64[K] k) => (float[K, 3] y) { y = Gather<axis = 0>(x, k) }")
    exe = check(backend, model, *({"x": normal(4, 3), "k": np.array(k, np.int64)} for k in ([3, -4, 0], [])))
    with pytest.raises(ExecutionError, match="-5"):
        exe.run({"x": normal(4, 3), "k": np.array([0, -5, 1])})


def test_an_input_that_is_updated_in_place(backend: OpenClBackend) -> None:
    b = Builder("update")
    x, step = b.input("x", DType.F32, (3,)), b.input("step", DType.F32, (3,))
    total = b.one("add", [x, step])
    exe = build(b.finish([total, b.one("neg", [x])], updates=[("x", total.name)]), backend, 1, None)
    weights = np.array([1, 2, 3], np.float32)
    found = exe.run({"x": weights, "step": np.ones(3, np.float32)})
    assert weights.tolist() == [2, 3, 4]
    assert [array.tolist() for array in found.values()] == [[2, 3, 4], [-1, -2, -3]]
    with pytest.raises(ExecutionError, match="shares its memory with"):
        exe.run({"x": weights, "step": weights})


def test_steps_are_timed() -> None:
    times = mnist().profile(digits()["image"][:2], runs=2)
    assert [t.calls for t in times] == [2] * len(times) and all(t.nanoseconds > 0 for t in times)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs",
    [
        {"picture": np.zeros((1, 1, 28, 28), np.float32)},
        {"image": np.zeros((1, 1, 28, 27), np.float32)},
        {"image": np.zeros((1, 1, 28, 28), np.float64)},
        {"image": ["a", "b"]},
        [1, 2],
    ],
)
def test_wrong_inputs_are_refused_in_the_words_of_the_cpu(inputs: Any) -> None:
    messages = []
    for exe in (mnist(), mapsto.compile(DIGITS / "mnist-cnn.onnx")):
        with pytest.raises((ShapeError, ArgumentError)) as caught:
            exe.run(inputs)
        messages.append((type(caught.value), str(caught.value)))
    assert messages[0] == messages[1]


def test_what_a_device_lacks_is_said_with_the_nodes_that_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = parse('g (double[4] x) => (double[4] y) { ["the_node"] y = Exp(x) }')
    backend = OpenClBackend() if opencl.backend() else None
    assert backend is not None
    monkeypatch.setattr(backend._device, "doubles", False)
    with pytest.raises(UnsupportedError, match="opencl cannot compute the_node: it needs 64-bit floats"):
        build(prepared(model, None), backend, 1, None)
    monkeypatch.setattr(backend._device, "doubles", True)
    monkeypatch.setattr(backend._device, "parameter_bytes", 30)
    with pytest.raises(
        UnsupportedError, match="opencl cannot compute the_node: its kernel takes 48 bytes of arguments .* `pin apart`"
    ):
        build(prepared(model, None), backend, 1, None)


def test_a_run_that_the_device_has_no_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = OpenClBackend() if opencl.backend() else None
    assert backend is not None
    exe = build(prepared(parse("g (float[N] x) => (float[N] y) { y = Exp(x) }"), None), backend, 1, None)
    monkeypatch.setattr(backend._device, "largest_buffer", 1000)
    assert exe(np.zeros(250, np.float32)).sum() == 250
    with pytest.raises(ExecutionError, match="1,004 bytes of memory in one piece"):
        exe(np.zeros(251, np.float32))


def test_it_is_not_saved_yet(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="opencl cannot be saved"):
        mnist().save(tmp_path / "model.mapsto")
    assert not (tmp_path / "model.mapsto").exists()
    with pytest.raises(UnsupportedError, match="opencl cannot be saved or pickled"):
        pickle.dumps(mnist())


def test_a_fork_is_told_to_compile_again() -> None:
    import os

    exe = mnist()
    exe(digits()["image"][:1])
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            exe(digits()["image"][:1])
            said = "nothing"
        except MapstoError as error:
            said = str(error)
        os.write(write, said.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert "compile again in a fork" in os.read(read, 1000).decode()
    os.close(read), os.close(write)


# -- plans -------------------------------------------------------------------------------------------------------------


def test_a_plan_says_which_device_it_is_for_and_is_replayed_there_alone() -> None:
    text = mnist().plan.text()
    assert text.startswith("plan mnist-cnn for opencl\n")
    again = mapsto.compile(DIGITS / "mnist-cnn.onnx", device="opencl", plan=text)
    assert again.plan == mnist().plan
    feed = {"image": digits()["image"][:3]}
    assert_same_bits(again.run(feed), mnist().run(feed))
    with pytest.raises(ParseError, match="for: opencl, but code is made for"):
        mapsto.compile(DIGITS / "mnist-cnn.onnx", plan=text)
    native = mapsto.compile(DIGITS / "mnist-cnn.onnx").plan
    with pytest.raises(ParseError, match=f"for: {native.device}, but code is made for opencl"):
        mapsto.compile(DIGITS / "mnist-cnn.onnx", device="opencl", plan=native)


def test_a_template_that_the_device_does_not_have_is_refused() -> None:
    text = mnist().plan.text()
    at = re.search(r"work (g\d+) contraction.*?as tiles", text, re.DOTALL)
    assert at is not None
    edited = text[: at.end() - len("tiles")] + "weaves" + text[at.end() :]
    with pytest.raises(ParseError, match=rf"plan, line \d+: work {at[1]}: no device offers weaves"):
        mapsto.compile(DIGITS / "mnist-cnn.onnx", device="opencl", plan=edited)


# -- which device ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda", "opencl:", "opencl:x", "opencl:-1", "opencl:²", "opencl:123456", "", "CPU"])
def test_a_device_that_there_is_not(device: str) -> None:
    with pytest.raises(ArgumentError, match="there are: cpu, opencl, opencl:NUMBER"):
        mapsto.compile(DIGITS / "mnist-cnn.onnx", device=device)


def test_the_number_of_a_device() -> None:
    opencl.required()
    exe = mapsto.compile(DIGITS / "mnist-cnn.onnx", device="opencl:0")
    assert exe.plan == mnist().plan
    with pytest.raises(UnsupportedError, match="no OpenCL device 99"):
        mapsto.compile(DIGITS / "mnist-cnn.onnx", device="opencl:99")


def test_instruction_sets_are_the_cpus() -> None:
    with pytest.raises(ArgumentError, match="isa: instruction sets are the CPU's"):
        mapsto.compile(DIGITS / "mnist-cnn.onnx", device="opencl", isa="avx2")


def test_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from mapsto.cli.entry import main

    def said(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["mapsto", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out = capsys.readouterr()
        assert ended.value.code == 0, out.err
        return out.out

    opencl.required()
    model, fed = str(DIGITS / "mnist-cnn.onnx"), ("--inputs", str(DIGITS / "digits.npz"), "--device", "opencl")
    assert "64 of 64 labels" in said("run", model, *fed, "--repeat", "1")
    assert said("check", model, *fed).rstrip().endswith("ok")
    assert said("plan", model, "--device", "opencl").startswith("plan mnist-cnn for opencl\n")
    assert "template: tiles" in said("explain", model, "conv1", "--device", "opencl")
    steps = said("plan", model, "--verify", "--seconds", "0.1", *fed)
    assert steps.startswith("figures: typical of") and "conv+relu" in steps and "measured" in steps
    timed = json.loads(said("bench", model, "--against", "", "--seconds", "0.1", *fed, "--json"))
    assert [t["engine"] for t in timed["timings"]] == ["mapsto"] and timed["timings"][0]["seconds"]["median"] > 0


_QUIET = f"""
import sys
import numpy as np
import mapsto
exe = mapsto.compile({str(DIGITS / "mnist-cnn.onnx")!r})
exe(np.zeros((1, 1, 28, 28), np.float32))
assert not [name for name in sys.modules if name.startswith(("pyopencl", "mapsto.devices.opencl"))]
"""


def test_nothing_of_opencl_is_imported_unless_asked_for() -> None:
    subprocess.run([sys.executable, "-c", _QUIET], check=True)
