"""`mapsto devices` and `mapsto plan --verify`: what they print. Times themselves are never judged."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest

from mapsto.cli.entry import main
from mapsto.devices.cpu import measure
from mapsto.machine.spec import DeviceSpec

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def machine_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of figures count here."""
    monkeypatch.delenv("MAPSTO_MACHINE", raising=False)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command: exit code, standard output, standard error; in a cache folder of its own."""

    def measured(isa: Any, typical: DeviceSpec, units: int) -> DeviceSpec:
        return replace(typical, launch=1e-6, source="measured")

    monkeypatch.setenv("MAPSTO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measure, "measured", measured)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mapsto", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return (code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    text = """<ir_version: 9, opset_import: ["" : 18]>
    g (float[1, 8, h, 12] x) => (float[1, 16, h, 12] y) {
        c = Conv<pads = [1, 1, 1, 1]>(x, w)
        r = Relu(c)
        y = Softmax(r)
    }"""
    made = onnx.parser.parse_model(text)
    weights = np.random.default_rng(0).standard_normal((16, 8, 3, 3)).astype(np.float32)
    made.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    path = tmp_path / "m.onnx"
    onnx.save(made, path)
    return path


def test_devices_says_where_figures_come_from(call: Call, tmp_path: Path) -> None:
    code, out, _ = call("devices")
    assert code == 0 and "figures: typical" in out and "`mapsto devices --measure`" in out
    assert not list(tmp_path.glob("cache/machines/*"))
    code, out, _ = call("devices", "--measure")
    (path,) = tmp_path.glob("cache/machines/*.json")
    assert code == 0 and f"figures: measured ({path})" in out
    assert call("devices")[1] == out


def test_devices_prints_every_figure(call: Call) -> None:
    found = json.loads(call("devices", "--json")[1])
    (spec,) = found["machine"]["devices"]
    text = call("devices")[1]
    for name in (*spec["peaks"], *spec["rates"], *spec["moves"], *(level["name"] for level in spec["levels"])):
        assert re.search(rf"│ {re.escape(name)} ", text), name
    assert found["devices"][0]["device"] == "cpu" and len(found["machine"]["digest"]) == 64
    assert found["machine"]["missing"] == "not measured yet"


def test_a_measurement_changes_the_machine(call: Call) -> None:
    before = json.loads(call("devices", "--json")[1])["machine"]
    after = json.loads(call("devices", "--measure", "--json")[1])["machine"]
    assert before["digest"] != after["digest"] and after["missing"] == ""
    assert [d["source"] for m in (before, after) for d in m["devices"]] == ["typical", "measured"]


def test_a_cache_that_cannot_be_written_is_an_error(call: Call, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    code, _, err = call("devices", "--measure")
    assert code == 2 and "MAPSTO_CACHE" in err


def verified(call: Call, model: Path, *more: object) -> dict[str, Any]:
    arguments = ("--verify", "--seconds", "0", "--threads", "1", "--shape", "x=1,8,?,12")
    code, out, _ = call("plan", model, *arguments, "--input", f"x={model.parent / 'x.npy'}", *more, "--json")
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    return found


def test_verify_compares_every_kernel(call: Call, model: Path) -> None:
    np.save(model.parent / "x.npy", np.ones((1, 8, 20, 12), np.float32))
    found = verified(call, model)
    names = [step["name"] for step in found["steps"]]
    assert names and len(names) == len(set(names)) and all(re.fullmatch(r"g\d+", name) for name in names)
    assert any("conv+relu" in step["label"] for step in found["steps"])
    assert found["sizes"] == {"h": 20} and found["source"] == "typical" and found["threads"] == 1
    for step in found["steps"]:
        assert step["measured"] > 0 and step["ratio"] == pytest.approx(step["predicted"] / step["measured"])
        assert step["bytes"] > 0
    assert found["measured"] == pytest.approx(sum(s["measured"] for s in found["steps"]))
    right = sum(s["measured"] for s in found["steps"] if 1 / 1.5 <= s["ratio"] <= 1.5)
    assert found["share_within_factor"] == pytest.approx(right / found["measured"])


def test_predictions_follow_the_machine_file(call: Call, model: Path) -> None:
    """Nothing of the model is timed before: another machine file, other predictions, whatever the run takes."""
    np.save(model.parent / "x.npy", np.ones((1, 8, 20, 12), np.float32))
    before = verified(call, model)
    call("devices", "--measure")  # a launch takes a microsecond there
    after = verified(call, model)
    assert after["source"] == "measured" and after["machine"] != before["machine"]
    assert all(step["predicted"] > 1e-6 for step in after["steps"])
    assert [s["predicted"] for s in verified(call, model)["steps"]] == [s["predicted"] for s in after["steps"]]


def test_verify_prints_a_table_and_the_worst_first(call: Call, model: Path) -> None:
    np.save(model.parent / "x.npy", np.ones((1, 8, 20, 12), np.float32))
    arguments = ("--verify", "--seconds", 0, "--input", f"x={model.parent / 'x.npy'}")
    for more in ((), ("--worst",)):
        code, out, _ = call("plan", model, *arguments, *more)
        assert code == 0 and "figures: typical" in out and "within a factor of 1.5: " in out
        assert "conv+relu" in out and "predicted" in out
    lines = [line for line in out.splitlines() if re.match(r"│ g\d+ ", line)]
    wrong = [" * " in line for line in lines]
    assert wrong == sorted(wrong, reverse=True)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("-o", "plan.txt"), "leave -o out"),
        (("--seconds", "inf"), "finite"),
        ((), "the sizes of these inputs are open"),
    ],
)
def test_what_verify_cannot_do(call: Call, model: Path, more: tuple[str, ...], told: str) -> None:
    code, _, err = call("plan", model, "--verify", *more)
    assert code == 2 and told in err
