"""Without pyopencl, or without a driver: the error says what to install; tests are skipped, in CI they fail."""

from __future__ import annotations

import sys

import pytest
from tests import opencl
from tests.plan.graphs import small_cnn

import mapsto
from mapsto.devices.opencl import device as devices
from mapsto.errors import UnsupportedError


class NoPlatforms:
    """pyopencl where no driver is installed."""

    class LogicError(Exception):
        pass

    @classmethod
    def get_platforms(cls) -> list[object]:
        raise cls.LogicError("PLATFORM_NOT_FOUND_KHR")


def test_missing_pyopencl_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'mapsto\[opencl\]'"):
        devices.list_devices()
    with pytest.raises(UnsupportedError, match=r"pip install 'mapsto\[opencl\]'"):
        mapsto.compile(small_cnn(), device="opencl")


def test_a_missing_driver_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyopencl", NoPlatforms)
    with pytest.raises(UnsupportedError, match="no OpenCL device 0: 0 found .* apt-get install pocl-opencl-icd"):
        mapsto.compile(small_cnn(), device="opencl")


@pytest.mark.parametrize(("variable", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_what_tests_do_then(monkeypatch: pytest.MonkeyPatch, variable: str, outcome: type[BaseException]) -> None:
    monkeypatch.setattr(opencl, "list_devices", list)
    monkeypatch.setenv("MAPSTO_REQUIRE_OPENCL", variable)
    with pytest.raises(outcome, match="OpenCL|pyopencl"):
        opencl.required()
