"""MAPSTO_DEBUG: each level shows what the one below it shows, and one stage more."""

from __future__ import annotations

from pathlib import Path

import pytest

import mapsto
from mapsto import debug

MNIST = Path(__file__).parent.parent / "examples" / "mnist-cnn.onnx"
MARKS = {
    debug.GRAPHS: "==== after pass identities\ngraph ",
    debug.PLAN: "==== plan\nplan ",
    debug.KERNELS: "==== kernel of ",
    debug.LLVM: "define void @",
}


@pytest.mark.parametrize(("text", "level"), [("", 0), ("0", 0), ("3", 3), ("yes", 1)])
def test_levels(monkeypatch: pytest.MonkeyPatch, text: str, level: int) -> None:
    monkeypatch.setenv("MAPSTO_DEBUG", text)
    assert debug.level() == level


@pytest.mark.parametrize("level", range(6))
def test_what_each_level_shows(
    level: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAPSTO_DEBUG", str(level))
    mapsto.compile(MNIST)
    shown = capsys.readouterr().err
    assert {least: mark in shown for least, mark in MARKS.items()} == {least: level >= least for least in MARKS}
    assert bool(shown) == (level >= debug.GRAPHS)
