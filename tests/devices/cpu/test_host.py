"""The machine file in the cache folder: found by what it was measured on, and what is done without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mapsto.devices.cpu import host as machine
from mapsto.devices.cpu import isa as isas
from mapsto.devices.cpu import measure
from mapsto.errors import FileError
from mapsto.machine.spec import DeviceSpec
from mapsto.machine.text import digest, parse


@pytest.fixture(autouse=True)
def machine_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of figures count here."""
    monkeypatch.delenv("MAPSTO_MACHINE", raising=False)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, and a measurement that takes no time: every typical latency, doubled."""

    def doubled(isa: Any, typical: DeviceSpec, units: int) -> DeviceSpec:
        return replace(typical, latency=2 * typical.latency, source="measured")

    monkeypatch.setenv("MAPSTO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measure, "measured", doubled)
    return tmp_path / "cache"


def test_figures_are_typical_until_they_are_measured(folder: Path) -> None:
    before = machine.host_machine()
    assert before.machine.host.source == "typical" and before.missing == "not measured yet"
    assert not folder.exists()  # nothing is written for looking
    made = machine.measure_host()
    after = machine.host_machine()
    assert after.machine == made.machine and after.missing == "" and after.machine.host.source == "measured"
    assert after.machine.host.latency == 2 * before.machine.host.latency
    assert parse(after.path.read_text()) == made.machine


def test_the_file_is_found_by_processor_features_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    own = machine.machine_path(isas.host())
    assert machine.machine_path(isas.SSE2) != own or isas.host() == isas.SSE2
    for changed in ("processor_name", "available_cpus"):
        with monkeypatch.context() as patch:
            patch.setattr(machine, changed, lambda: "77")
            assert machine.machine_path(isas.host()) != own
    monkeypatch.setattr(machine, "VERSION", "99")
    assert machine.machine_path(isas.host()) != own


@pytest.mark.parametrize(
    "spoiled", [b"", b"{}", b"\xff\xfe", b"x" * (1 << 23)], ids=["empty", "bare", "binary", "huge"]
)
def test_a_spoiled_file_is_told_of_and_not_used(spoiled: bytes) -> None:
    path = machine.measure_host().path
    path.write_bytes(spoiled)
    found = machine.host_machine()
    assert found.machine.host.source == "typical" and found.missing not in ("", "not measured yet")
    machine.measure_host()
    assert machine.host_machine().missing == ""


def test_a_changed_figure_in_a_file_changes_the_digest() -> None:
    made = machine.measure_host()
    text = made.path.read_text()
    made.path.write_text(text.replace('"lanes": ', '"lanes": 1', 1))
    assert digest(machine.host_machine().machine) != digest(made.machine)


def test_a_folder_that_cannot_be_made_is_an_error(folder: Path) -> None:
    folder.parent.joinpath("cache").write_text("a file")
    with pytest.raises(FileError, match="MAPSTO_CACHE"):
        machine.measure_host()
