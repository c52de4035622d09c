"""A device is one folder: nothing above `devices/` names one, and what devices share holds no number of a processor."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mapsto

ROOT = Path(mapsto.__file__).parent
DEVICES = tuple(path.name for path in (ROOT / "devices").iterdir() if (path / "maker.py").exists())
SHARED = (
    *(f"devices/{room}" for room in ("contraction", "generic", "making", "routines")),
    "devices/maker.py",
    "devices/backend.py",
)
# What lists devices, to open them and for users.
LISTS = {"devices/named.py", "cli/devices.py"}

_DEVICE = re.compile(r"(?<![a-z])(cpu|gpu|opencl|cuda|avx\w*|sse\d?|neon|x86\w*|amd64|aarch64|llvm\w*)(?![a-z])", re.I)


def sources(*rooms: str) -> Iterator[tuple[str, str]]:
    """(place, text) of the files of these rooms."""
    for room in rooms:
        path = ROOT / room
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            yield file.relative_to(ROOT).as_posix(), file.read_text()


def imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def devices_of(source: str) -> set[str]:
    """The devices whose folders a source reaches into."""
    parts = (name.split(".") for name in imported(source))
    return {p[2] for p in parts if p[:2] == ["mapsto", "devices"] and len(p) > 2 and p[2] in DEVICES}


def test_only_lists_of_devices_reach_into_a_device() -> None:
    assert set(DEVICES) >= {"cpu", "opencl", "described"}
    for place, text in sources("."):
        own = place.split("/")[1] if place.startswith("devices/") else ""
        others = devices_of(text) - {own}
        assert not others or place in LISTS, f"{place} needs {', '.join(sorted(others))}"


@pytest.mark.parametrize(
    "line",
    ["import mapsto.devices.cpu.isa", "from mapsto.devices.cpu import isa", "from mapsto.devices import cpu",
     "def f():\n    from mapsto.devices.cpu.isa import host"],
)  # fmt: skip
def test_a_device_is_seen_however_it_is_reached(line: str) -> None:
    assert devices_of(line) == {"cpu"}
    assert devices_of("from mapsto.devices.named import backend_named\nimport mapsto.devices.maker") == set()


def test_rooms_that_map_models_name_no_device() -> None:
    seen = 0
    for place, text in sources("ir", "kernel", "ops", "passes", "machine", "plan", "importers", *SHARED):
        if place.startswith("importers/torch/"):  # tensors and operators there name devices of torch's own
            continue
        seen += 1
        found = [(number, line) for number, line in enumerate(text.split("\n"), 1) if _DEVICE.search(line)]
        assert not found, f"{place} names a device: {found}"
    assert seen > 150
    assert _DEVICE.search("if isa == 'avx512'") and _DEVICE.search("# as on x86-64") and not _DEVICE.search("cpus")


# -- numbers -----------------------------------------------------------------------------------------------------------

# Every number in `plan/` and `devices/generic/` but 0, 1, 2, and why it is none of a processor.
CODE = "a bound on how much code or compile time one kernel or plan takes"
FORM = "a choice of the method, the same everywhere"
TYPE = "of an element type, or of counting elements as 32 bits"
TEXT = "a bound on what is read or printed, or on what is remembered"
GUESS = "a guess at sizes that only a run knows, or at how a place moves, and its bounds"
COUNT = "how many operations a thing is"
STILL = "of one kind of processor, as no `DeviceSpec` has the figure"  # none is added here
NUMBERS: dict[str, dict[str, tuple[float, ...]]] = {
    "devices/generic/blocks.py": {FORM: (4, 8, 16)},
    "devices/generic/body.py": {CODE: (4,)},
    "devices/generic/cost.py": {GUESS: (4096,), TYPE: (4,)},
    "devices/generic/lower.py": {CODE: (6, 40, 120)},
    "devices/generic/one_pass.py": {CODE: (4, 8, 160), FORM: (16,)},
    "devices/generic/operations.py": {TYPE: (16,)},
    "devices/generic/reduce.py": {FORM: (10,)},
    "devices/generic/relaid.py": {FORM: (8,)},
    "devices/generic/scalar.py": {TYPE: (32, 94)},
    "devices/generic/schedule.py": {TYPE: (4,), TEXT: (3, 4, 5, 16, 80)},
    "plan/access.py": {TEXT: (13,)},
    "plan/by_slices.py": {CODE: (24,)},
    "plan/chain.py": {FORM: (3, 16)},
    "plan/correlation.py": {FORM: (3, 4)},
    "plan/decide.py": {TEXT: (1e6,)},
    "plan/division_costs.py": {TEXT: (1e6,)},
    "plan/division_text.py": {TEXT: (64, 1000)},
    "plan/fuse.py": {CODE: (64,)},
    "plan/guesses.py": {GUESS: (20,)},
    "plan/judge.py": {FORM: (0.03,)},
    "plan/layout.py": {TEXT: (1024,)},
    "plan/loop_forms.py": {CODE: (32, 64, 128), FORM: (4, 6, 16, 512, 1024, 4096)},
    "plan/patterns.py": {GUESS: (3, 4, 8, 15, 40, 48, 64), TEXT: (16,)},
    "plan/plan.py": {TEXT: (5, 1e6)},
    "plan/recipe.py": {TEXT: (400,)},
    "plan/routine_tally.py": {COUNT: (3, 4)},
    "plan/rounds.py": {FORM: (4,)},
    "plan/row_tally.py": {TYPE: (4, 8), GUESS: (12,), STILL: (32,)},
    "plan/row_work.py": {COUNT: (3,), TYPE: (4, 8), GUESS: (4096,)},
    "plan/rules/compose.py": {CODE: (160,)},
    "plan/rules/epilogue.py": {CODE: (160,)},
    "plan/rules/rows.py": {CODE: (24,), FORM: (4,), TEXT: (1e6,)},
    "plan/rules/siblings.py": {CODE: (16, 20), FORM: (0.1, 64), TEXT: (1e6,)},
    "plan/siblings.py": {CODE: (8,)},
    "plan/seats.py": {CODE: (16,), FORM: (0.01,)},
    "plan/text.py": {TEXT: (50, 15, 255)},
    "plan/words.py": {TEXT: (22,)},
    "plan/transposed.py": {CODE: (64,)},
    "plan/views.py": {TEXT: (12,)},
}


def numbers(source: str) -> set[float]:
    """The numbers in a source but 0, 1 and 2; none of those in texts."""
    constants = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return {n for n in constants if isinstance(n, int | float) and not isinstance(n, bool) and n not in (0, 1, 2)}


def test_every_number_says_why_it_is_none_of_a_processor() -> None:
    """A new one that tells of a processor comes from its maker, by `plan.traits` or `devices.generic.processor`."""
    for place, text in sources("plan", "devices/generic"):
        known = {n for listed in NUMBERS.get(place, {}).values() for n in listed}
        assert numbers(text) <= known, f"{place}: {sorted(numbers(text) - known)}"
    assert numbers("BLOCK = 16\n\ndef f(x=0.5): return x - 1 if x else True  # 77\n") == {16, 0.5}
    assert numbers("reach = lanes * -3") == {3}
