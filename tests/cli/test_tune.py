"""`mapsto tune`: what it prints, and what it leaves behind. Times themselves are never judged."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.session.test_tune import Preferring

from mapsto.cli.entry import main
from mapsto.session import tune as tuning
from mapsto.session.pairs import TimedPair
from mapsto.session.tuner import TriedProgram

MODEL = Path(__file__).parents[2] / "examples" / "mnist-cnn.onnx"
Call = Callable[..., tuple[int | str | None, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.delenv("MAPSTO_MACHINE", raising=False)
    monkeypatch.setenv("MAPSTO_CACHE", str(tmp_path / "cache"))

    def run(*more: str) -> tuple[int | str | None, str, str]:
        given = ["tune", str(MODEL), "--shape", "image=2,1,28,28", "--threads", "1", *more]
        monkeypatch.setattr(sys, "argv", ["mapsto", *given])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def other_order(monkeypatch: pytest.MonkeyPatch) -> Preferring:
    """A timer that prefers row blocks outside."""
    timer = Preferring(lambda text: "row blocks outside" in text)
    monkeypatch.setattr(tuning, "AlternatingTimer", timer)
    return timer


def test_it_says_what_is_faster_and_where_it_is_kept(call: Call, other_order: Preferring, tmp_path: Path) -> None:
    code, out, err = call()
    (path,) = tmp_path.glob("cache/machines/*.tuned.json")
    assert code == 0 and not err and f"kept in {path}" in out and "0.5 of the time" in out
    assert "before: tiles" in out and "after:  tiles" in out and "row blocks outside" in out
    assert "median of the ratios 0.900" in out


def test_json(call: Call, other_order: Preferring) -> None:
    code, out, _ = call("--json", "--budget", "50s")
    found = json.loads(out)
    assert code == 0 and found["file"].endswith(".tuned.json") and found["share"] == 0.9 and found["threads"] == 1
    assert {"key", "works", "before", "after", "share"} == set(found["forms"][0])


def test_nothing_is_kept_where_nothing_is_faster(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tuning, "AlternatingTimer", Preferring(lambda text: False))
    code, out, _ = call()
    assert code == 0 and "nothing was kept: no other schedule was faster" in out
    assert not list(tmp_path.glob("cache/machines/*"))


def test_an_interrupt_says_that_nothing_was_kept(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Interrupted(Preferring):
        def whole(self, old: TriedProgram, new: TriedProgram, seconds: float) -> Sequence[TimedPair]:
            raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "AlternatingTimer", Interrupted(lambda text: "row blocks outside" in text))
    code, _, err = call()
    assert code == 130 and "interrupted: nothing was kept" in err and not list(tmp_path.glob("cache/machines/*"))


@pytest.mark.parametrize("budget", ["60 parsecs", "0s", "nodes=5"])
def test_a_budget_is_a_time(call: Call, budget: str) -> None:
    code, _, err = call("--budget", budget)
    assert code == 2 and "budget" in err
