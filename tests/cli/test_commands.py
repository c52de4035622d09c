"""The commands around the compiler: what they hand to it, what they print, with which exit code they end.

The compiler itself is replaced by one that doubles its input; tests/cli/test_predictions.py and test_manners.py
run the real one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.cli.conftest import Call

import mapsto
from mapsto.errors import CompileError, MapstoError
from mapsto.ir.dtypes import DType


@dataclass(frozen=True)
class Port:
    name: str
    dtype: DType
    shape: tuple[int, ...]


class Plan:
    def text(self) -> str:
        return "plan of twice\n"

    def explain(self, name: str) -> str:
        if name != "add":
            raise MapstoError(f"there is no node {name!r}; known: add")
        return "add: one vector loop"

    def to_json(self) -> dict[str, Any]:
        return {"steps": 1}


@dataclass(frozen=True)
class Program:
    inputs: tuple[Port, ...] = (Port("x", DType.F32, (2, 3)),)
    outputs: tuple[Port, ...] = (Port("y", DType.F32, (2, 3)),)


@dataclass
class Twice:
    """y = factor * x, with x: f32[2, 3]."""

    factor: float = 2
    program: Program = Program()
    plan: Plan = field(default_factory=Plan)
    cache_note: str = ""

    @property
    def inputs(self) -> tuple[Port, ...]:
        return self.program.inputs

    def run(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": feed["x"] * np.float32(self.factor)}

    def save(self, path: Path) -> None:
        Path(path).write_bytes(b"artifact")


@dataclass
class Compiler:
    """Stands for `mapsto.compile` and `mapsto.load`; remembers what it was asked."""

    executable: Twice = field(default_factory=Twice)
    asked: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None

    def compile(self, model: Path, **options: Any) -> Twice:
        self.asked = {"model": model, **options}
        if self.error is not None:
            raise self.error
        return self.executable

    def load(self, path: Path, threads: int | None = None) -> Twice:
        self.asked = {"loaded": path, "threads": threads}
        return self.executable


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    found = Compiler()
    monkeypatch.setitem(vars(mapsto), "compile", found.compile)
    monkeypatch.setitem(vars(mapsto), "load", found.load)
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    text = '<ir_version: 8, opset_import: ["" : 17]> twice (float[2, 3] x) => (float[2, 3] y) { y = Add(x, x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "twice.onnx")
    return tmp_path / "twice.onnx"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['mapsto', '--help']\n"
        "from mapsto.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print({'numpy', 'onnx', 'llvmlite', 'onnxruntime'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "Usage: mapsto" in done.stdout
    assert done.stderr.strip() == "set()"


def test_run_hands_over_options_and_prints_outputs(compiler: Compiler, model: Path, call: Call) -> None:
    code, out, _ = call("run", model, "--input", "x=ones", "--shape", "x=2,3", "--threads", 1, "--no-check-indices")
    assert code == 0
    asked = {key: compiler.asked[key] for key in ("model", "shapes", "threads", "check_indices")}
    assert asked == {"model": model, "shapes": {"x": (2, 3)}, "threads": 1, "check_indices": False}
    assert "input x: ones" in out and "y: float32[2, 3]  min 2  max 2" in out and "compiled in" in out


def test_run_reads_inputs_writes_outputs_and_says_the_accuracy(
    compiler: Compiler, model: Path, call: Call, tmp_path: Path
) -> None:
    x = np.array([[1, 5, 2], [7, 0, 3]], np.float32)
    np.savez(tmp_path / "in.npz", x=x, label=np.array([1, 2]))
    code, out, _ = call("run", model, "--inputs", tmp_path / "in.npz", "-o", tmp_path / "out.npz")
    assert code == 0 and "accuracy: 50.00% (1 of 2 labels, by y)" in out
    with np.load(tmp_path / "out.npz") as outputs:
        np.testing.assert_array_equal(outputs["y"], 2 * x)


def test_run_answers_in_json(compiler: Compiler, model: Path, call: Call) -> None:
    code, out, _ = call("run", model, "--json", "--input", "x=ones", "--repeat", 3)
    report = json.loads(out)
    assert code == 0 and report["runs"] == 3 and report["how"] == "compiled"
    assert report["outputs"][0]["values"] == [[2, 2, 2], [2, 2, 2]]


def test_run_loads_what_compile_saved(compiler: Compiler, model: Path, call: Call, tmp_path: Path) -> None:
    code, out, _ = call("compile", model, "-o", tmp_path / "twice.mapsto", "--json")
    assert code == 0 and json.loads(out)["bytes"] == len(b"artifact")
    code, out, _ = call("run", tmp_path / "twice.mapsto", "--threads", 2)
    assert code == 0 and compiler.asked == {"loaded": tmp_path / "twice.mapsto", "threads": 2} and "loaded in" in out
    code, _, err = call("run", tmp_path / "twice.mapsto", "--shape", "x=1")
    assert code == 2 and "compiled already" in err


def test_run_adapts_to_sizes(call: Call, tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> twice (float[n, 3] x) => (float[n, 3] y) { y = Add(x, x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "open.onnx")
    np.savez(tmp_path / "in.npz", x=np.ones((2, 3), np.float32))
    asked = ("run", tmp_path / "open.onnx", "--inputs", tmp_path / "in.npz", "--adapt", "--threads", 1)
    code, out, _ = call(*asked)
    assert code == 0 and "for n = 2: " in out and "looked at in" in out
    code, out, _ = call(*asked, "--json")
    adapted = json.loads(out)["adapted"]
    assert (
        code == 0 and adapted["run_seconds"] > 0 and any(line.startswith("for n = 2: ") for line in adapted["report"])
    )
    assert call("compile", tmp_path / "open.onnx", "-o", tmp_path / "open.mapsto")[0] == 0
    code, _, err = call("run", tmp_path / "open.mapsto", "--inputs", tmp_path / "in.npz", "--adapt")
    assert code == 2 and "--adapt needs an ONNX file" in err


def test_exact_integers_where_they_are_asked_for(
    compiler: Compiler, model: Path, call: Call, tmp_path: Path
) -> None:
    for command in (("run",), ("check", "--no-reference"), ("compile", "-o", tmp_path / "a.mapsto")):
        call(*command, model)
        assert compiler.asked["exact_integers"] is False
        call(*command, model, "--exact-integers")
        assert compiler.asked["exact_integers"] is True
    code, _, err = call("run", tmp_path / "a.mapsto", "--exact-integers")
    assert code == 2 and "--exact-integers need an ONNX file" in err
    for asked in (("run", "--device", "cpu,opencl"), ("bench", "--device", "cpu,opencl")):
        code, _, err = call(asked[0], model, *asked[1:], "--exact-integers")
        assert code == 2 and "for one device so far" in err
    code, _, err = call("plan", model, "--verify", "--exact-integers")
    assert code == 2 and "leave --formats and the like out" in err


def test_indices_are_checked_unless_it_is_said(compiler: Compiler, model: Path, call: Call, tmp_path: Path) -> None:
    for command in (("run",), ("check", "--no-reference"), ("compile", "-o", tmp_path / "a.mapsto")):
        call(*command, model)
        assert compiler.asked["check_indices"] is True
        call(*command, model, "--no-check-indices")
        assert compiler.asked["check_indices"] is False
    code, _, err = call("run", tmp_path / "a.mapsto", "--no-check-indices")
    assert code == 2 and "compiled already" in err


def test_compile_replays_a_plan(compiler: Compiler, model: Path, call: Call, tmp_path: Path) -> None:
    (tmp_path / "plan.txt").write_text("edited plan")
    code, out, _ = call("compile", model, "-o", tmp_path / "a.mapsto", "--plan", tmp_path / "plan.txt")
    assert code == 0 and compiler.asked["plan"] == "edited plan"
    assert "input x: f32[2, 3]" in out and "output y: f32[2, 3]" in out
    assert compiler.asked["updates"] is None
    assert call("compile", model, "-o", tmp_path / "a.mapsto", "--update", "x=y")[0] == 0
    assert compiler.asked["updates"] == {"x": "y"}


def test_plan_and_explain(compiler: Compiler, model: Path, call: Call, tmp_path: Path) -> None:
    assert call("plan", model) == (0, "plan of twice\n", "")
    assert json.loads(call("plan", model, "--json")[1]) == {"steps": 1}
    assert call("plan", model, "-o", tmp_path / "p.txt")[0] == 0
    assert (tmp_path / "p.txt").read_text() == "plan of twice\n"
    assert call("explain", model, "add")[1] == "add: one vector loop\n"
    code, out, err = call("explain", model, "mul")
    assert (code, out, err) == (2, "", "mapsto: error: there is no node 'mul'; known: add\n")


@pytest.mark.parametrize(("factor", "code"), [(2, 0), (2.01, 1)])
def test_check_fails_where_the_outputs_differ(
    compiler: Compiler, model: Path, call: Call, factor: float, code: int
) -> None:
    pytest.importorskip("onnxruntime")
    compiler.executable = Twice(factor)
    found, out, _ = call("check", model, "--no-reference")
    assert found == code and out.splitlines()[-1] == ("ok" if code == 0 else "FAILED")
    found, out, _ = call("check", model, "--no-reference", "--json")
    assert found == code and json.loads(out)["ok"] is (code == 0)


def test_errors_of_the_user_are_one_message_and_exit_code_2(
    compiler: Compiler, model: Path, call: Call, tmp_path: Path
) -> None:
    assert call("run", tmp_path / "none.onnx") == (
        2,
        "",
        f"mapsto: error: there is no model file {tmp_path}/none.onnx\n",
    )
    assert call("run", model, "--inputs", tmp_path / "none.npz")[0] == 2
    assert call("run", model, "--input", "z=ones")[0] == 2
    assert call("run", model, "--threads", "0")[0] == 2
    assert call("bench", model, "--against", "tensorrt")[0] == 2
    compiler.error = CompileError("kernel conv1: no")
    assert call("run", model) == (2, "", "mapsto: error: kernel conv1: no\n")


def test_faults_of_ours_are_told_apart(compiler: Compiler, model: Path, call: Call) -> None:
    compiler.error = ZeroDivisionError("oh")
    code, _, err = call("run", model)
    assert code == 3 and "internal error: ZeroDivisionError: oh" in err and "MAPSTO_DEBUG" in err


def test_debug_shows_the_traceback(
    compiler: Compiler, model: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler.error = CompileError("kernel conv1: no")
    monkeypatch.setenv("MAPSTO_DEBUG", "1")
    code, _, err = call("run", model)
    assert code == 2 and "Traceback" in err and err.endswith("mapsto: error: kernel conv1: no\n")


def test_graph_shows_stages(model: Path, call: Call) -> None:
    code, out, _ = call("graph", model)
    assert code == 0 and "y: f32[2, 3] = add(x, x)" in out
    stages = json.loads(call("graph", model, "--after", "all", "--json")[1])["stages"]
    assert stages[0]["stage"] == "imported" and len(stages) > 3
    assert call("graph", model, "--after", "imported")[1].startswith("# imported: 1 nodes\n")
    code, _, err = call("graph", model, "--after", "lunch")
    assert code == 2 and "no such stage; there are: imported, 1 " in err


def test_check_passes(model: Path, call: Call) -> None:
    assert call("check", model, "--passes")[:2] == (0, "ok: every pass keeps what the graph computes\n")
    assert json.loads(call("check", model, "--passes", "--json")[1])["ok"] is True


def test_devices_lists_the_processor(call: Call) -> None:
    code, out, _ = call("devices", "--json")
    devices = json.loads(out)["devices"]
    assert code == 0 and devices[0]["device"] == "cpu" and devices[0]["threads"] >= 1
