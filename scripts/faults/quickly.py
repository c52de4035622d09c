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
WANTED = "wanted"  # the file in that folder that lists what is to be run


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    own = settings.get_profile("mapsto")  # of tests/conftest.py
    settings.register_profile("quickly", own, phases=[Phase.explicit, Phase.generate])
    settings.load_profile("quickly")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a file of which single tests are wanted, only these."""
    wanted = set(Path(os.environ[VARIABLE], WANTED).read_text().splitlines())
    items[:] = [item for item in items if item.nodeid in wanted or item.nodeid.partition("::")[0] in wanted]


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
