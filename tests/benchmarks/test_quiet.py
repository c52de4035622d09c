"""Samples by turns: which are quiet, when there are enough, and what counts where there never are."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence

import pytest
from benchmarks.quiet import Samples, by_turns

from benchmarks import quiet


def paces(monkeypatch: pytest.MonkeyPatch, found: Iterator[float]) -> None:
    """What the loop says each time that it is asked, before a sample and after it."""

    def pace(cores: Sequence[int]) -> float:
        assert cores == [0, 1]
        return next(found)

    monkeypatch.setattr(quiet, "_pace", pace)


def samples(*found: float) -> Callable[[], float]:
    return iter(found).__next__


def test_only_quiet_samples_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two ways by turns, each second sample of the first one is disturbed before it, of the other one after it."""
    disturbed = [0.5, 1.0, 1.0, 0.5]
    paces(monkeypatch, itertools.cycle([1.0, 1.0, 1.0, 0.95, *disturbed]))
    found = by_turns(
        {"a": samples(99, *[1, 7] * 9), "b": samples(99, *[2, 8] * 9)}, [0, 1], seconds=60.0, wanted=3
    )
    assert found == {"a": Samples(1, True, 3, 5), "b": Samples(2, True, 3, 5)}


def test_all_count_where_too_few_are_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    paces(monkeypatch, itertools.cycle([1.0, 1.0, *[0.5] * 6]))
    found = by_turns({"a": samples(99, 1, 3, 5, 7)}, [0, 1], seconds=0.0, wanted=4)
    assert found == {"a": Samples(4, False, 1, 4)}


def test_one_quick_moment_makes_nothing_else_look_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pace that a single count of the clock made up is no pace of the core."""
    paces(monkeypatch, itertools.chain([1.0] * 6, [9.0, 1.0], itertools.repeat(1.0)))
    found = by_turns({"a": samples(99, *range(1, 30))}, [0, 1], seconds=0.0, wanted=7)
    assert found["a"].judged and found["a"].quiet == 7


def test_the_pace_is_that_of_the_slowest_core() -> None:
    before = os.sched_getaffinity(0)
    assert quiet._pace(sorted(before)[:2]) > 0
    assert os.sched_getaffinity(0) == before
