"""Plans of several devices: printed, read back and done again; edited; of something else; what alternatives cost.

MAPSTO_RANDOM_CUTS says how many random graphs are cut (else 60).
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import opencl
from tests.importers.models import model, node, port
from tests.random_graphs import Case, cases
from tests.session.divisions import COUNT, at_random, common, diamond, split_diamond, wanted

import mapsto
from mapsto.devices.backend import Backend
from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ArgumentError, FileError, MapstoError, ParseError, ShapeError
from mapsto.ir.graph import Graph
from mapsto.ir.text import graph_digest
from mapsto.placement.place import place
from mapsto.plan.difference import differences, differences_of_divisions
from mapsto.plan.division import DividedPlan, PlacedWork, PlannedDevice
from mapsto.plan.division_text import division_text, parse_division
from mapsto.plan.placing import Correction
from mapsto.plan.plan import parse as parse_plan
from mapsto.runtime.divided import DividedExecutable
from mapsto.session import calibrate
from mapsto.session import divide as dividing
from mapsto.session.compile import prepared
from mapsto.session.division import division_of, whole_of
from mapsto.session.parts import cut
from mapsto.session.planned import planned_parts
from mapsto.session.redo import redone
from mapsto.version import VERSION

DIGITS = Path(__file__).parents[2] / "examples" / "mnist-cnn.onnx"
SHAPES = {"image": (1, 1, 28, 28)}
# Where each work is does not hang on how busy the machine was when it was measured.
PINS = [("conv2", "opencl"), *((name, "cpu") for name in ("conv1", "pool1", "pool2", "fc1", "fc2"))]
IMAGE = np.random.default_rng(0).standard_normal(SHAPES["image"]).astype(np.float32)


@pytest.fixture(scope="module")
def backends() -> Iterator[Mapping[str, Backend]]:
    with Workers(cache=False, isa=None) as workers:
        yield {"cpu": workers, "opencl": opencl.backend()}


def divide(**options: Any) -> DividedExecutable:
    opencl.required()
    options = {"shapes": SHAPES, "threads": 1, "adapt": False} | options
    if "plan" not in options:
        options.setdefault("devices", ["cpu", "opencl"])
    return mapsto.divide(DIGITS, **options)


@pytest.fixture(scope="module")
def mixed() -> DividedExecutable:
    """The second convolution on another device than all else."""
    return divide(pins=PINS)


def unpinned(text: str) -> str:
    """A plan's text, whose last pooling may be moved."""
    assert "pin pool2 on cpu\n" in text
    return text.replace("pin pool2 on cpu\n", "")


def number_of(text: str, begins: str) -> int:
    """The number of the first line that begins so."""
    return next(k for k, line in enumerate(text.split("\n"), 1) if line.startswith(begins))


# ---- done again ------------------------------------------------------------------------------------------------------


def plan_of(graph: Graph, seats: Mapping[str, int], backends: Mapping[str, Backend]) -> tuple[DividedPlan, Any]:
    """A plan with a work for each node, and the division that it is of."""
    names = list(backends)
    division = division_of(cut(graph, seats), backends, 1, False)
    works = tuple(PlacedWork(f"w {name}", names[seat], (name,)) for name, seat in seats.items())
    devices = tuple(PlannedDevice(name, each.name) for name, each in backends.items())
    plan = DividedPlan(
        graph.name, devices, graph_digest(graph), VERSION, works=works, parts=planned_parts(division.parts)
    )
    return plan, division


@settings(common, max_examples=max(COUNT // 2, 1))
@given(cases(most_nodes=8), st.integers(0, 2**32))
def test_random_cuts_are_done_again_to_the_bit(backends: Mapping[str, Backend], case: Case, seed: int) -> None:
    graph = prepared(case.model, case.shapes)
    plan, division = plan_of(graph, at_random(graph, seed), backends)
    text = division_text(plan)
    again = parse_division(text)
    assert division_text(again) == text
    done = redone(graph, again, backends, 1, False)
    assert not done.notes and done.division.plan_text == text
    assert [part.device for part in done.division.parts] == [part.device for part in division.parts]
    first, second = (DividedExecutable(whole_of(graph), d, list(backends)) for d in (division, done.division))
    expected, found = first.run(case.feed), second.run(case.feed)
    for name, array in expected.items():
        assert array.tobytes() == found[name].tobytes(), name


def test_what_was_planned_is_done_again(mixed: DividedExecutable, tmp_path: Path) -> None:
    text = mixed.plan_text
    assert {part.device for part in mixed.parts} == {"cpu", "opencl"}
    path = tmp_path / "plan.txt"
    path.write_text(text)
    for given_as in (text, path, str(path), parse_division(text)):
        again = divide(plan=given_as)
        assert again.plan_text == text and not again.notes and again.devices == ("cpu", "opencl")
        assert [part.executable.plan.text() for part in again.parts] == [p.executable.plan.text() for p in mixed.parts]
        assert np.array_equal(again(IMAGE), mixed(IMAGE))
    assert again.plan == mixed.plan
    assert '  because "pinned there by conv2"' in text and not any(work.beaten for work in mixed.plan.works)


def test_nothing_is_measured_or_placed_for_a_plan_that_is_there(
    mixed: DividedExecutable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: Any, **__: Any) -> Any:
        raise AssertionError("a decision")

    for where in ("mapsto.session.divide.calibrated", "mapsto.session.divide.placed", "mapsto.session.redo.priced",
                  "mapsto.session.compile.decide"):  # fmt: skip
        monkeypatch.setattr(where, asked)
    assert np.array_equal(divide(plan=mixed.plan_text)(IMAGE), mixed(IMAGE))


def test_comments_and_empty_lines_are_nothing(mixed: DividedExecutable) -> None:
    text = "# mine\n\n" + mixed.plan_text.replace("\nwork ", "\n\n# a work\nwork ")
    text = text.replace("\npart ", "\n# part 9\n\npart ")
    assert division_text(parse_division(text)) == mixed.plan_text == divide(plan=text).plan_text


def test_split_contractions_are_split_again() -> None:
    opencl.required()
    w = np.random.default_rng(0).standard_normal((2048, 2048)).astype(np.float32)
    product = model([node("MatMul", ["x", "w"], ["y"])], {"x": [768, 2048]}, constants={"w": w})
    exe = mapsto.divide(product, ["cpu", "opencl"], threads=1)
    text = exe.plan_text
    (count, axis) = re.search(r"^split y (\d+)(?: of (\w+))?$", text, re.MULTILINE).groups()  # type: ignore[union-attr]
    extent = {None: 2048, "rows": 768}[axis]
    again = mapsto.divide(product, plan=text, threads=1)
    x = np.random.default_rng(1).standard_normal((768, 2048)).astype(np.float32)
    assert again.plan_text == text and np.array_equal(again(x), exe(x))
    for share in (0, extent):
        wrong = text.replace(f"split y {count}", f"split y {share}")
        with pytest.raises(ParseError, match=rf"line {number_of(text, 'split')}: split y: .*from 1 to {extent - 1}"):
            mapsto.divide(product, plan=wrong, threads=1)
    with pytest.raises(ParseError, match="split z: it cannot be split"):
        mapsto.divide(product, plan=re.sub(r"^split \S+", "split z", text, flags=re.MULTILINE), threads=1)


def test_copies_of_the_whole_are_made_again() -> None:
    exe = divide(objective="throughput", replicate=True)
    text = exe.plan_text
    assert "\nreplicated\n" in text and "\nwork g1 on *\n" in text and '\nother "divided" ' in text
    again = divide(plan=text)
    assert again.plan_text == text and len(again.parts) == 2
    for outputs in again.stream([{"image": IMAGE}] * 12):
        np.testing.assert_allclose(outputs["logits"], exe(IMAGE), rtol=1e-4, atol=1e-5)
    with pytest.raises(ParseError, match=rf"line {number_of(text, 'work g1')}: .*works are on \*"):
        divide(plan=text.replace("work g1 on *", "work g1 on cpu"))


# ---- edited ----------------------------------------------------------------------------------------------------------


def test_a_work_that_is_moved_is_there_and_its_parts_are_planned_anew(mixed: DividedExecutable) -> None:
    text = unpinned(mixed.plan_text)
    assert "\nwork g4 on cpu\n" in text
    exe = divide(plan=text.replace("work g4 on cpu", "work g4 on opencl"))
    pool = next(work for work in exe.plan.works if work.name == "g4")
    (where,) = (part.device for part in exe.parts if pool.nodes[0] in part.makes)
    assert where == pool.device == "opencl"
    assert [note.partition(":")[0] for note in exe.notes] == ["part 1 on opencl", "part 2 on cpu"]
    assert all(note in exe.report() for note in exe.notes)
    assert exe.parts[0].executable.plan == mixed.parts[0].executable.plan
    np.testing.assert_allclose(exe(IMAGE), mixed(IMAGE), rtol=1e-4, atol=1e-5)
    assert exe.plan.total is not None and exe.plan.total.method == "the plan that was given"
    assert divide(plan=exe.plan_text).plan_text == exe.plan_text


def test_a_part_that_is_edited_is_made_as_it_says(mixed: DividedExecutable) -> None:
    """The schedule of one kernel of one part: the next best way, which the plan has."""
    text = mixed.plan_text
    found = re.search(r'^  as (tiles ".*")\n(?:  .*\n)*?  beaten as (tiles ".*") by', text, re.MULTILINE)
    assert found is not None and found[1] != found[2]
    exe = divide(plan=text.replace(f"  as {found[1]}\n", f"  as {found[2]}\n", 1))
    assert not exe.notes and f"  as {found[2]}\n" in exe.plan_text
    np.testing.assert_allclose(exe(IMAGE), mixed(IMAGE), rtol=1e-4, atol=1e-5)


def test_a_device_that_does_not_take_a_work_is_not_given_it(mixed: DividedExecutable) -> None:
    text = mixed.plan_text
    line = number_of(text, "work g3 on")
    work = r"^work g3 on opencl$((?s:.*?))^  takes cpu .*$"
    refusing = re.sub(work, r'work g3 on cpu\1  refuses cpu "too hot"', text, count=1, flags=re.MULTILINE)
    with pytest.raises(ParseError, match=f"plan, line {line}: work g3: cpu does not take it: too hot"):
        divide(plan=refusing)
    with pytest.raises(ParseError, match=rf"line {line}: work g3: on cpu, but pin conv2=opencl \(line 7\)"):
        divide(plan=text.replace("work g3 on opencl", "work g3 on cpu"))


def test_a_branch_stays_on_the_host() -> None:
    opencl.required()
    from tests.session.divisions import two_branches

    graph = two_branches()
    exe = mapsto.divide(graph, ["cpu", "opencl"], threads=1, adapt=False)
    text = exe.plan_text
    said = r'^work (\S+) on cpu$(?:\n  (?!refuses).*)*\n  refuses opencl "a branch or a loop'
    found = re.search(said, text, re.MULTILINE)
    assert found is not None
    for moved in (text, re.sub(r"^  refuses .*\n", "", text, flags=re.MULTILINE)):  # what it says, or is known anyway
        with pytest.raises(ParseError, match=f"work {found[1]}: opencl does not take it: a branch or a loop is run by"):
            mapsto.divide(graph, plan=moved.replace(f"work {found[1]} on cpu", f"work {found[1]} on opencl"), threads=1)


def test_works_that_are_left_out_or_changed(mixed: DividedExecutable) -> None:
    text = unpinned(mixed.plan_text)
    moved = text.replace("work g4 on cpu", "work g4 on opencl")
    with pytest.raises(ParseError, match="work g4: nodes: these are not computed together"):
        divide(plan=moved.replace("  nodes pool2_out\n", "  nodes pool2_out, flat\n"))
    line = number_of(text, "work g4")
    with pytest.raises(ParseError, match=f"line {line}: work g4: nodes: there is no node 'pool3_out' in this graph"):
        divide(plan=text.replace("  nodes pool2_out\n", "  nodes pool3_out\n"))
    without = re.sub(r"^work g6 on cpu\n(  .*\n)*|^pin fc2 .*\n", "", moved, flags=re.MULTILINE)
    with pytest.raises(ParseError, match="no work has the nodes"):
        divide(plan=without)


def test_a_plan_without_works_is_made_anew(mixed: DividedExecutable) -> None:
    pins = "".join(f"pin {name} on {device}\n" for name, device in PINS)
    exe = divide(plan=f"division 1 of any on cpu, opencl\n{pins}")
    assert exe.plan.pins == tuple(PINS)
    assert [work.device for work in exe.plan.works] == [work.device for work in mixed.plan.works]
    with pytest.raises(ArgumentError, match="pin conv9=opencl: no work and no node has a name like 'conv9'"):
        divide(plan="division 1 of any on cpu, opencl\npin conv9 on opencl\n")


# ---- of something else -----------------------------------------------------------------------------------------------


def test_a_plan_of_another_graph_or_machine_is_refused(mixed: DividedExecutable) -> None:
    text = mixed.plan_text
    with pytest.raises(ParseError, match=r"line 2: graph: .*, but this one, in these shapes, is .*; make a plan of it"):
        divide(plan=text, shapes={"image": (2, 1, 28, 28)})
    maker = re.search(r"^device cpu is (\S+) ", text, re.MULTILINE)
    assert maker is not None
    with pytest.raises(ParseError, match=f"line 3: device cpu: z80, but here it is {maker[1]}; make a plan for that"):
        divide(plan=text.replace(maker[1], "z80"))
    line = number_of(text, "part 1") + 1
    with pytest.raises(ParseError, match=rf"line {line}: for: opencl, but cpu is {maker[1]} \(line 3\)"):
        divide(plan=text.replace("part 1 on opencl", "part 1 on cpu"))


def test_kinds_of_plans_are_told_apart(mixed: DividedExecutable) -> None:
    one = mapsto.compile(DIGITS, SHAPES, threads=1).plan.text()
    with pytest.raises(ParseError, match=r"line 1: this is a plan of one device"):
        divide(plan=one)
    with pytest.raises(ParseError, match=r"line 1: this is a plan of several devices"):
        mapsto.compile(DIGITS, SHAPES, plan=mixed.plan_text)


def test_arguments_that_a_plan_says_are_refused(mixed: DividedExecutable, tmp_path: Path) -> None:
    text = mixed.plan_text
    for options, said in [
        ({"objective": "throughput"}, "give either it or these"), ({"pins": [("*", "cpu")]}, "give either it or these"),
        ({"placer": "heft"}, "give either it or these"), ({"replicate": False}, "give either it or these"),
        ({"devices": ["cpu"]}, "devices: the plan is for cpu, opencl"), ({"devices": 5}, "the plan is for"),
    ]:  # fmt: skip
        with pytest.raises(ArgumentError, match=said):
            divide(plan=text, **options)
    for wrong in (5, [], b"division 1"):
        with pytest.raises(ArgumentError, match="expected a plan"):
            divide(plan=wrong)
    (tmp_path / "latin").write_bytes(b"division 1 of \xe9 on cpu\n")
    for path, kind in ((tmp_path / "none.txt", FileError), (tmp_path, FileError), (tmp_path / "latin", ParseError)):
        with pytest.raises(kind):
            divide(plan=path)
    with pytest.raises(ParseError, match="line 5: objective 'price'; there are: latency"):
        divide(plan=text.replace("objective latency", "objective price"))
    with pytest.raises(ParseError, match="line 6: placer 'best'; there are"):
        divide(plan=text.replace("placer exact", "placer best"))
    with pytest.raises(ParseError, match="line 1: devices: the first one is the host"):
        divide(plan="division 1 of any on opencl\n")


# ---- alternatives and differences ------------------------------------------------------------------------------------


def test_alternatives_cost_what_the_best_placement_with_that_seat_does(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    before = dividing.Forced
    monkeypatch.setattr(dividing, "Forced", lambda found: seen.append(found) or before(found))
    exe = divide()
    problem = seen[0].problem
    seats = {work.name: work.device for work in exe.plan.works}
    for at, (work, considered) in enumerate(zip(problem.works, seen[0].works, strict=True)):
        found = exe.alternatives(considered.name)
        assert [each.device for each in found] == (["cpu", "opencl"] if considered.nodes else [])
        for d, each in enumerate(found):
            seconds = tuple(s if k == d else float("inf") for k, s in enumerate(work.seconds))
            works = (*problem.works[:at], replace(work, seconds=seconds), *problem.works[at + 1 :])
            best = place(replace(problem, works=works), "exhaustive").seconds
            assert each.whole == pytest.approx(best) and each.taken == (seats[each.work] == each.device)
            assert each.seconds == work.seconds[d]


def test_explanations(mixed: DividedExecutable) -> None:
    again = divide(plan=mixed.plan_text)
    for exe in (mixed, again):
        text = exe.explain("conv2")
        assert "is computed by g3 (conv+relu), on opencl: pinned there by conv2" in text
        assert re.search(r"^    opencl \* +\S+ us +\S+ us  as it is", text, re.MULTILINE)
        assert "in part 1, on opencl:" in text and "template: " in text
        with pytest.raises(MapstoError, match="nothing in the plan is named 'conv22'; closest: conv2"):
            exe.explain("conv22")
        with pytest.raises(ArgumentError, match="expected a string"):
            exe.explain(5)  # type: ignore[arg-type]
    assert "a pin has it elsewhere" in mixed.explain("conv2")
    free = divide()
    assert re.search(r"^  beaten (cpu|opencl) by \S+$", free.plan_text, re.MULTILINE)
    assert "all else as it is" in divide(plan=free.plan_text).explain("pool1")


def test_differences(mixed: DividedExecutable) -> None:
    plan = mixed.plan
    assert differences_of_divisions(plan, parse_division(mixed.plan_text)) == []
    text = mixed.plan_text.replace("work g4 on cpu", "work g4 on opencl")
    longer = re.sub(r"(?m)^  takes cpu \S+", "  takes cpu 0.25", text, count=1)
    said = [str(each) for each in differences_of_divisions(plan, parse_division(longer))]
    assert "work g4 (pool2): device: cpu -> opencl" in said
    assert [line for line in said if ": takes on cpu: " in line and line.endswith(" -> 0.25 s")]
    fewer = replace(plan, works=plan.works[:-1])
    assert [str(d) for d in differences_of_divisions(plan, fewer)] == ["work g6 (fc2): it is: there -> not there"]
    one = plan.parts[0].plan
    first = next(work for work in one.works if work.nodes)
    text = one.text().replace(f'  as {first.offer.template} "{first.offer.schedule}"', '  as loops "none"', 1)
    other = parse_plan(text)
    found = {(each.what, each.after) for each in differences(one, other)}
    assert ("schedule", "none") in found and differences(one, one) == []
    inside = [str(d) for d in differences_of_divisions(plan, parse_division(mixed.plan_text.replace(one.text(), text)))]
    assert inside and all(line.startswith("part 0 on cpu: work ") for line in inside)


# ---- besides ---------------------------------------------------------------------------------------------------------


def test_pins_are_told_by_the_names_of_users() -> None:
    opencl.required()
    from tests.session.divisions import two_branches

    with pytest.raises(ArgumentError, match="there is no device 'gpu'; there are: cpu, opencl"):
        divide(pins=[("*", "gpu")])
    with pytest.raises(ArgumentError, match=r"pin \*=opencl: work \S+ cannot run there: a branch or a loop is run by"):
        mapsto.divide(two_branches(), ["cpu", "opencl"], threads=1, pins=[("*", "opencl")])


def test_a_device_is_measured_once(measured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    opencl.required()
    made: list[str] = []
    inner = calibrate.DeviceCalibration.__init__

    def counted(self: Any, backend: Backend, threads: int, is_host: bool) -> None:
        made.append(backend.name)
        inner(self, backend, threads, is_host)

    monkeypatch.setattr(calibrate, "_KNOWN", {})
    monkeypatch.setattr(calibrate.DeviceCalibration, "__init__", counted)
    for _ in range(3):
        exe = divide()
    assert len(made) == 2
    for planned, known in zip(exe.plan.devices, calibrate._KNOWN.values(), strict=True):
        found = (known.correction.contraction, known.correction.rows)
        assert (planned.products, planned.others) == pytest.approx(found, rel=1e-3)
    divide(threads=2)
    assert len(made) == 4


def test_a_plan_says_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = SimpleNamespace(correction=Correction(2.0, 0.5), times=lambda: 1.0)
    monkeypatch.setattr(dividing, "calibrated", lambda *_: measured)
    assert [(d.products, d.others) for d in divide().plan.devices] == [(2.0, 0.5)] * 2


def test_initializers_that_are_inputs_may_be_given() -> None:
    opencl.required()
    w = np.full((4, 4), 2, np.float32)
    made = model([node("MatMul", ["x", "w"], ["m"]), node("Relu", ["m"], ["y"])], {"x": [3, 4]}, constants={"w": w})
    made.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 4]))
    exe = mapsto.divide(made, ["cpu", "opencl"], threads=1)
    alone = mapsto.compile(made, threads=1)
    x, other = np.ones((3, 4), np.float32), np.eye(4, dtype=np.float32)
    for feed in ({"x": x}, {"x": x, "w": other}, {"x": x}):
        np.testing.assert_allclose(exe.run(feed)["y"], alone.run(feed)["y"], rtol=1e-6)
    with pytest.raises(ShapeError, match="initializers are given to `run`, not to a stream"):
        list(exe.stream([{"x": x, "w": other}]))
    with pytest.raises(ShapeError, match="it takes x; got"):
        exe.run({"x": x, "v": other})
    again = mapsto.divide(made, plan=exe.plan_text, threads=1)
    np.testing.assert_allclose(again.run({"x": x, "w": other})["y"], x, rtol=1e-6)


def test_indices_may_wrap() -> None:
    opencl.required()
    gather = model([node("Gather", ["x", "i"], ["y"])], [port("x", [4]), port("i", [2], np.int64)])
    exe = mapsto.divide(gather, ["cpu", "opencl"], threads=1, check_indices=False)
    assert exe(np.arange(4, dtype=np.float32), np.array([1, 3])).tolist() == [1, 3]
    with pytest.raises(ParseError, match="graph: "):
        mapsto.divide(gather, plan=exe.plan_text, threads=1)


def test_nothing_is_lost_in_counting(backends: Mapping[str, Backend]) -> None:
    workers = backends["cpu"]
    assert isinstance(workers, Workers)
    exe = split_diamond(workers)
    x = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=lambda: [exe(x) for _ in range(100)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    finally:
        sys.setswitchinterval(before)
    np.testing.assert_allclose(exe(x), wanted(x), rtol=1e-4, atol=1e-6)
    assert [spent.runs for spent in exe.times] == [401] * len(exe.parts) and len(diamond().nodes) > 3
    assert exe._current.waiting == [0] * len(exe.parts)
