"""The device that the tests of this folder share; where there is none they are skipped, with the reason."""

from __future__ import annotations

import importlib.util

import pytest

from mapsto.devices.opencl.device import Device, list_devices, open_device


@pytest.fixture(scope="session")
def device() -> Device:
    if importlib.util.find_spec("pyopencl") is None:
        pytest.skip("pyopencl is not installed")
    if not list_devices():
        pytest.skip("no OpenCL platform is installed (CI installs pocl-opencl-icd)")
    return open_device()
