"""`mapsto plan --machine` and `mapsto advise` as they are called: text, JSON, files, exit codes, what is refused."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Call

from mapsto.cli.amounts import parse_limits, seconds_of

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples" / "mnist-cnn.onnx"
SHAPE = ("--shape", "image=1,1,28,28")
DIGITS = (MODEL, *SHAPE)
PAGE = ROOT / "docs" / "machines.md"

SMALL = """\
mapsto_machine = 1
price = 0.5

[[devices]]
name = "cpu"
peaks = { "f32*f32*f32" = 1e10 }
levels = [{ name = "memory", read = 1e10 }]
"""

def spans_of(text: str) -> list[tuple[float, float, str, str]]:
    """The timeline of a text: begin and end in microseconds, lane, name."""
    lines = re.findall(r"^ +(\d+\.\d) +(\d+\.\d) us  (\S+(?: \d+)?) +(.+)$", text, re.MULTILINE)
    return [(float(begin), float(end), lane, name) for begin, end, lane, name in lines]


# ---- plan --machine --------------------------------------------------------------------------------------------------


def test_a_plan_says_where_works_go_and_when(call: Call) -> None:
    code, out, err = call("plan", *DIGITS, "--machine", "conv-board")
    assert (code, err) == (0, "")
    head, devices, works, reasons, timeline = out.rstrip("\n").split("\n\n")
    lines = head.splitlines()
    assert lines[0] == "machine conv-board: described; nothing was run"
    assert re.fullmatch(r"one run \S+ us; a stream of runs, one each \S+ us; \S+ J a run \(modelled\)", lines[1])
    assert lines[2].startswith("objective latency: proved optimal, found by ")
    named = [line.strip().partition(":")[0] for line in lines[3:]]
    assert named == ["greedy", "heft", "additive", "all on cpu", "all on conv", "all on pool"]
    assert [line.split()[0] for line in devices.splitlines()] == ["device", "cpu", "conv", "pool"]
    assert re.search(r"^  g\d+ conv\+relu +(cpu|conv) .* -$", works, re.MULTILINE)
    assert "-: conv does not take matmul" in reasons
    seats = dict(re.findall(r"^  (g\d+)(?: \S+)? +(cpu|conv|pool)  ", works, re.MULTILINE))
    assert len(seats) == len(works.splitlines()) - 1 and {"cpu", "conv"} <= set(seats.values())
    spans = spans_of(timeline)
    assert len(spans) == len(timeline.splitlines())
    assert {name: lane for _, _, lane, name in spans if not lane.startswith("bus")} == seats


def test_a_plan_in_json_holds_the_same(call: Call) -> None:
    text = call("plan", *DIGITS, "--machine", "conv-board", "--deadline", "1s")[1]
    code, out, err = call("plan", *DIGITS, "--machine", "conv-board", "--deadline", "1s", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert (found["machine"], found["objective"], found["deadline_met"]) == ("conv-board", "latency", True)
    assert found["bound"] <= found["seconds"] * (1 + 1e-9) and found["stream_seconds"] <= found["seconds"]
    assert all(seconds >= found["seconds"] * (1 - 1e-9) for seconds in found["others"].values())
    assert "deadline of 1 s: met" in text and found["said"] in text and found["method"] in text
    spans = spans_of(text)
    on = {name: lane for _, _, lane, name in spans if not lane.startswith("bus")}
    assert {work["name"]: work["device"] for work in found["works"]} == on
    assert max(end for _, end, _, _ in spans) == pytest.approx(found["seconds"] * 1e6, abs=0.1)
    for work in found["works"]:
        assert set(work["seconds"]) == {"cpu", "conv", "pool"}
        assert {name for name, seconds in work["seconds"].items() if seconds == "inf"} == set(work["refused"])
    assert {node for work in found["works"] for node in work["nodes"]} >= {"conv1", "pool1", "fc1", "fc2"}


def test_a_trace_has_the_spans_of_the_text(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    code, out, _ = call("plan", *DIGITS, "--machine", "conv-board", "--trace", path)
    events = json.loads(path.read_text())["traceEvents"]
    lanes = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    assert code == 0 and list(lanes.values()) == ["cpu", "conv", "pool", "bus 0", "bus 1", "bus 2"]
    spans = [e for e in events if e["ph"] == "X"]
    traced = sorted((lanes[e["tid"]], e["name"], e["ts"], e["ts"] + e["dur"]) for e in spans)
    said = sorted((lane, name, begin, end) for begin, end, lane, name in spans_of(out))
    assert [each[:2] for each in traced] == [each[:2] for each in said] and traced
    for one, other in zip(traced, said, strict=True):
        assert one[2:] == pytest.approx(other[2:], abs=0.051)
    assert {e["cat"] for e in spans} == {"work", "transfer"}


def test_the_text_goes_into_a_file(call: Call, tmp_path: Path) -> None:
    _, out, _ = call("plan", *DIGITS, "--machine", "h200")
    assert call("plan", *DIGITS, "--machine", "h200", "-o", tmp_path / "plan.txt") == (0, "", "")
    assert (tmp_path / "plan.txt").read_text() == out


@pytest.mark.parametrize(("deadline", "code", "said"), [("1s", 0, "met"), ("1e-3ms", 1, "missed")])
def test_a_deadline_decides_the_exit_code(call: Call, deadline: str, code: int, said: str) -> None:
    found, out, err = call("plan", *DIGITS, "--machine", "conv-board", "--deadline", deadline)
    assert (found, err) == (code, "") and f": {said} (one run, as predicted)" in out


def test_an_objective_a_placer_limits_and_pins_are_kept_to(call: Call) -> None:
    def found(*options: object) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(call("plan", *DIGITS, "--machine", "conv-board", "--json", *options)[1])
        return data

    exact = found()
    assert found("--placer", "exhaustive")["seconds"] == pytest.approx(exact["seconds"])
    for placer in ("greedy", "heft"):
        simple = found("--placer", placer)
        assert simple["method"] == placer and simple["seconds"] >= exact["seconds"] * (1 - 1e-9)
    assert found("--objective", "throughput")["stream_seconds"] <= exact["stream_seconds"] * (1 + 1e-9)
    text = call("plan", *DIGITS, "--machine", "conv-board", "--objective", "energy")[1]
    assert "objective energy: " in text and re.search(r"^  greedy: \S+ J$", text, re.MULTILINE)
    alone = found("--pin", "*=cpu")
    assert {work["device"] for work in alone["works"]} == {"cpu"}
    assert found("--limit", "conv.memory=1KiB", "--limit", "pool.memory=0")["seconds"] == alone["seconds"]
    pinned = found("--pin", "conv?=conv", "--pin", "pool1=pool")
    on = {node: work["device"] for work in pinned["works"] for node in work["nodes"]}
    assert (on["conv1"], on["conv2"], on["pool1"]) == ("conv", "conv", "pool")


def test_memory_that_does_not_suffice_is_said(call: Call) -> None:
    limits = [f"--limit={name}.memory=1B" for name in ("cpu", "conv", "pool")]
    code, out, _ = call("plan", *DIGITS, "--machine", "conv-board", *limits)
    said = r"there is no assignment: constants of \d+\.\d KiB; limits: cpu 1 B, conv 1 B, pool 1 B"
    assert code == 1 and re.fullmatch(said, out.splitlines()[1])


REFUSED = [
    (["--limit", "gpu.memory=2GiB"], "limit of gpu: there is no such device; there are: cpu, conv, pool"),
    (["--limit", "conv.memory=2Gib"], "--limit conv.memory=2Gib: expected an amount, as 2GiB or 500MB"),
    (["--limit", "conv.memory=-1"], "--limit conv.memory=-1: expected an amount"),
    (["--limit", "conv.cores=2"], "--limit conv.cores=2: only memory has a limit, as gpu.memory=2GiB"),
    (["--limit", "conv"], "--limit conv: expected DEVICE.memory=AMOUNT"),
    (["--pin", "conv1"], "--pin conv1: expected PATTERN=DEVICE"),
    (["--pin", "*=gpu"], "pin *=gpu: there is no device 'gpu'; there are: cpu, conv, pool"),
    (["--pin", "convv*=conv"], "pin convv*=conv: no work and no node has a name like 'convv*'"),
    (["--pin", "pool1=conv"], "cannot run there: conv does not take max_pool"),
    (["--pin", "conv1=conv", "--pin", "conv1=cpu"], "cannot run there: another pin has it elsewhere"),
    (["--objective", "speed"], "objective 'speed'; there are: latency, throughput, energy"),
    (["--placer", "best"], "placer 'best'; there are: greedy, heft, exact, exhaustive"),
    (["--deadline", "30"], "--deadline 30: expected an amount, as 30ms or 0.5s"),
    (["--deadline", "soon"], "--deadline soon: expected an amount"),
    (["--trace", "none/a.json"], "none/a.json cannot be written: there is no folder"),
    (["-o", "none/a.txt"], "none/a.txt cannot be written: there is no folder"),
    (["--shape", "picture=1"], "picture"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED, ids=[" ".join(options) for options, _ in REFUSED])
def test_what_cannot_be_is_refused(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call("plan", *DIGITS, "--machine", "conv-board", *options)
    assert (code, out) == (2, "") and err.startswith("mapsto: error: ") and said in err
    assert err.count("\n") == 1 and list(tmp_path.iterdir()) == []
    told = json.loads(call("plan", *DIGITS, "--machine", "conv-board", *options, "--json")[1])
    assert told["exit_code"] == 2 and said in told["message"]


@pytest.mark.parametrize(
    "options",
    [
        ["--objective", "energy"], ["--limit", "conv.memory=1GB"], ["--pin", "*=cpu"], ["--placer", "heft"],
        ["--trace", "trace.json"],
    ],
    ids=lambda options: options[0],
)  # fmt: skip
def test_options_that_need_a_machine_are_refused_without_one(call: Call, options: list[str]) -> None:
    code, out, err = call("plan", *DIGITS, *options)
    assert (code, out) == (2, "") and f"{options[0]}" in err and "go with --machine" in err


def test_no_input_is_written_over(call: Call, tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(MODEL.read_bytes())
    for option in ("--trace", "-o"):
        code, _, err = call("plan", model, *SHAPE, "--machine", "conv-board", option, model)
        assert code == 2 and "is an input of this command" in err
    assert model.read_bytes() == MODEL.read_bytes()


def test_amounts() -> None:
    units = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    assert [parse_limits([f"a.b.memory=1.5e1{unit}"])["a.b"] for unit in units] == [15 * n for n in units.values()]
    assert [seconds_of(text, "--deadline") for text in ("30ms", "0.5 s", "7us")] == pytest.approx([0.03, 0.5, 7e-6])


# ---- machine files ---------------------------------------------------------------------------------------------------


def test_a_broken_machine_file_is_named_by_line_and_key(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "box.toml"
    for change, said in [
        (("peaks", "peeks"), "line 6: devices[0].peeks: means nothing here; 'peaks'?"),
        (("read = 1e10", "read = 0"), "line 7: devices[0].levels[0].read: expected a positive number, found 0"),
        (('"cpu"', "cpu"), "Invalid value (at line 5"),
        (("machine = 1", "machine = 2"), "line 1: mapsto_machine: must be 1"),
    ]:
        path.write_text(SMALL.replace(*change))
        for command in (("plan", *DIGITS), ("advise", *DIGITS)):
            code, out, err = call(*command, "--machine", path)
            assert (code, out) == (2, "") and err.startswith(f"mapsto: error: {path}") and said in err


def test_machines_that_are_not_there(call: Call, tmp_path: Path) -> None:
    code, _, err = call("plan", *DIGITS, "--machine", "conv-bord")
    assert code == 2 and "no machine of that name; there are: conv-board, h100-pcie, h200, phone-npu, tpu-gpu" in err
    code, _, err = call("plan", *DIGITS, "--machine", tmp_path / "none.toml")
    assert code == 2 and "none.toml" in err and "No such file" in err


@pytest.mark.skipif(not PAGE.is_file(), reason="the package is installed without its pages")
def test_the_machine_of_the_page_can_be_copied(call: Call, tmp_path: Path) -> None:
    page = PAGE.read_text()
    (example,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    path = tmp_path / "board.toml"
    path.write_text(example)
    code, out, err = call("plan", *DIGITS, "--machine", path)
    assert (code, err) == (0, "") and "J a run (modelled)" in out and "npu" in out
    (advice,) = json.loads(call("advise", *DIGITS, "--machine", path, "--price", 100, "--json")[1])["machines"]
    assert advice["unmet"] == []


# ---- advise ----------------------------------------------------------------------------------------------------------

FIVE = ["conv-board", "h100-pcie", "h200", "phone-npu", "tpu-gpu"]


def order(out: str) -> list[tuple[str, str]]:
    """Machines with what is said of what was asked for, the best first."""
    rows = [re.split(r"  +", line.strip()) for line in out.splitlines()[1:-1]]
    return [(row[0], row[-1]) for row in rows]


def test_advice_begins_with_the_fastest(call: Call) -> None:
    code, out, err = call("advise", *DIGITS)
    assert (code, err) == (0, "") and out.splitlines()[-1].startswith("Nothing was run")
    found = json.loads(call("advise", *DIGITS, "--json")[1])["machines"]
    assert sorted(m["machine"] for m in found) == FIVE and all(m["unmet"] == [] for m in found)
    seconds = [m["seconds"] for m in found]
    assert seconds == sorted(seconds) and order(out) == [(m["machine"], "yes") for m in found]
    assert all(re.fullmatch(r"(arithmetic|bytes|launches|transfers) \(\d+%\)", m["bound_by"]) for m in found)


def test_advice_begins_with_what_has_all_that_was_asked_for(call: Call) -> None:
    every = json.loads(call("advise", *DIGITS, "--json")[1])["machines"]
    deadline, energy = (1.001 * statistics.median(m[key] for m in every) for key in ("seconds", "joules"))
    said = {
        m["machine"]: ["too late"] * (m["seconds"] > deadline) + ["too much energy"] * (m["joules"] > energy)
        for m in every
    }
    seconds = {m["machine"]: m["seconds"] for m in every}
    best = sorted(said, key=lambda name: (len(said[name]), seconds[name]))
    assert best != [m["machine"] for m in every] and [] in said.values()
    asked = ("--energy", energy, "--deadline", f"{deadline}s")
    assert order(call("advise", *DIGITS, *asked)[1]) == [(name, ", ".join(said[name]) or "yes") for name in best]
    data = json.loads(call("advise", *DIGITS, *asked, "--json")[1])["machines"]
    assert [(m["machine"], m["unmet"]) for m in data] == [(name, said[name]) for name in best]
    assert all(m["deadline_met"] == (m["seconds"] <= deadline) for m in data)


def test_advice_by_price_and_of_named_machines(call: Call, tmp_path: Path) -> None:
    cheap, dear = tmp_path / "cheap.toml", tmp_path / "dear.toml"
    cheap.write_text(SMALL)
    dear.write_text(SMALL.replace("0.5", "7.5"))
    machines = [f"--machine={each}" for each in (dear, "h200", cheap)]
    code, out, _ = call("advise", *DIGITS, *machines, "--price", 1)
    assert code == 0
    assert order(out) == [(str(cheap), "yes"), ("h200", "price not known"), (str(dear), "too dear")]
    rows = json.loads(call("advise", *DIGITS, *machines, "--energy", 1, "--json")[1])["machines"]
    assert [(m["machine"], m["unmet"]) for m in rows][0] == ("h200", [])
    assert all(m["joules"] is None and m["unmet"] == ["energy not known"] for m in rows[1:])
    assert call("advise", *DIGITS, "--deadline", "soon")[0] == 2
    assert call("advise", tmp_path / "none.onnx")[0] == 2


# ---- help ------------------------------------------------------------------------------------------------------------


def test_help_names_the_options(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    options = ("--machine", "--objective", "--limit", "--pin", "--placer", "--deadline", "--trace")
    out = call("plan", "--help")[1]
    assert [option for option in options if option not in out] == []
    out = call("advise", "--help")[1]
    assert [option for option in ("--machine", "--deadline", "--energy", "--price") if option not in out] == []
    assert "advise" in call("--help")[1]
