"""Models on the machines that come along: what is refused, what limits and pins do, what the timeline adds up to."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from tests.importers.models import model, node, port
from tests.importers.test_light_models import weighted

from mapsto.errors import ArgumentError, FileError, ParseError
from mapsto.machine.machine_file import parse_machine
from mapsto.placement.model import latency
from mapsto.session.simulate import Simulation, read_machine, shipped_machines, simulate


@cache
def squeezenet(machine: str, objective: str = "latency") -> Simulation:
    return simulate(weighted("light_squeezenet"), read_machine(machine), objective=objective)


def test_five_machines_come_along() -> None:
    assert shipped_machines() == ["conv-board", "h100-pcie", "h200", "phone-npu", "tpu-gpu"]
    for name in shipped_machines():
        found = read_machine(name)
        assert found.devices[0].spec.name == "cpu" and len(found.about) > 200
        assert all(d.spec.power is not None for d in found.devices)


@pytest.mark.parametrize("machine", ["conv-board", "h100-pcie", "h200", "phone-npu", "tpu-gpu"])
def test_a_network_is_placed(machine: str) -> None:
    found = squeezenet(machine)
    assert 0 < found.placement.bound <= found.seconds < math.inf
    assert found.placement.seconds == found.seconds == latency(found.problem, found.placement.seats)
    assert found.stream <= found.seconds * (1 + 1e-9)
    assert all(found.seconds <= others * (1 + 1e-9) for _, others in found.placement.others)
    taken = sum(w.priced[d].seconds for w, d in zip(found.works, found.placement.seats, strict=True))
    busy = sum(e.end - e.begin for e in found.events if e.work is not None)
    assert busy == pytest.approx(taken) and found.joules is not None and found.joules > 0


def test_what_a_unit_does_not_take_is_refused_with_the_reason() -> None:
    board = squeezenet("conv-board")
    for work in board.works:
        pool = work.priced[2]
        assert (pool.seconds == math.inf) == bool(set(work.ops) - {"max_pool", "avg_pool", "reshape"})
        assert ("pool does not take" in pool.reason) == (pool.seconds == math.inf)
    assert {board.problem.devices[d] for d in board.placement.seats} >= {"cpu", "conv"}
    phone = squeezenet("phone-npu")
    assert set(phone.placement.seats) == {0}
    assert any("npu does not take f32" in w.priced[1].reason for w in phone.works)


def test_bytes_go_to_a_unit_of_bytes() -> None:
    rng = np.random.default_rng(0)
    w = rng.integers(-99, 99, (256, 256, 3, 3)).astype(np.int8)
    nodes = [node("ConvInteger", ["x", "w"], ["y"], pads=[1, 1, 1, 1])]
    integers = model(nodes, [port("x", [1, 256, 56, 56], np.int8)], constants={"w": w})
    found = simulate(integers, read_machine("phone-npu"))
    assert 1 in found.placement.seats and found.seconds < 0.5 * dict(found.placement.others)["all on cpu"]


def test_open_sizes_stay_where_they_can() -> None:
    opened = simulate(model([node("Relu", ["x"], ["y"])], {"x": ["n", 64]}), read_machine("tpu-gpu"))
    assert any("fixed sizes alone" in w.priced[1].reason for w in opened.works)


def test_limits_of_memory() -> None:
    def held(**limits: float) -> tuple[float, float]:
        found = simulate(weighted("light_squeezenet"), read_machine("h100-pcie"), limits=limits)
        return found.held()[1] if found.seconds < math.inf else -1, found.seconds

    free, limited, none = held(), held(gpu=2e6), held(gpu=1.0)
    assert free[0] > 2e6 >= limited[0] > 0 and none[0] == 0
    assert free[1] <= limited[1] <= none[1]
    assert held(gpu=1.0, cpu=1.0) == (-1, math.inf)


def test_pins() -> None:
    board = read_machine("h100-pcie")
    network = weighted("light_squeezenet")
    works = squeezenet("h100-pcie").works
    found = simulate(network, board, pins=[(works[3].name, "cpu"), (works[-1].sources[0], "gpu")])
    assert found.placement.seats[3] == 0 and found.placement.seats[-1] == 1
    all_here = simulate(network, board, pins=[("*", "cpu")])
    assert set(all_here.placement.seats) == {0}
    for pins, said in [
        ([("*", "tpu")], r"there is no device 'tpu'; there are: cpu, gpu"),
        ([("nosuch*", "gpu")], "no work and no node has a name like"),
        ([("*", "cpu"), (works[0].name, "gpu")], "another pin has it elsewhere"),
    ]:
        with pytest.raises(ArgumentError, match=said):
            simulate(network, board, pins=pins)
    with pytest.raises(ArgumentError, match="cannot run there: npu does not take"):
        simulate(network, read_machine("phone-npu"), pins=[("*", "npu")])


def test_objectives() -> None:
    quick, stream, frugal = (squeezenet("conv-board", o) for o in ("latency", "throughput", "energy"))
    assert quick.seconds <= min(stream.seconds, frugal.seconds) * (1 + 1e-9)
    assert stream.stream <= min(quick.stream, frugal.stream) * (1 + 1e-9)
    for machine in shipped_machines():
        quick, frugal = squeezenet(machine), squeezenet(machine, "energy")
        assert quick.joules is not None and frugal.joules is not None
        assert frugal.placement.bound <= frugal.joules * (1 + 1e-9) and frugal.joules <= quick.joules * (1 + 1e-9)
        assert frugal.placement.seconds == frugal.joules


def test_energy_of_a_machine_by_hand() -> None:
    """One device that takes 2 watts, and 3 more at work: 5 joules a second."""
    text = """mapsto_machine = 1
[[devices]]
name = "cpu"
peaks = { "f32*f32*f32" = 1e9 }
power = { idle = 2, unit = 3 }
levels = [{ name = "memory", read = 1e9 }]
"""
    alone = parse_machine(text, "alone", {})
    for objective in ("latency", "energy"):
        found = simulate(weighted("light_squeezenet"), alone, objective=objective)
        assert found.joules == pytest.approx(5 * found.seconds)


def test_what_is_not_there(tmp_path: object) -> None:
    board, network = read_machine("h200"), model([node("Relu", ["x"], ["y"])], {"x": [4]})
    for wrong in ({"objective": "speed"}, {"placer": "best"}, {"limits": {"npu": 1e9}}):
        with pytest.raises(ArgumentError, match="there (are|is no)"):
            simulate(network, board, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"no machine of that name; there are: conv-board"):
        read_machine("h300")
    with pytest.raises(FileError):
        read_machine("/nowhere/box.toml")


def test_files_that_are_none(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "box.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ParseError, match="no UTF-8"):
        read_machine(path)
    path.write_bytes(b"#" * (1 << 21))
    with pytest.raises(ParseError, match="more than"):
        read_machine(path)
