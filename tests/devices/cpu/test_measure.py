"""The measurement itself: that each probe computes what it claims, and that figures come from the right differences.
Times are never judged.
"""

from __future__ import annotations

import ctypes
import math
from pathlib import Path

import numpy as np
import pytest

from mapsto.devices.cpu import measure, probes
from mapsto.devices.cpu.caches import TYPICAL, Cache, caches
from mapsto.devices.cpu.isa import AVX2, AVX512, AVX512_FULL, SSE2, Isa, host
from mapsto.devices.cpu.typical import typical
from mapsto.ir.dtypes import DType
from mapsto.loop.interpret import interpret
from mapsto.machine.spec import MOVES, RATES, Machine, faults_of
from mapsto.machine.text import parse, to_text

ISAS = (SSE2, AVX2, AVX512, AVX512_FULL)


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
@pytest.mark.parametrize("units", [1, 2, 64])
def test_every_instruction_set_has_typical_figures(isa: Isa, units: int) -> None:
    spec = typical(isa, units)
    assert faults_of(spec) == [] and spec.source == "typical" and spec.code == isa.name
    assert spec.lanes * 32 == isa.vector_bits and spec.units == units
    machine = Machine((spec,))
    assert parse(to_text(machine)) == machine


def test_wider_registers_typically_do_more() -> None:
    peaks = [typical(isa, 1).peak(DType.F32, DType.F32, DType.F32) for isa in (SSE2, AVX2, AVX512)]
    assert peaks == sorted(peaks) and peaks[0] < peaks[-1]
    assert typical(AVX512_FULL, 1).peak(DType.U8, DType.I8, DType.I32) == 4 * peaks[-1]


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
def test_probes_can_be_made_for_every_instruction_set(isa: Isa) -> None:
    names = [probe.name for probe in probes.probes(isa)]
    assert len(names) == len(set(names))
    assert {"copy", "few_adds", "many_adds", "loads", "scan", "gather", "short_loop", "long_loop"} <= set(names)
    assert set(RATES) - {"add"} <= set(names)
    assert all(probe.count > 0 and probe.function.dims == ("rounds",) for probe in probes.probes(isa))


def test_probes_compute_what_they_are_named_after() -> None:
    x = np.linspace(0.5, 2, probes.ELEMENTS, dtype=np.float32)
    y = np.linspace(2, 3, probes.ELEMENTS, dtype=np.float32)
    made = {probe.name: probe for probe in probes.probes(host())}
    expected = {
        "copy": x,
        "exp": np.exp(x),
        "sqrt": x ** (1 / 2**probes.FEW),
        "divide": x / y**probes.FEW,
        "scan": np.cumsum(x),
        "truncate": np.trunc(x).astype(np.int32),
    }
    for name, values in expected.items():
        probe = made[name]
        out = np.zeros(probe.operands[-1][1], probe.operands[-1][0].numpy)
        given = [x, y][: len(probe.operands) - 1]
        interpret(probe.function, [*given, out], {"rounds": 2}, 0, probe.extent)
        np.testing.assert_allclose(out, values, rtol=1e-5, err_msg=name)


def fake(**changed: float) -> dict[str, float]:
    """Seconds of each probe on a processor with round figures."""
    found = {probe.name: 1e-9 for probe in probes.probes(host())}
    return found | {"few_adds": 2e-9, "many_adds": 4e-9, "few_scalars": 1e-9, "many_scalars": 9e-9} | changed


def test_figures_are_differences_of_probes() -> None:
    figures = measure._figures(fake(exp=11e-9, divide=9e-9, gather=6e-9, scan=3e-9), host())
    assert figures["rates"]["add"] == pytest.approx(2e-9 / 8, rel=0.03)
    assert figures["rates"]["exp"] == pytest.approx(10e-9, rel=0.03)
    assert figures["rates"]["divide"] == pytest.approx(2e-9, rel=0.03)
    assert figures["scalar"] == pytest.approx(1e-9, rel=0.03)
    assert figures["latency"] == pytest.approx(3e-9, rel=0.03)
    assert set(figures["rates"]) == set(RATES) and set(figures["moves"]) == set(MOVES)


def test_noise_never_makes_a_figure_nothing() -> None:
    """A probe that ran while another process took the core seems to take less than one without its operations."""
    figures = measure._figures(fake(copy=1e-6, few_adds=1e-6, few_scalars=1e-6, short_loop=1e-12), host())
    numbers = [*figures["rates"].values(), *figures["moves"].values(), *figures["peaks"].values()]
    numbers += [figures["scalar"], figures["latency"], figures["loop"]]
    assert all(number > 0 and math.isfinite(number) for number in numbers)


@pytest.mark.slow
def test_this_machine_can_be_measured() -> None:
    spec = measure.measured(host(), typical(host(), 2), 2)
    assert faults_of(spec) == [] and spec.source == "measured"
    assert all(level.read > 0 for level in spec.levels)


def test_a_call_does_as_many_rounds_as_it_is_told() -> None:
    lab = measure.Lab(host())
    probe = probes.writing(host(), 4096)
    (call,) = lab.calls((probe,))
    _, arrays = call(3)  # type: ignore[misc]
    assert (arrays[-1] == 1).all() and arrays[-1].ctypes.data % 64 == 0
    assert lab.rounds(call) >= 1
    assert ctypes.sizeof(ctypes.c_void_p) == 8


def _folder(tmp_path: Path, *entries: tuple[str, str, str, str]) -> Path:
    for number, (level, kind, size, shared) in enumerate(entries):
        index = tmp_path / f"index{number}"
        index.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
            (index / name).write_text(text + "\n")
    return tmp_path


def test_caches_as_the_system_tells_them(tmp_path: Path) -> None:
    folder = _folder(
        tmp_path, ("1", "Data", "48K", "0,8"), ("1", "Instruction", "32K", "0"), ("2", "Unified", "2M", "0,8"),
        ("3", "Unified", "32M", "0-15"),
    )  # fmt: skip
    assert caches(folder) == (Cache("L1", 49152, 2), Cache("L2", 2 << 20, 2), Cache("L3", 32 << 20, 16))


@pytest.mark.parametrize(
    "entries",
    [
        (),
        (("1", "Data", "32K", "0"),),
        (("1", "Data", "x", "0"), ("2", "Unified", "1M", "0")),
        (("1", "Data", "2M", "0"), ("2", "Unified", "1M", "0")),
        (("one", "Data", "32K", "0"), ("2", "Unified", "1M", "0")),
    ],
)
def test_caches_that_make_no_sense_are_typical_ones(
    tmp_path: Path, entries: tuple[tuple[str, str, str, str], ...]
) -> None:
    assert caches(_folder(tmp_path, *entries)) == TYPICAL
