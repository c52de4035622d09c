"""`mapsto cache info|clear|prune`, and commands that take what was compiled before."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from tests.session.cache.support import on, written

from mapsto.cli.cache import clear, info, prune
from mapsto.cli.open import Opening, open_model
from mapsto.cli.options import TargetOptions
from mapsto.cli.usage import UsageError
from mapsto.devices.cache import objects
from mapsto.session.cache.executables import FOUND, executables, references

KEYS = [f"{n:064x}" for n in range(10)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return on(monkeypatch, tmp_path / "cache")


@pytest.fixture
def filled(cache: Path) -> Path:
    """Three entries of each kind, of 1,032 bytes each: used a day, an hour and a minute ago."""
    for store in (executables(cache), references(cache), objects(cache)):
        for key, ago in zip(KEYS, (86_400, 3_000, 60), strict=False):
            assert store.put(key, bytes(1000))
            path = store.find(key)
            assert path is not None
            os.utime(path, (time.time() - ago,) * 2)
    return cache


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_info(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info(True)
    found = told(capsys)
    assert found["folder"] == str(filled) and found["faults"] == []
    for about in found["kinds"].values():  # type: ignore[attr-defined]
        assert (about["entries"], about["bytes"]) == (3, 3 * 1032) and about["bound"] > 1 << 20
        assert about["used_last"] - about["used_first"] > 80_000
    info(False)
    text = capsys.readouterr().out
    assert str(filled) in text and "executables" in text and "1 d ago" in text and "1 m ago" in text


def test_info_says_why_a_folder_is_not_used(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (filled / "executables").chmod(0o770)
    info(False)
    assert "not used: " in (text := capsys.readouterr().out) and "may be written by others" in text
    clear(False)
    assert "left alone: " in capsys.readouterr().out
    (filled / "executables").chmod(0o700)
    assert len(executables(filled).entries()) == 3 and not objects(filled).entries()


def test_info_of_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    info(False)
    assert "0 B" in capsys.readouterr().out
    monkeypatch.setenv("MAPSTO_CACHE", "off")
    info(False)
    assert "off" in capsys.readouterr().out
    info(True)
    assert told(capsys)["folder"] is None
    clear(True)
    assert told(capsys)["removed"] == {"entries": 0, "bytes": 0}


def test_clear(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (filled / "machines").mkdir()
    (filled / "machines" / "a.json").write_text("{}")
    left = filled / "executables" / ".mapsto-unfinished-0123456789abcdef"
    left.write_bytes(b"cut")
    clear(True)
    assert told(capsys) == {
        "removed": {"entries": 9, "bytes": 9 * 1032},
        "left": {"entries": 0, "bytes": 0},
        "faults": [],
    }
    assert not left.exists() and (filled / "machines" / "a.json").exists()


@pytest.mark.parametrize(
    "size, age, left", [("3K", None, 2), (None, "30m", 3), (None, "2h", 6), ("6.1K", "2h", 6), ("1G", "30d", 9)]
)
def test_prune(size: str | None, age: str | None, left: int, filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prune(size, age, True)
    assert told(capsys)["left"] == {"entries": left, "bytes": left * 1032}
    kept = {e.path.stem[-1] for s in (executables(filled), references(filled)) for e in s.entries()}
    assert "0" not in kept or left == 9  # the one used longest ago goes first


def test_prune_alone_sees_to_the_bounds(
    filled: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prune(None, None, True)
    assert told(capsys)["removed"] == {"entries": 0, "bytes": 0}
    monkeypatch.setattr("mapsto.session.cache.executables.BOUND", 2100)
    prune(None, None, False)
    assert "removed 1 entries" in capsys.readouterr().out and len(executables(filled).entries()) == 2


@pytest.mark.parametrize(
    "size, age", [("much", None), ("-1", None), ("5X", None), (None, "7y"), (None, ""), ("1e9", None)]
)
def test_sizes_and_times_that_are_none(size: str | None, age: str | None, filled: Path) -> None:
    with pytest.raises(UsageError, match="--max-size|--older-than"):
        prune(size, age, False)
    assert len(executables(filled).entries()) == 3


def test_commands_take_what_was_compiled_before(tmp_path: Path) -> None:
    model = written(tmp_path / "m.onnx", 2)
    usual, without = (Opening(target=TargetOptions(threads=1, cache=cache)) for cache in (True, False))
    assert [open_model(model, usual).how for _ in range(2)] == ["compiled", FOUND]
    assert open_model(model, without).how == "compiled"
