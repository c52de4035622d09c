"""All that decides what is made is in the key."""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.session.cache.support import PLAIN

import mapsto
from mapsto import version
from mapsto.budget import Budget, defaulting, metering
from mapsto.devices.cpu import deciding as machine
from mapsto.formats.format import wanted
from mapsto.session.accuracy import Accuracy
from mapsto.session.cache import key
from mapsto.session.cache.key import Uncached, options_digest
from mapsto.session.calibration import Calibration
from mapsto.session.request import Request

SOURCE = Path(mapsto.__file__).parent
# Variables of the environment that sources name. Those of the key are read by `devices.cpu.deciding`.
IN_THE_KEY = {"MAPSTO_ISA", "MAPSTO_MACHINE"}
THAT_DO_NOT_DECIDE = {
    "MAPSTO_CACHE": "where entries lie",
    "XDG_CACHE_HOME": "where entries lie",
    "MAPSTO_DEBUG": "turns the cache off",
    "PYTHONPATH": "of compile workers; the package's own code is in the key",
}


@pytest.fixture(autouse=True)
def known_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key, "own_code", lambda: "this code")


def test_every_argument_is_in_the_key_or_does_not_decide() -> None:
    arguments = set(inspect.signature(mapsto.compile).parameters) - set(key.ARGUMENTS_OF_MODULES)
    assert arguments == {field.name for field in fields(Request)}
    assert arguments == set(key.ARGUMENTS) | set(key.ARGUMENTS_THAT_DO_NOT_DECIDE)
    assert not set(key.ARGUMENTS) & set(key.ARGUMENTS_THAT_DO_NOT_DECIDE)


CHANGES: list[tuple[str, Any]] = [
    ("shapes", {"x": (1, 2)}),
    ("plan", "a plan"),
    ("isa", "sse2"),
    ("budget", {"nodes": 17}),
    ("check_indices", False),
    ("data_root", "/tmp"),
    ("overridable", ("w",)),
    ("accuracy", Accuracy({"x": np.zeros((2, 3), np.float32)})),
    ("calibration", Calibration({"x": np.zeros((2, 3), np.float32)})),
    ("formats", wanted("bf16")),
    ("exact_integers", True),
    ("updates", (("cache", "cache.next"),)),
]


def test_the_changes_are_of_every_argument() -> None:
    assert {name for name, _ in CHANGES} | {"device"} == set(key.ARGUMENTS)


@pytest.mark.parametrize("name, value", CHANGES, ids=[name for name, _ in CHANGES])
def test_an_argument_changes_the_key(name: str, value: Any) -> None:
    assert options_digest(replace(PLAIN, **{name: value})) != options_digest(PLAIN) == options_digest(PLAIN)


@pytest.mark.parametrize("shapes", [{"x": (2, 1)}, {"y": (1, 2)}, {"x": (1, None)}, {"x": (1, "2")}])
def test_shapes_are_told_apart(shapes: Any) -> None:
    assert options_digest(replace(PLAIN, shapes=shapes)) != options_digest(replace(PLAIN, shapes={"x": (1, 2)}))


def test_a_budget_is_known_by_what_it_comes_to() -> None:
    same = options_digest(replace(PLAIN, budget=Budget()))
    assert same == options_digest(PLAIN) == options_digest(replace(PLAIN, budget={"nodes": Budget().nodes}))
    with defaulting({"nodes": 17}):
        assert options_digest(PLAIN) == options_digest(replace(PLAIN, budget={"nodes": 17})) != same


def test_sources_name_no_other_variables() -> None:
    """One that is new belongs into the key, or into the list of those that do not decide."""
    named = set()
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        if "environ" in text or "getenv" in text:
            named |= set(re.findall(r'"([A-Z][A-Z0-9]*_[A-Z_0-9]+|PYTHONPATH)"', text))
    named = {name for name in named if name.startswith(("MAPSTO", "XDG", "PYTHON"))}
    assert named == IN_THE_KEY | set(THAT_DO_NOT_DECIDE)


@pytest.mark.parametrize("name", sorted(IN_THE_KEY))
def test_the_environment_changes_the_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = options_digest(PLAIN)
    monkeypatch.setenv(name, "something else")
    assert options_digest(PLAIN) != before


def _patched(name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.setattr(name, value)


@pytest.mark.parametrize(
    "change",
    [
        _patched("mapsto.devices.cpu.deciding.available_cpus", lambda: 77),
        _patched("mapsto.devices.cpu.deciding.caches", lambda: ()),
        _patched("mapsto.devices.cpu.deciding.processor", lambda: ("flags: none",)),
        _patched("mapsto.devices.cpu.deciding.figures", lambda: "others"),
        _patched("mapsto.session.cache.key.own_code", lambda: "other code"),
        _patched("mapsto.version.VERSION", "77"),
        _patched("numpy.__version__", "77"),
        _patched("mapsto.session.cache.key._origin", lambda name: None),
        _patched("sys.version_info", (3, 77, 0)),
    ],
    ids=["cpus", "caches", "processor", "figures", "code", "version", "numpy", "packages", "python"],
)
def test_the_machine_and_the_code_change_the_key(
    change: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = options_digest(PLAIN)
    change(monkeypatch)
    assert options_digest(PLAIN) != before


def test_figures_of_the_machine_are_those_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAPSTO_CACHE", str(tmp_path))
    monkeypatch.delenv("MAPSTO_MACHINE", raising=False)
    assert machine.figures() == "typical"
    (tmp_path / "machines").mkdir()
    (tmp_path / "machines" / "a.json").write_text("1")
    first = machine.figures()
    (tmp_path / "machines" / "a.json").write_text("2")
    assert len({first, machine.figures(), "typical"}) == 3
    monkeypatch.setenv("MAPSTO_MACHINE", "typical")
    assert machine.figures() == "typical"


def test_the_processor_is_what_does_not_change_from_moment_to_moment() -> None:
    assert machine.processor() == machine.processor()
    assert any(line.startswith("flags: ") for line in machine.processor())


def test_what_has_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Uncached, match="opencl cannot be saved"):
        options_digest(replace(PLAIN, device="opencl"))
    with metering({"nodes": 10}), pytest.raises(Uncached, match="another compile's budget"):
        options_digest(PLAIN)
    with pytest.raises(Uncached, match="nodez"):
        options_digest(replace(PLAIN, budget={"nodez": 1}))
    with pytest.raises(Uncached):
        options_digest(replace(PLAIN, isa=object()))  # type: ignore[arg-type]
    monkeypatch.setenv("MAPSTO_DEBUG", "1")
    with pytest.raises(Uncached, match="MAPSTO_DEBUG"):
        options_digest(PLAIN)


# -- the package's own code --------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.undo()
    shutil.copytree(SOURCE / "solve", tmp_path / "mapsto" / "solve")
    monkeypatch.setattr(key, "TICK", 0)
    return tmp_path / "mapsto"


def test_a_checkout_is_known_by_its_sources(package: Path) -> None:
    first = key.own_code(str(package))
    assert key.own_code(str(package)) == first
    changed = package / "solve" / "best.py"
    changed.write_text(changed.read_text().replace("the", "eht"))
    second = key.own_code(str(package))
    (package / "new.py").write_text("")
    assert len({first, second, key.own_code(str(package))}) == 3


def test_a_checkout_that_was_changed_just_now_has_no_key(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key, "TICK", 2_000_000_000)
    (package / "new.py").write_text("")
    with pytest.raises(Uncached, match="changed just now"):
        key.own_code(str(package))


def test_what_is_installed_is_known_by_the_list_of_its_files(package: Path) -> None:
    record = package.parent / f"mapsto-{version.VERSION}.dist-info" / "RECORD"
    record.parent.mkdir()
    record.write_text("mapsto.pth,sha256=abc,10\n")  # of an editable one, which lists no sources
    checkout = key.own_code(str(package))
    record.write_text("mapsto/version.py,sha256=abc,10\n")
    first = key.own_code(str(package))
    record.write_text("mapsto/version.py,sha256=abd,10\n")
    assert len({checkout, first, key.own_code(str(package))}) == 3
