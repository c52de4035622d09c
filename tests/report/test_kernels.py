"""Kernels beside the machine's limits: what is faster than it can be is said to be; times themselves are not judged."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.machine.test_spec import simple_spec

from mapsto.cli.entry import main
from mapsto.cli.kernels import kernels_text
from mapsto.ir.dtypes import DType
from mapsto.machine.cost import Stream
from mapsto.machine.limits import Needs
from mapsto.machine.spec import DeviceSpec
from mapsto.report import kernels
from mapsto.report.kernels import KernelReport, at_limits, kernels_at_limits

EXAMPLES = Path(__file__).parents[2] / "examples"
SPEC = simple_spec()
F32 = DType.F32
NEEDS = {"g0": Needs({(F32, F32, F32): 1e9}, {}, ()), "g1": Needs({}, {}, (Stream(1e6, 1e12),))}
LEAST = {"g0": 1e9 / SPEC.peak(F32, F32, F32), "g1": 1e6 / SPEC.levels[-1].read}


def report(*factors: tuple[float, float]) -> KernelReport:
    samples = [{("g0", "contraction conv"): a * LEAST["g0"], ("g1", "rows add"): b * LEAST["g1"]} for a, b in factors]
    return KernelReport(at_limits(samples, NEEDS, SPEC, 1), 1, len(samples), (3,), 1e9, 1e9)


def test_the_share_is_that_of_the_median_and_the_sum_that_of_all() -> None:
    found = report((2.0, 4.0), (100.0, 4.0), (1.5, 4.0))
    assert [k.bound for k in found.kernels] == ["arithmetic", "bytes"]
    assert [k.share for k in found.kernels] == pytest.approx([0.5, 0.25])
    assert found.share == pytest.approx(sum(LEAST.values()) / (2 * LEAST["g0"] + 4 * LEAST["g1"]))
    assert not any(k.impossible for k in found.kernels)
    text = kernels_text(found)
    assert "50.0%" in text and "pinned to CPU 3" in text and "1 thread," in text and "*" not in text


def test_a_kernel_that_is_faster_than_its_limit_is_flagged() -> None:
    found = report((0.9, 4.0))
    assert [k.impossible for k in found.kernels] == [True, False]
    assert "* g0: faster than the machine can be" in kernels_text(found)
    assert [k["impossible"] for k in found.to_json()["kernels"]] == [True, False]


def test_worst_are_those_that_lose_most_time() -> None:
    lines = kernels_text(report((1.1, 1e6)), worst=True).splitlines()
    assert [name for line in lines for name in ("g0", "g1") if f" {name} " in line] == ["g1", "g0"]


class Fixed:
    """A machine of these figures, however often it is looked at."""

    def __init__(self, threads: int, spec: DeviceSpec = SPEC) -> None:
        self.looks, self._spec = 0, spec

    def look(self) -> None:
        self.looks += 1

    def spec(self) -> DeviceSpec:
        return self._spec


@pytest.mark.parametrize("threads", [1, 2])
def test_the_algorithm_that_was_chosen_counts(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    machine = Fixed(threads)
    monkeypatch.setattr(kernels, "host_ceilings", lambda threads: machine)
    import numpy as np

    feed = {"image": np.zeros((2, 1, 28, 28), np.float32)}
    found = kernels_at_limits(EXAMPLES / "mnist-cnn.onnx", {"image": (2, 1, 28, 28)}, feed, threads, 0.05)
    assert machine.looks >= 2 and found.samples >= 9 and len(found.cpus) <= threads
    conv = next(k for k in found.kernels if "conv" in k.label)
    # 3x3 taps of one channel, 16 columns: two operations each, and what is computed on the sums
    products = 2 * 2 * 28 * 28 * 16 * 9
    assert products <= conv.operations <= 1.4 * products
    assert all(k.seconds > 0 and k.limit > 0 and k.bytes > 0 for k in found.kernels)


def test_the_command_prints_a_table_or_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fast = replace(SPEC, peaks=dict.fromkeys(SPEC.peaks, 1e15))
    monkeypatch.setattr(kernels, "host_ceilings", lambda threads: Fixed(threads, fast))

    def call(*more: str) -> tuple[int | str | None, str, str]:
        given = ["bench", str(EXAMPLES / "mnist-cnn.onnx"), "--shape", "image=2,1,28,28", "--seconds", "0.1", *more]
        monkeypatch.setattr(sys, "argv", ["mapsto", *given])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    code, out, _ = call("--kernels", "--worst")
    assert code == 0 and "limits " in out and " / times " in out and "bound by" in out
    code, out, _ = call("--kernels", "--json")
    found = json.loads(out)
    assert code == 0 and {"share", "impossible", "limit"} <= set(found["kernels"][0]) and found["threads"] == 1
    code, _, err = call("--worst")
    assert code == 2 and "--worst goes with --kernels" in err
    code, _, err = call("--kernels", "--device", "opencl")
    assert code == 2 and "leave --device opencl out" in err


def test_real_ceilings_grow_with_looks() -> None:
    from mapsto.devices.named import host_ceilings

    ceilings = host_ceilings(1)
    ceilings.look()
    first = ceilings.spec()
    ceilings.look()
    second = ceilings.spec()
    assert all(second.peaks[key] >= first.peaks[key] > 0 for key in first.peaks)
    for before, after in zip(first.levels, second.levels, strict=True):
        assert after.read >= before.read > 0 and after.write >= before.write > 0
    assert second.levels[0].read > second.levels[-1].read
