"""`run`, `plan`, `explain`, `check` and `bench` on several devices: files, text, JSON, exit codes, what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import opencl
from tests.cli.conftest import Call
from tests.session.test_divide_asked import machine_of

from mapsto.cli.run import percentile

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples" / "mnist-cnn.onnx"
DIGITS = (MODEL, "--shape", "image=1,1,28,28", "--threads", 1)
BOTH = ("--device", "cpu,opencl")
PINS = ("--pin", "conv2=opencl", *(f"--pin={name}=cpu" for name in ("conv1", "pool1", "pool2", "fc1", "fc2")))


@pytest.fixture(autouse=True)
def both() -> None:
    opencl.required()


@pytest.fixture
def written(call: Call, tmp_path: Path) -> Path:
    """A plan whose second convolution is on another device."""
    assert call("plan", *DIGITS, *BOTH, *PINS, "-o", tmp_path / "p.txt") == (0, "", "")
    return tmp_path / "p.txt"


def outputs(call: Call, tmp_path: Path, *options: object) -> np.ndarray:
    assert call("run", *DIGITS, "-o", tmp_path / "out.npz", *options)[0] == 0
    with np.load(tmp_path / "out.npz") as found:
        return np.array(found["logits"])


def test_a_plan_that_is_written_is_run(measured: None, call: Call, tmp_path: Path, written: Path) -> None:
    text = written.read_text()
    assert text.startswith("division 1 of mnist-cnn on cpu, opencl\n") and "\npin conv2 on opencl\n" in text
    alone = outputs(call, tmp_path)
    first, second = (outputs(call, tmp_path, "--plan", written) for _ in range(2))
    assert np.array_equal(first, second)
    np.testing.assert_allclose(first, alone, rtol=1e-4, atol=1e-5)
    code, out, err = call("run", *DIGITS, "--plan", written)
    assert (code, err) == (0, "") and "part 1 on opencl: " in out and "divided in " in out
    moved = text.replace("work g4 on cpu", "work g4 on opencl").replace("pin pool2 on cpu\n", "")
    assert moved.count("pool2") == text.count("pool2") - 1
    written.write_text(moved)
    code, out, _ = call("run", *DIGITS, "--plan", written)
    assert code == 0 and "part 1 on opencl: planned anew" in out and "part 0 on cpu: planned anew" not in out


def test_a_plan_of_one_device_is_run(call: Call, tmp_path: Path) -> None:
    assert call("plan", *DIGITS, "-o", tmp_path / "p.txt")[0] == 0
    assert np.array_equal(outputs(call, tmp_path, "--plan", tmp_path / "p.txt"), outputs(call, tmp_path))
    (tmp_path / "p.txt").write_text((tmp_path / "p.txt").read_text().replace("plan mnist-cnn for", "plan mnist-cnn or"))
    code, out, err = call("run", *DIGITS, "--plan", tmp_path / "p.txt")
    assert (code, out) == (2, "") and "plan, line 1: not a line of a plan" in err


def test_json(call: Call, written: Path) -> None:
    found = json.loads(call("plan", *DIGITS, *BOTH, *PINS, "--json", "--deadline", "1s")[1])
    assert found["pins"][:2] == [["conv2", "opencl"], ["conv1", "cpu"]] and found["deadline_met"] is True
    on = {node: work["device"] for work in found["works"] for node in work["sources"]}
    assert (on["conv1"], on["conv2"]) == ("cpu", "opencl")
    assert set(found["works"][1]["takes"]) == {"cpu", "opencl"}
    assert [part["device"] for part in found["parts"]] == ["cpu", "opencl", "cpu"]
    found = json.loads(call("run", *DIGITS, "--plan", written, "--json", "--repeat", 5)[1])
    assert found["how"] == "divided" and found["runs"] == 5 and len(found["parts"]) == 3
    assert found["p50_seconds"] <= found["p99_seconds"]
    found = json.loads(call("explain", *DIGITS, "conv2", *BOTH, *PINS, "--json")[1])
    cpu, other = found["alternatives"]
    assert (cpu["device"], cpu["taken"], cpu["whole"]) == ("cpu", False, None)
    assert (other["device"], other["taken"]) == ("opencl", True) and other["whole"] > 0
    told = json.loads(call("run", *DIGITS, *BOTH, "--pin", "conv9=cpu", "--json")[1])
    assert told["exit_code"] == 2 and told["error"] == "ArgumentError"


def test_explanations_are_a_table_of_alternatives(call: Call) -> None:
    code, out, err = call("explain", *DIGITS, "conv2", *BOTH, "--pin", "conv1=cpu")
    assert (code, err) == (0, "")
    assert re.search(r"^    (cpu|opencl) \* +\S+ us +\S+ us  as it is, found by ", out, re.MULTILINE)
    assert re.search(r"^    (cpu|opencl) +\S+ us +\S+ us  proved optimal with it there, found by ", out, re.MULTILINE)
    assert re.search(r"^  in part \d, on ", out, re.MULTILINE)
    assert call("explain", *DIGITS, "conv3", *BOTH)[0] == 2


def test_differences_and_their_exit_codes(call: Call, tmp_path: Path, written: Path) -> None:
    assert call("plan", "--diff", written, written) == (0, "", "")
    other = tmp_path / "q.txt"
    other.write_text(written.read_text().replace("work g4 on cpu", "work g4 on opencl"))
    assert call("plan", "--diff", written, other) == (1, "work g4 (pool2): device: cpu -> opencl\n", "")
    found: dict[str, Any] = json.loads(call("plan", "--diff", written, other, "--json")[1])
    assert found["same"] is False
    assert found["differences"] == [
        {"where": "work g4 (pool2)", "what": "device", "before": "cpu", "after": "opencl"}
    ]
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    assert call("plan", *DIGITS, "-o", one)[0] == 0
    two.write_text(re.sub(r"predicted \S+", "predicted 7.0", one.read_text(), count=1))
    assert call("plan", "--diff", one, one)[0] == 0
    code, out, _ = call("plan", "--diff", one, two)
    assert code == 1 and re.fullmatch(r"work g\d+[^\n]*: predicted: \S+ s -> 7 s\n", out)
    code, out, err = call("plan", "--diff", one, written)
    assert (code, out) == (2, "") and "is a plan of one device" in err
    two.write_text("nonsense\n")
    code, _, err = call("plan", "--diff", one, two)
    assert code == 2 and f"{two}: plan, line 1: not a line of a plan" in err
    assert call("plan", MODEL, "--diff", one, one)[0] == 2 and call("plan", "--diff", one, tmp_path / "none")[0] == 2
    code, _, err = call("plan")
    assert code == 2 and "a model is needed (MODEL)" in err


@pytest.mark.parametrize(("deadline", "code", "said"), [("10s", 0, "met"), ("1e-3us", 1, "missed")])
def test_deadlines_decide_the_exit_code(call: Call, deadline: str, code: int, said: str) -> None:
    for device in ("cpu", "cpu,opencl"):
        where = (*DIGITS, "--device", device, "--deadline", deadline)
        found, out, err = call("plan", *where)
        assert (found, err) == (code, "") and re.search(rf"^# deadline of .*: {said} \(one run \S+ us, as", out, re.M)
        found, out, err = call("run", *where, "--repeat", 6)
        assert (found, err) == (code, "") and f": {said} by 99 of 100 runs (p50 " in out and "of 5 runs)" in out


def test_a_stream_is_timed(call: Call) -> None:
    out = call("run", *DIGITS, *BOTH, "--objective", "throughput", "--repeat", 4)[1]
    assert "a stream of runs, one each " in out


def test_a_model_on_several_devices_is_one_file(call: Call, tmp_path: Path, written: Path) -> None:
    file, by_plan = tmp_path / "m.mapsto", tmp_path / "p.mapsto"
    code, out, err = call("compile", *DIGITS, *BOTH, *PINS, "-o", file)
    assert (code, err) == (0, "") and "output logits: f32[1, 10]" in out
    assert call("compile", *DIGITS, "--plan", written, "-o", by_plan)[0] == 0
    first, second = (outputs_of(call, tmp_path, each) for each in (file, by_plan))
    assert np.array_equal(first, outputs(call, tmp_path, "--plan", written)) and np.array_equal(first, second)
    code, out, _ = call("run", file)
    assert code == 0 and "part 1 on opencl: " in out and "loaded in " in out
    assert call("plan", by_plan)[1] == written.read_text()
    assert "pinned there by conv2" in call("explain", file, "conv2")[1]
    assert call("verify", file)[1].endswith("is as written; for cpu, opencl\n")
    found = json.loads(call("verify", file, "--json")[1])
    assert found["ok"] is True and found["devices"] == ["cpu", "opencl"]
    data = file.read_bytes()
    file.write_bytes(data[:-9] + b"x" + data[-8:])
    for command in ("verify", "run"):
        code, out, err = call(command, file)
        assert (code, out) == (2, "") and "damaged" in err and "m.mapsto" in err


def outputs_of(call: Call, tmp_path: Path, file: Path) -> np.ndarray:
    assert call("run", file, "-o", tmp_path / "out.npz")[0] == 0
    with np.load(tmp_path / "out.npz") as found:
        return np.array(found["logits"])


def test_joules_and_limits(call: Call, tmp_path: Path) -> None:
    path = machine_of(tmp_path, cpu=1e6, opencl=1e-3)
    code, out, _ = call("run", *DIGITS, *BOTH, "--objective", "energy", "--power", path, "--repeat", 2)
    assert code == 0 and "part 0 on opencl" in out and re.search(r"^  \S+ J a run \(modelled\)$", out, re.M)
    found = json.loads(call("plan", *DIGITS, *BOTH, "--limit", "opencl.memory=2MB", "--power", path, "--json")[1])
    assert found["limits"] == {"opencl": {"memory": 2_000_000}} and found["devices"][0]["power"] is None
    found = json.loads(call("plan", *DIGITS, *BOTH, "--objective", "energy", "--power", path, "--json")[1])
    assert found["devices"][0]["power"]["unit"] == 1e6 and found["total"]["seconds"] > 0
    code, out, err = call("plan", *DIGITS, *BOTH, "--objective", "energy", "--power", path, "--deadline", "1s")
    assert (code, out) == (2, "") and "a plan predicts joules" in err


def test_other_commands_take_several_devices(call: Call) -> None:
    pytest.importorskip("onnxruntime")
    code, out, _ = call("check", *DIGITS, *BOTH, *PINS, "--no-reference")
    assert code == 0 and out.splitlines()[-1] == "ok"
    code, out, _ = call("bench", *DIGITS, *BOTH, *PINS, "--seconds", 0.2, "--json")
    found = json.loads(out)
    assert code == 0 and found["timings"][0]["engine"] == "mapsto"


REFUSED: list[tuple[list[object], str]] = [
    (["run", *DIGITS, "--pin", "conv1=cpu"], "go with --machine, or with several devices (--device cpu,opencl)"),
    (["explain", *DIGITS, "conv1", "--objective", "latency"], "or with several devices"),
    (["bench", *DIGITS, "--pin", "conv1=cpu"], "--pin goes with several devices"),
    (["run", *DIGITS, "--device", "opencl,cpu"], "the first one is the host, cpu"),
    (["run", *DIGITS, "--device", "cpu,"], "there is no ''"),
    (["run", *DIGITS, "--device", "cpu,gpu"], "there is no 'gpu'"),
    (["run", *DIGITS, *BOTH, "--pin", "conv1"], "--pin conv1: expected PATTERN=DEVICE"),
    (["run", *DIGITS, *BOTH, "--pin", "conv1=npu"], "there is no device 'npu'; there are: cpu, opencl"),
    (["plan", *DIGITS, *BOTH, "--objective", "cost"], "objective 'cost'; there are: latency, throughput, energy"),
    (["plan", *DIGITS, *BOTH, "--objective", "energy"], "no figures of power of cpu, opencl; give a machine file"),
    (["plan", *DIGITS, *BOTH, "--placer", "best"], "placer 'best'; there are: "),
    (["plan", *DIGITS, *BOTH, "--trace", "t.json"], "--trace is to go with --machine"),
    (["run", *DIGITS, *BOTH, "--limit", "gpu.memory=1GB"], "limits: there is no device 'gpu'; there are: cpu, opencl"),
    (["run", *DIGITS, "--limit", "opencl.memory=1GB"], "or with several devices"),
    (["check", *DIGITS, *BOTH, "--limit=cpu.memory=1KB", "--limit=opencl.memory=1KB"], "there is no assignment: "),
    (["plan", *DIGITS, *BOTH, "--verify"], "--verify is of one device"),
    (["run", *DIGITS, "--deadline", "soon"], "--deadline soon: expected an amount"),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED, ids=[" ".join(map(str, a[5:])) + a[0] for a, _ in REFUSED])  # type: ignore[operator]
def test_what_cannot_be_is_refused(call: Call, arguments: list[object], said: str) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "") and err.startswith("mapsto: error: ") and said in err


def test_plans_that_do_not_fit_are_refused(call: Call, tmp_path: Path, written: Path) -> None:
    plan = ("--plan", written)
    for arguments, said in [
        (["run", *DIGITS, *plan, "--pin", "conv1=cpu"], "--plan says where works go"),
        (["run", *DIGITS, *plan, "--device", "opencl"], "devices: the plan is for cpu, opencl"),
        (["run", MODEL, "--shape", "image=3,1,28,28", *plan], "plan, line 2: graph: "),
        (["run", *DIGITS, "--plan", tmp_path / "none"], "there is no plan file"),
        (["compile", *DIGITS, "-o", tmp_path / "m.mapsto", *plan, "--pin", "conv1=cpu"], "--plan says where works go"),
        (["compile", *DIGITS, "-o", tmp_path / "m.mapsto", "--device", "opencl"], "beside the host's it can"),
        (["compile", *DIGITS, "-o", tmp_path / "m.mapsto", "--pin", "conv1=cpu"], "or with several devices"),
    ]:
        code, out, err = call(*arguments)
        assert (code, out) == (2, "") and said in err, err
    assert call("run", *DIGITS, *plan, "-o", written)[0] == 2
    assert call("compile", *DIGITS, "-o", tmp_path / "m.mapsto")[0] == 0
    code, _, err = call("run", tmp_path / "m.mapsto", *plan)
    assert code == 2 and "is compiled already: --plan needs an ONNX file" in err


def test_percentiles() -> None:
    every = [float(k) for k in range(100, 0, -1)]
    assert [percentile(every, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert [percentile([3.0, 1.0, 2.0], share) for share in (0.5, 0.99)] == [2, 3] and percentile([5.0], 0.5) == 5
