"""A plugin of pytest for runs that are to find out whether a test fails, not why: `-p faults.quickly`.

What fails is not shrunk. In the folder that FAULTS_RUN names, `now` holds the test that is running, so that a run that
crashes or hangs can be laid to one, and `failed` the first that failed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import Phase, settings

VARIABLE = "FAULTS_RUN"
WANTED, WITHOUT = "wanted", "without"  # files in that folder that list what is to be run, and what of a file is not


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    own = settings.get_profile("mapsto")  # of tests/conftest.py
    settings.register_profile("quickly", own, phases=[Phase.explicit, Phase.generate])
    settings.load_profile("quickly")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Single tests that are wanted (of one with parameters all, where it is named without), and those of a wanted file
    but for some, in the order in which they are listed.
    """
    listed = _lines(WANTED)
    places, without = {each: at for at, each in enumerate(listed)}, set(_lines(WITHOUT))
    kept: dict[int, list[pytest.Item]] = {}
    for item in items:
        file, every = item.nodeid.partition("::")[0], item.nodeid.partition("[")[0]
        if item.nodeid in places or every in places or (file in places and item.nodeid not in without):
            place = min(places.get(name, len(listed)) for name in (item.nodeid, every, file))
            kept.setdefault(place, []).append(item)
    items[:] = [item for place in sorted(kept) for item in kept[place]]


def _lines(name: str) -> list[str]:
    return Path(os.environ[VARIABLE], name).read_text().splitlines()


def pytest_runtest_logstart(nodeid: str) -> None:
    Path(os.environ[VARIABLE], "now").write_text(nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _note(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _note(report.nodeid)


def _note(nodeid: str) -> None:
    failed = Path(os.environ[VARIABLE], "failed")
    if not failed.exists():
        failed.write_text(nodeid)
