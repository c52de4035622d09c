"""The fuzzer: so many cases of every target give nothing that must not be; and each of its oracles sees a fault that is
put in.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import mapsto
import mapsto.errors
from mapsto.importers.onnx import table
from mapsto.ir.dtypes import DType
from mapsto.ops.builder import Builder
from mapsto.runtime import guard
from mapsto.runtime.frame import Frame
from mapsto.session import assemble
from tests.fuzz import artifacts, children, jsons, lines, models
from tests.fuzz.children import Children, Outcome
from tests.fuzz.judging import difference, reference
from tests.fuzz.models import Case
from tests.fuzz.mutating import Mutator
from tests.fuzz.worker import install
from tests.importers.models import model, node

ROOT = Path(__file__).parents[1]
CASES = 2350  # of all targets by turns: some minute of processor time
LEAST = {"models": 1000, "artifacts": 700, "plans": 250, "divisions": 85, "machines": 85, "described": 85}


@pytest.mark.slow
def test_cases_of_a_fixed_seed_find_nothing() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--cases", str(CASES), "--seed", "1"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    for target, least in LEAST.items():
        told = done.stdout.partition(f"{target}: ")[2]
        tried, ran = re.match(r"(\d+)\n", told), re.search(r"(\d+) +[\d.]+ %  ran", told)
        assert tried and int(tried[1]) >= least, done.stdout
        assert ran and int(ran[1]) > least // 50, done.stdout  # else nothing is run


# -- that it finds -----------------------------------------------------------------------------------------------------


TWO = model(
    [node("MatMul", ["x", "w"], ["m"]), node("Softmax", ["m"], ["y"])],
    {"x": [3, 7]},
    constants={"w": np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)},
).SerializeToString()


@pytest.fixture
def tried(tmp_path: Path) -> Iterator[Callable[[bytes, int], Outcome]]:
    """Tries a model in a child, as the fuzzer does; children have what a test has put in."""

    def one(data: bytes, noise: int = 1) -> Outcome:
        case = Case(data, (), {}, noise)
        child = Children(lambda number, desk: models.tried(case, desk), lambda: install(tmp_path / "objects"))
        ((_, outcome),) = child.tried([0])
        return outcome

    yield one


def put_in(monkeypatch: pytest.MonkeyPatch, row: Callable[[Any], Any]) -> None:
    """The importer's row of Softmax does this instead."""
    monkeypatch.setitem(table._ROWS, ("", "Softmax"), row)


def test_a_right_model_is_no_finding(tried: Any) -> None:
    for noise in (0, 1):
        assert tried(TWO, noise).key == ("ran", "right")


def raise_key_error(call: Any) -> Any:
    return {}["missing"]


def loop_without_end(call: Any) -> Any:
    while True:
        pass


def take_memory(call: Any) -> Any:
    np.ones(1 << 26).sum()
    raise call.unsupported("nothing")


def crash(call: Any) -> Any:
    ctypes.string_at(0)  # a fault, not a signal sent: that may be ignored or blocked, or come to another thread


def warn(call: Any) -> Any:
    warnings.warn_explicit("overflow", RuntimeWarning, "/src/mapsto/importers/x.py", 7)
    raise call.unsupported("nothing")


@pytest.mark.parametrize(
    ("fault", "kind", "where"),
    [
        (raise_key_error, "unclear: KeyError", "importers/onnx/translate.py"),
        (loop_without_end, "hang", "compile: importers/onnx/translate.py"),
        (take_memory, "memory", "UnsupportedError"),
        (crash, "crashed: SIGSEGV", "compile: importers/onnx/translate.py"),
        (warn, "warning", "importers/x.py:7"),
    ],
)
def test_a_fault_of_the_importer_is_found(
    fault: Any, kind: str, where: str, tried: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "SECONDS", 4.0)
    monkeypatch.setattr(children, "GROWS", 1 << 28)
    put_in(monkeypatch, fault)
    outcome = tried(TWO)
    assert outcome.finding and outcome.kind == kind and outcome.where.startswith(where), outcome


def test_one_element_past_the_end_of_a_buffer_is_found(tried: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch memory that claims an element less than the code works on: with fences behind buffers it faults, and the
    outcome says at which step.
    """
    whole = assemble.Buffer

    def short(name: str, kind: str, size: Any, *rest: int) -> Any:
        return whole(name, kind, size - 4 if kind == "arena" else size, *rest)

    monkeypatch.setattr(assemble, "Buffer", short)
    outcome = tried(TWO, 1)
    assert outcome.finding and outcome.kind == "crashed: SIGSEGV" and outcome.where.startswith("run: g#"), outcome


def test_a_wrong_result_is_found(tried: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = assemble.pack_constants

    def spoiled(arrays: Any) -> Any:
        block, offsets = pack(arrays)
        block.view(np.float32)[: block.size // 8] *= 1.01
        return block, offsets

    monkeypatch.setattr(assemble, "pack_constants", spoiled)
    outcome = tried(TWO)
    assert outcome.finding and outcome.kind == "wrong result" and "matmul" in outcome.where, outcome


def test_a_run_that_is_refused_for_nothing_is_found(tried: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise mapsto.errors.ExecutionError("node 'Softmax_1': no")

    monkeypatch.setattr("mapsto.runtime.frame.require_sizes", refused)
    outcome = tried(TWO)
    assert outcome.finding and outcome.kind == "refuses", outcome


def test_other_bits_without_fences_are_found(tried: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = guard.FencedFrame.run

    def nearly(self: Any, values: Any) -> Any:
        (y,) = run(self, values)
        return [np.nextafter(y, np.float32(9))]

    monkeypatch.setattr(guard.FencedFrame, "run", nearly)
    outcome = tried(TWO)
    assert outcome.finding and outcome.kind == "other bits", outcome


def test_a_run_that_reads_what_nothing_wrote_is_found(tried: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that holds nothing holds NaN: a step that is left out shows."""
    emit = assemble._run

    def none(call: Any, buffers: Any) -> Any:
        step = emit(call, buffers)
        return step if step.label.startswith("g1") else replace(step, extent=0)

    monkeypatch.setattr(assemble, "_run", none)
    assert tried(TWO).kind == "wrong result"


# -- large is no fault, and no fault passes for large ------------------------------------------------------------------


def looped(rounds: int) -> bytes:
    """A state that is halved so many times."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["again"]),
            helper.make_node("Mul", ["s", "half"], ["t"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, [3]),
        ],
        [
            helper.make_tensor_value_info("again", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, [3]),
        ],
    )
    constants = {"trips": np.array(rounds, np.int64), "half": np.array(0.5, np.float32)}
    nodes = [helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body)]
    return model(nodes, {"x": [3]}, constants=constants).SerializeToString()


def counted(values: int) -> bytes:
    """A result of as many elements as the data say, which the inputs' sizes do not."""
    nodes = [
        node("ReduceSum", ["x", "axes"], ["zero"], keepdims=0),
        node("Cast", ["zero"], ["none"], to=onnx.TensorProto.INT64),
        node("Mul", ["none", "nothing"], ["same"]),
        node("Add", ["same", "many"], ["count"]),
        node("Range", ["start", "count", "step"], ["y"]),
    ]
    constants = {
        "axes": np.array([0], np.int64),
        "nothing": np.array(0, np.int64),
        "many": np.array(values, np.int64),
        "start": np.array(0, np.int64),
        "step": np.array(1, np.int64),
    }
    return model(nodes, {"x": [3]}, constants=constants).SerializeToString()


def expanded(elements: int) -> bytes:
    """A result of so many elements; the scratch memory is small."""
    return model(
        [node("Expand", ["x", "shape"], ["y"])], {"x": [1]}, constants={"shape": np.array([elements], np.int64)}
    ).SerializeToString()


@pytest.mark.parametrize(
    ("make", "large", "what"),
    [
        (expanded, 1 << 29, "too large to run"),
        (counted, 1 << 29, "too large to run"),
        (looped, 1 << 40, "too long to run"),
    ],
)
def test_a_run_that_is_merely_large_is_no_finding(make: Any, large: int, what: str, tried: Any) -> None:
    outcome = tried(make(large))
    assert not outcome.finding and outcome.where == what, outcome
    assert tried(make(40)).key == ("ran", "right")


def test_what_only_the_reference_would_hold_is_no_finding(tried: Any) -> None:
    """A tile of 1.2 GB that native code reads where it lies."""
    nodes = [node("Tile", ["x", "repeats"], ["t"]), node("ReduceMax", ["t"], ["y"])]
    outcome = tried(model(nodes, {"x": [3]}, constants={"repeats": np.array([10**8], np.int64)}).SerializeToString())
    assert outcome.key == ("ran", "not compared: too large"), outcome


@pytest.mark.parametrize("large", [True, False])
def test_sums_may_pass_the_largest_number_in_another_order(large: bool) -> None:
    b = Builder("g")
    x = b.input("x", DType.F32, (2, 3))
    graph = b.finish([b.one("reduce", [x], kind="sum", axes=(1,), keepdims=True)], names=["y"])
    feed = {"x": np.array([[3e38, 3e38, -3e38], [1, 2, 3]], np.float32) * np.float32(1 if large else 1e-9)}
    expected = reference(graph, feed)
    found = {"y": expected.outputs["y"].copy()}
    found["y"][0] = np.inf
    assert bool(difference(found, expected, graph, feed)) == (not large)
    found["y"][0] = expected.outputs["y"][0] / 2
    assert difference(found, expected, graph, feed)


def test_rounds_that_do_not_end_are_found(tried: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What leaves the loop leads to its jump back."""
    whole = assemble.BranchIfFalse
    monkeypatch.setattr(assemble, "BranchIfFalse", lambda operand, target, *rest: whole(operand, target - 1, *rest))
    outcome = tried(looped(500))
    assert outcome.finding and outcome.kind == "hang" and "rounds without end" in outcome.where, outcome


def test_a_step_that_does_not_end_is_found(tried: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "RUN_SECONDS", 1.0)
    walk = Frame._run_from

    def spins(self: Any, step: int) -> int:
        while step:
            pass
        return walk(self, step)

    monkeypatch.setattr(Frame, "_run_from", spins)
    outcome = tried(TWO)
    assert outcome.finding and outcome.kind == "hang" and outcome.where.startswith("run: g#"), outcome


def test_memory_that_a_program_does_not_claim_is_found(tried: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "GROWS", 1 << 28)
    walk = Frame._run_from

    def grows(self: Any, step: int) -> int:
        np.ones(1 << 26).sum()
        return walk(self, step)

    monkeypatch.setattr(Frame, "_run_from", grows)
    outcome = tried(TWO)
    assert outcome.finding and outcome.key == ("memory", "ran"), outcome


def test_a_run_without_memory_that_claims_little_is_found(tried: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: Any, step: int) -> int:
        raise MemoryError("no memory")

    monkeypatch.setattr(Frame, "_run_from", none)
    outcome = tried(TWO)
    assert outcome.finding and outcome.kind == "ResourceError", outcome


def test_jumps_that_do_not_end_are_the_writer_s_where_they_were_changed() -> None:
    program = mapsto.compile(looped(500), threads=1).program
    assert artifacts._beyond(program, program, "").finding
    steps = list(program.steps)
    steps[0], steps[1] = steps[1], steps[0]
    assert not artifacts._beyond(replace(program, steps=tuple(steps)), program, "").finding


# -- what cases are ----------------------------------------------------------------------------------------------------


def test_a_mutation_is_the_same_every_time_and_changes_the_message() -> None:
    whole = onnx.ModelProto.FromString(TWO)
    mutator = Mutator(lambda rng: onnx.ModelProto.FromString(TWO))
    seen = set()
    for number in range(300):
        made = []
        for _ in range(2):
            proto = onnx.ModelProto.FromString(TWO)
            how = mutator.mutate(proto, random.Random(number), number % 2 == 0)
            made.append((how, proto.SerializeToString(deterministic=True)))
        assert made[0] == made[1] and made[0][0]
        seen.add(made[0][1])
    assert len(seen) > 120 and whole.SerializeToString() == TWO
    kinds = {type(onnx.ModelProto.FromString(data)) for data in seen}
    assert kinds == {onnx.ModelProto}  # mutations of messages give messages; plain damage is another matter


def test_an_artifact_that_is_written_anew_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.mapsto"
    exe = mapsto.compile(TWO, threads=1)
    data = b"".join(bytes(part) for part in exe.parts())
    header, blobs = artifacts.taken_apart(data)
    path.write_bytes(artifacts.written(header, blobs, late=False))
    again = mapsto.load(path, threads=1)
    assert again.program == exe.program and artifacts.same_code(again.program, exe.program)
    x = np.ones((3, 7), np.float32)
    assert np.array_equal(again(x), exe(x))


def test_texts_and_values_are_changed_and_said() -> None:
    for number in range(200):
        rng = random.Random(number)
        text, how = lines.mutate("a 1\nb 2\nc (3)", rng, lambda _: "z 9")
        assert how and isinstance(text, str)
        value = {"a": [1, 2, {"b": "x1"}], "c": 1.5}
        assert jsons.mutate(value, rng)


def test_a_mutation_changes_nothing_but_its_value() -> None:
    """What was put into one value must not be found changed in the next."""
    before = repr((jsons.OTHERS, jsons.NUMBERS))
    for seed in range(300):
        value = {"a": [1, {"b": "x"}], "c": None}
        for _ in range(8):
            jsons.mutate(value, random.Random(seed))
            json.dumps(value)
    assert repr((jsons.OTHERS, jsons.NUMBERS)) == before
