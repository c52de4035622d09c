"""The OpenCL device that tests share. Where there is none they are skipped, with the reason, or fail if
MAPSTO_REQUIRE_OPENCL is set.
"""

from __future__ import annotations

import functools
import importlib.util
import os

import pytest

from mapsto.devices.opencl.backend import OpenClBackend
from mapsto.devices.opencl.device import Device, list_devices, open_device


def _lacking() -> str:
    if importlib.util.find_spec("pyopencl") is None:
        return "pyopencl is not installed: pip install 'mapsto[opencl]'"
    return "" if list_devices() else "no OpenCL driver is installed: apt-get install pocl-opencl-icd"


def required() -> None:
    """Ends the test where there is no device."""
    reason = _lacking()
    if reason:
        pytest.fail(reason) if os.environ.get("MAPSTO_REQUIRE_OPENCL") else pytest.skip(reason)


@functools.cache
def device() -> Device:
    required()
    return open_device()


@functools.cache
def backend() -> OpenClBackend:
    """One for all tests of a process: equal kernels are printed once."""
    required()
    return OpenClBackend()
