"""Seeded faults: the list that was thought out fits the code, draws are what they say, and a run tells what it found.

The run itself, which takes hours, is `scripts/seed_faults.py`; here are the list, the draws, and one small run.
"""

from __future__ import annotations

import ast
import os
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

import seed_faults
from faults import listed, results
from faults.drawn import Place, draw, places, shares
from faults.fault import SOURCE, Fault, StaleError
from faults.reach import Reach, measured
from faults.results import Result
from faults.rooms import ROOMS, room_of, stages
from faults.trial import CAUGHT, SURVIVED

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not (ROOT / "src").is_dir(), reason="the package is installed without its sources")

# -- what was thought out ----------------------------------------------------------------------------------------------


def test_every_fault_that_was_thought_out_fits_the_code() -> None:
    found = listed.thought(ROOT)  # raises for one that does not
    assert len(found) >= 60 and len({fault.key for fault in found}) == len(found)
    assert all((ROOT / test.split("::")[0]).exists() for fault in found for test in fault.beyond)


def test_what_has_no_place_any_more_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / SOURCE).mkdir(parents=True)
    module, entries = tmp_path / SOURCE / "one.py", tmp_path / "thought.toml"
    entries.write_text('[a]\nfile = "one.py"\nold = "1 + 1"\nnew = "1 + 2"\nwhat = "adds"\n')
    monkeypatch.setattr(listed, "THOUGHT", entries)
    module.write_text("x = 1 + 1\n")
    (fault,) = listed.thought(tmp_path)
    assert fault.applied(module.read_bytes()) == b"x = 1 + 2\n" and fault.line(module.read_bytes()) == 1
    for text, why in (("x = 2\n", "0 times"), ("x = 1 + 1\ny = 1 + 1\n", "2 times"), ("# 1 + 1\n", "changes nothing")):
        module.write_text(text)
        with pytest.raises(StaleError, match=why):
            listed.thought(tmp_path)
    entries.write_text(entries.read_text().replace("1 + 2", "1 +"))
    module.write_text("x = 1 + 1\n")
    with pytest.raises(StaleError, match="would not parse"):
        listed.thought(tmp_path)
    module.unlink()
    with pytest.raises(StaleError, match="0 times"):
        listed.thought(tmp_path)


def test_faults_that_change_nothing_are_listed_with_a_reason() -> None:
    known = {fault.key for fault in listed.thought(ROOT)}
    for key, entry in tomllib.loads(listed.EQUIVALENT.read_text()).items():
        assert entry["why"].strip()
        if key not in known:  # one that was drawn: by what it changes, and where
            assert (ROOT / SOURCE / entry["file"]).is_file() and {"function", "old", "new"} <= entry.keys(), key


# -- what is drawn -----------------------------------------------------------------------------------------------------

TEXT = '''
"""A module."""

import os

LIMIT = 8
__all__ = ["f"]


def f(x: int = 3, *rest: "tuple[int, 4]") -> "list[5]":
    """A docstring of 1 + 1."""
    assert x > 0
    if x < LIMIT and rest:
        raise ValueError(f"{x + 1} is not {2 * x}")
    total = [0, 0]
    for k in range(1, x):
        total[0] += k
    g(rest, x)
    return total[0] if x else total[1]


def __repr__() -> str:
    return "x" * 3
'''


def faults_of(text: str, name: str = "f") -> list[Fault]:
    node = next(n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and n.name == name)
    return [f for f in Place("src/mapsto/m.py", name, node, text.encode()).faults() if f.fits(text.encode())]


def test_what_may_be_drawn() -> None:
    found = {(fault.kind, fault.old, fault.new) for fault in faults_of(TEXT)}
    assert {
        ("operator", "x < LIMIT", "(x <= LIMIT)"),
        ("operator", "x < LIMIT and rest", "(x < LIMIT or rest)"),
        ("condition", "x < LIMIT and rest", "not (x < LIMIT and rest)"),
        ("bound", "range(1, x)", "range(2, x)"),
        ("index", "total[1]", "total[0]"),
        ("index", "total[0]", "total[-1]"),
        ("statement", "total[0] += k", "pass"),
        ("statement", "g(rest, x)", "pass"),
        ("arguments", "g(rest, x)", "g(x, rest)"),
        ("condition", "total[0] if x else total[1]", "(total[0] if not x else total[1])"),
    } <= found
    olds = {old for _, old, _ in found}
    # neither annotations, docstrings, assertions, what errors say, nor what a function is for
    assert not any(word in old for old in olds for word in ("tuple[", "list[", "docstring", "x > 0", "import"))
    assert "x + 1" not in olds and "2 * x" not in olds
    assert ("statement", "return total[0] if x else total[1]", "pass") not in found


def test_every_draw_parses_and_changes_something() -> None:
    """Where characters take several bytes, too."""
    text = TEXT.replace("g(rest, x)", 'g("süß", rest[0], x)').replace("# ", "# é ")
    assert "rest[-1]" in {fault.new for fault in faults_of(text)}
    for fault in faults_of(text):
        ast.parse(fault.applied(text.encode()))


def test_rooms_get_their_parts() -> None:
    drawn = draw(ROOT, 1, 100)
    rooms = {room_of(fault.file) for fault in drawn}
    assert len(drawn) >= 90 and len({fault.key for fault in drawn}) == len(drawn)
    assert set(ROOMS) - rooms == {"errors", "version"}  # where there is nothing to draw
    assert {fault.kind for fault in drawn} == {"operator", "bound", "index", "arguments", "statement", "condition"}
    assert {room_of(fault.file) for fault in draw(ROOT, 1, 5, ["plan"])} == {"plan"}


def test_every_folder_has_a_room() -> None:
    folders = {path.parent.relative_to(ROOT / SOURCE) for path in (ROOT / SOURCE).rglob("*.py")} - {Path()}
    assert not {str(folder) for folder in folders if room_of(str(SOURCE / folder / "x.py")) == "package"}


def test_shares() -> None:
    assert shares({"a": 1, "b": 99}, 12) == {"a": 1, "b": 11}
    assert sum(shares({"a": 10, "b": 11, "c": 12}, 50).values()) == 50
    assert shares({"a": 1, "b": 1}, 1) == {"a": 1, "b": 1}


def test_an_edit_elsewhere_draws_the_same(tmp_path: Path) -> None:
    """Lines above, another function, a comment inside."""

    def drawn(text: str, seed: int = 1) -> dict[str, str]:
        (tmp_path / SOURCE / "plan").mkdir(parents=True, exist_ok=True)
        (tmp_path / SOURCE / "plan" / "m.py").write_text(text)
        return {fault.function: fault.key for fault in draw(tmp_path, seed, 3)}

    before = drawn(TEXT)
    assert drawn("# a line more\n" + TEXT.replace("total = [0, 0]", "# why\n    total = [0, 0]")) == before
    more = drawn(TEXT + "\n\ndef h(y: int) -> int:\n    return y + 1\n")
    assert before.items() <= more.items()
    assert any(drawn(TEXT, seed) != before for seed in range(2, 9))


# -- which tests -------------------------------------------------------------------------------------------------------


def test_every_module_has_a_room_and_tests() -> None:
    for place in {place.file for place in places(ROOT)}:
        found = stages(ROOT, place)
        tests = [test for stage in found for test in stage]
        assert tests and len(set(tests)) == len(tests) and all((ROOT / test.split("::")[0]).is_file() for test in tests)


def test_the_nearest_tests_come_first() -> None:
    assert (
        room_of("src/mapsto/plan/rules/rows.py") == "plan" and room_of("src/mapsto/devices/cpu/isa.py") == "devices/cpu"
    )
    assert room_of("src/mapsto/session/cache/key.py") == "session/cache" and room_of("src/mapsto/store.py") == "store"
    assert room_of("src/mapsto/devices/named.py") == "devices" and room_of("src/mapsto/__init__.py") == "package"
    assert stages(ROOT, "src/mapsto/plan/layout.py")[0][0] == "tests/plan/test_layout.py"
    assert stages(ROOT, "src/mapsto/session/cache/key.py")[0][0] == "tests/session/cache/test_key.py"


# -- results -----------------------------------------------------------------------------------------------------------

RESULT = Result(
    "k", "thought", "src/mapsto/plan/m.py", "f", 3, "a < b", "a <= b", "breaks it", CAUGHT, "tests/t.py::t", "", 2.0
)


def test_results_are_kept_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "below" / "results.jsonl"
    assert results.read(path) == {}
    other = replace(RESULT, key="l", how=SURVIVED, by="")
    for each in (RESULT, other, replace(RESULT, seconds=3.0)):
        results.note(path, each)
    with path.open("a") as file:
        file.write('{"key": "m", "cut sho')
    assert results.read(path) == {"k": replace(RESULT, seconds=3.0), "l": other}


def test_the_page() -> None:
    text = results.page([RESULT, replace(RESULT, key="l", how=SURVIVED, by="", kind="operator")], 1)
    assert "1 were caught, 1 survived" in text and "50.0 %" in text and "| plan | 2 | 1 | 1 | 0 |" in text
    assert "**k** (plan/m.py, f): breaks it" in text and "caught by tests/t.py::t, 2 s" in text
    assert "      - a < b\n      + a <= b" in text


def test_a_page_of_what_is_settled_tries_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a fault was tried")

    monkeypatch.setattr(seed_faults, "copied", never)
    first, second, *_ = listed.thought(ROOT)
    kept, page = tmp_path / "results.jsonl", tmp_path / "page.md"
    results.note(kept, replace(RESULT, key=second.key, kind=second.kind))
    only = [word for fault in (first, second) for word in ("--only", fault.key)]
    words = ["--count", "0", *only, "--results", str(kept), "--settled", "--page", str(page)]
    assert seed_faults.main(words) == 0
    text = page.read_text()
    assert f"**{second.key}**" in text and first.key not in text and "1 more of the list are not settled" in text


# -- which tests run what ----------------------------------------------------------------------------------------------


RUN = '''"""A module."""
from __future__ import annotations


def far(x: int) -> int:
    """Doubles."""
    return 2 * x


class Box:
    def near(self) -> int:
        def inner() -> int:
            return far(1)

        return inner()
'''
RUNNING = """
import subprocess, sys
from mapsto.one import Box, far

def test_far():
    assert far(3) == 6

def test_near():
    assert Box().near() == 2

def test_child():
    subprocess.run([sys.executable, "-c", "from mapsto.one import far; far(1)"], check=True)
"""


def test_functions_note_which_tests_run_them(tmp_path: Path) -> None:
    (tmp_path / SOURCE).mkdir(parents=True)
    (tmp_path / SOURCE / "__init__.py").write_text("")
    (tmp_path / SOURCE / "one.py").write_text(RUN)
    (tmp_path / "test_one.py").write_text(RUNNING)
    found = tmp_path / "reach.json"
    measured(tmp_path, found, ["test_one.py"], {**os.environ, "PYTHONPATH": str(tmp_path / "src")})
    reach = Reach.read(found)
    assert set(reach.of(f"{SOURCE}/one.py", "far")) == {f"test_one.py::test_{n}" for n in ("far", "near", "child")}
    assert reach.of(f"{SOURCE}/one.py", "Box.near.inner") == ["test_one.py::test_near"]
    assert reach.of(f"{SOURCE}/one.py", "Box.far") == []


def test_tests_that_run_little_else_come_first() -> None:
    reach = Reach(
        {"f:g": ["wide", "slow", "narrow"]},
        {"wide": 1.0, "slow": 30.0, "narrow": 1.0},
        {"wide": 9, "slow": 2, "narrow": 2},
    )
    assert reach.of("f", "g") == ["narrow", "wide", "slow"]
    assert reach.parted(reach.of("f", "g")) == [["narrow", "wide"], ["slow"]]
