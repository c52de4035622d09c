"""What each released version wrote (artifacts, plans, machine files) this one reads, and answers as they did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mapsto
from mapsto.devices.cpu import isa as isas
from mapsto.machine.text import parse as parse_machine
from mapsto.machine.text import to_text
from mapsto.plan.plan import parse as parse_plan
from mapsto.report.accuracy import judge
from mapsto.version import VERSION
from tests.compatibility.kept import INSTRUCTION_SETS, MODELS, ROOT, Kept, kept

ENTRIES = list(kept())
RUNNABLE = {name: isas.runs(isas.by_name(name)) for name in INSTRUCTION_SETS}

each = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.folder.name}-{entry.name}")
on_each = pytest.mark.parametrize("isa", INSTRUCTION_SETS)


def inputs(entry: Kept) -> dict[str, np.ndarray]:
    return _part(entry, "input")


def answers(entry: Kept, isa: str) -> dict[str, np.ndarray]:
    return _part(entry, isa)


def _part(entry: Kept, of: str) -> dict[str, np.ndarray]:
    with np.load(entry.answers) as found:
        return {key.partition(":")[2]: found[key] for key in found.files if key.startswith(f"{of}:")}


def test_this_version_is_kept() -> None:
    """`python -m tests.compatibility.keep` writes its folder."""
    assert {entry.name for entry in ENTRIES if entry.folder.name == VERSION} == set(MODELS)
    for entry in ENTRIES:
        for isa in INSTRUCTION_SETS:
            assert entry.artifact(isa).is_file() and entry.plan(isa).is_file()


@on_each
@each
@pytest.mark.parametrize("threads", [1, 2])
def test_an_artifact_answers_bit_by_bit(entry: Kept, isa: str, threads: int) -> None:
    if not RUNNABLE[isa]:
        pytest.skip(f"this processor has no {isa}")
    exe = mapsto.load(entry.artifact(isa), threads=threads)
    found, expected = exe.run(inputs(entry)), answers(entry, isa)
    assert expected and found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert exe.plan.version == entry.folder.name and exe.plan.works


@on_each
@each
def test_an_artifact_is_whole(entry: Kept, isa: str) -> None:
    """Also one for another processor."""
    from mapsto.runtime.artifact import verify

    assert verify(entry.artifact(isa)).target.isa == isa


@on_each
@each
def test_a_plan_is_replayed(entry: Kept, isa: str) -> None:
    text = entry.plan(isa).read_text()
    assert parse_plan(text).text() == text
    if not RUNNABLE[isa]:
        pytest.skip(f"this processor has no {isa}")
    exe = mapsto.compile(entry.model, isa=isa, plan=text, cache=False)
    verdicts = judge(answers(entry, isa), exe.run(inputs(entry)))
    assert verdicts and all(verdict.ok for verdict in verdicts), [str(v) for v in verdicts if not v.ok]


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/machine.json")), ids=lambda path: path.parent.name)
def test_a_machine_is_read(path: Path) -> None:
    text = path.read_text()
    assert to_text(parse_machine(text, str(path))) == text
