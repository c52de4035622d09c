"""What a division may be asked for beside the least time: fewest joules, and no more memory than a device may give."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import opencl
from tests.even import even_devices
from tests.importers.models import model, node
from tests.importers.test_light_models import weighted

import mapsto
from mapsto.errors import ArgumentError, FileError, ParseError
from mapsto.runtime.divided import DividedExecutable
from mapsto.session import fitting
from mapsto.session.fitting import taken
from mapsto.session.simulate import read_machine

DIGITS = Path(__file__).parents[2] / "examples" / "mnist-cnn.onnx"
IMAGE = np.random.default_rng(0).standard_normal((1, 1, 28, 28)).astype(np.float32)


def divide(**options: Any) -> DividedExecutable:
    opencl.required()
    given = {"shapes": {"image": (1, 1, 28, 28)}, "threads": 1, "adapt": False} | options
    if "plan" not in given:
        given.setdefault("devices", ["cpu", "opencl"])
    return mapsto.divide(DIGITS, **given)


def machine_of(folder: Path, **watts: float) -> Path:
    """A machine file whose devices take so many watts a unit."""
    device = """
[[devices]]
name = "{}"
units = 1
lanes = 4
peaks = {{ "f32*f32*f32" = 3e9 }}
power = {{ idle = 0.1, unit = {}, byte = 1e-12, products = {{ "f32*f32*f32" = 4.6e-12 }} }}
levels = [{{ name = "memory", read = 4e9 }}]
"""
    path = folder / f"{'-'.join(map(str, watts.values()))}.toml"
    path.write_text("mapsto_machine = 1\n" + "".join(device.format(*each) for each in watts.items()))
    return path


def seats(exe: DividedExecutable) -> set[str]:
    return {part.device for part in exe.parts}


def test_works_go_where_they_take_fewer_joules(tmp_path: Path) -> None:
    """Far more watts than any difference of time can make up for, on the one device and on the other."""
    cold, hot = (machine_of(tmp_path, cpu=a, opencl=b) for a, b in ((1e-3, 1e6), (1e6, 1e-3)))
    expected = mapsto.compile(DIGITS, {"image": (1, 1, 28, 28)}, threads=1)(IMAGE)
    for path, device in ((cold, "cpu"), (hot, "opencl")):
        exe = divide(objective="energy", power=path)
        assert seats(exe) == {device}
        np.testing.assert_allclose(exe(IMAGE), expected, rtol=1e-4, atol=1e-5)
        plan = exe.plan
        assert plan.total is not None and 0 < plan.total.bound <= plan.total.seconds < dict(plan.others)["greedy"] * 1e6
        assert f"{plan.total.seconds:.3g} J a run (modelled)" in exe.report()
        (conv,) = plan.works_of("conv2")
        assert all(loss > 0 for _, loss in conv.beaten) and conv.because == (
            "the whole takes no more joules than with it elsewhere"
        )
        whole = {each.device: each.whole for each in exe.alternatives("conv2")}
        assert whole[device] < 1e-3 * whole[({"cpu", "opencl"} - {device}).pop()]  # type: ignore[operator]
        assert re.search(rf"{device} \* +\S+ us +\S+ J ", exe.explain("conv2"))


def test_joules_are_of_the_devices_at_work_and_of_all_doing_nothing(tmp_path: Path) -> None:
    """By hand: on one device alone nothing overlaps."""
    exe = divide(objective="energy", power=machine_of(tmp_path, cpu=2.0, opencl=1e6), pins=[("*", "cpu")])
    plan = exe.plan
    assert plan.total is not None
    seconds = sum(dict(work.takes)["cpu"] for work in plan.works)
    assert 2.2 * seconds <= plan.total.seconds <= 2.2 * seconds * 1.001 + 1e-12 * 4e6 + 4.6e-12 * 4e6


def test_a_plan_of_joules_is_done_again_and_edited(tmp_path: Path) -> None:
    exe = divide(objective="energy", power=machine_of(tmp_path, cpu=1e6, opencl=1e-3))
    text = exe.plan_text
    assert "\npower cpu idle 0.1 unit 1000000.0 byte 1e-12 f32*f32*f32 4.6e-12\n" in text
    again = divide(plan=text)
    assert again.plan_text == text and again.report().endswith("J a run (modelled)")
    name = exe.plan.works_of("pool2")[0].name
    moved = divide(plan=text.replace(f"work {name} on opencl", f"work {name} on cpu"))
    assert moved.plan.total is not None and exe.plan.total is not None
    assert moved.plan.total.seconds > 2 * exe.plan.total.seconds
    head = "".join(line + "\n" for line in text.splitlines() if re.match(r"(division|objective|device|power) ", line))
    assert seats(divide(plan=head)) == {"opencl"}
    with pytest.raises(ArgumentError, match="it says objective, pins, placer, replicate, limits and power"):
        divide(plan=text, power=machine_of(tmp_path, cpu=1.0, opencl=1.0))


def test_devices_without_figures_of_power_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"no figures of power of cpu, opencl; give a machine file .* --power FILE"):
        divide(objective="energy")
    with pytest.raises(ArgumentError, match="no figures of power of opencl;"):
        divide(objective="energy", power=read_machine("h100-pcie"))
    with pytest.raises(ArgumentError, match="has npu, and none of the devices cpu, opencl"):
        divide(objective="energy", power=machine_of(tmp_path, npu=1.0))
    with pytest.raises(FileError):
        divide(objective="energy", power=tmp_path / "no.toml")
    with pytest.raises(ArgumentError, match="energy is of one run"):
        divide(objective="energy", power=machine_of(tmp_path, cpu=1.0, opencl=1.0), replicate=True)
    seconds = divide(power=machine_of(tmp_path, cpu=1.0, opencl=1.0))
    assert "J a run" not in seconds.report() and "\npower " not in seconds.plan_text


def test_parts_keep_within_limits() -> None:
    """Also with what placement does not know: packed weights and scratch memory."""
    network = weighted("light_squeezenet")
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    expected = mapsto.compile(network, threads=1)(x)
    one, both = {"cpu": {"memory": 6e6}}, {"cpu": {"memory": 16e6}, "opencl": {"memory": 80e6}}
    opencl.required()
    for limits in (one, both):
        exe = mapsto.divide(network, ["cpu", "opencl"], threads=1, adapt=False, limits=limits)
        used = taken(exe._current.division)
        assert all(used.get(device, 0) <= each["memory"] for device, each in limits.items()), used
        assert all(f"limit {device} memory {int(each['memory'])}\n" in exe.plan_text for device, each in limits.items())
        np.testing.assert_allclose(exe(x), expected, rtol=1e-3, atol=1e-6 * float(np.abs(expected).max()))
    free = mapsto.divide(network, ["cpu", "opencl"], threads=1, adapt=False)
    assert taken(free._current.division)["cpu"] > 6e6 or "opencl" in seats(free)


def test_limits_between_what_nothing_keeps_and_what_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """How much tighter limits have to be is a guess: seats are also found where it was too much."""
    network, limits = weighted("light_squeezenet"), {"cpu": {"memory": 6e6}}
    opencl.required()
    even_devices(monkeypatch, 4.0)  # the host gets as much as its limit seems to allow
    guesses: list[fitting.Limits] = []

    def far_too_tight(given: fitting.Limits, over: Mapping[str, float]) -> fitting.Limits:
        guesses.append(given)
        return tuple((device, 1 if device in over else limit) for device, limit in given)

    monkeypatch.setattr("mapsto.session.divide.tightened", far_too_tight)
    exe = mapsto.divide(network, ["cpu", "opencl"], threads=1, adapt=False, limits=limits)
    assert guesses and taken(exe._current.division).get("cpu", 0) <= 6e6
    monkeypatch.setattr("mapsto.session.divide.between", lambda tight, wide: tight)
    with pytest.raises(ArgumentError, match=r"limits cpu.memory=6000000: .* takes \S+ times its limit"):
        mapsto.divide(network, ["cpu", "opencl"], threads=1, adapt=False, limits=limits)


def test_copies_keep_within_limits() -> None:
    """Of a stream, each device would have all of the model."""
    exe = divide(objective="throughput", limits={"opencl": {"memory": 1000}})
    assert not exe.plan.replicated and seats(exe) == {"cpu"}
    with pytest.raises(ArgumentError, match="opencl takes .* times its limit"):
        divide(objective="throughput", replicate=True, limits={"opencl": {"memory": 1000}})


def test_limits_that_cannot_be_kept_are_an_error() -> None:
    with pytest.raises(ArgumentError, match=r"limits cpu.memory=1000, opencl.memory=1000: there is no assignment: "):
        divide(limits={name: {"memory": 1000} for name in ("cpu", "opencl")})
    text = divide(limits={"cpu": {"memory": 10_000_000}}, pins=[("*", "cpu")]).plan_text
    with pytest.raises(ParseError, match=r"plan, line \d+: limits cpu.memory=20000: .* cpu takes \S+ times that"):
        divide(plan=text.replace("memory 10000000", "memory 20000"))


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"gpu": {"memory": 5}}, "there is no device 'gpu'; there are: cpu, opencl"),
        ({"cpu": 5}, "expected the memory of each device"),
        ({"cpu": {"cores": 5}}, "expected the memory of each device"),
        ({"cpu": {"memory": -1}}, "cpu: expected a number of bytes, got -1"),
        ({"cpu": {"memory": float("nan")}}, "expected a number of bytes"),
        ({"cpu": {"memory": "2GiB"}}, "expected a number of bytes, got '2GiB'"),
        ({"cpu": {"memory": True}}, "expected a number of bytes"),
        ([("cpu", 5)], "expected a dict by devices"),
    ],
)
def test_what_are_no_limits(limits: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(said)):
        mapsto.divide(model([node("Relu", ["x"], ["y"])], {"x": [4]}), ["cpu", "opencl"], limits=limits)
