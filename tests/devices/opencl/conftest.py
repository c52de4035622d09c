"""The device that the tests of this folder share."""

from __future__ import annotations

import pytest
from tests import opencl

from mapsto.devices.opencl.backend import OpenClBackend
from mapsto.devices.opencl.device import Device


@pytest.fixture(scope="session")
def device() -> Device:
    return opencl.device()


@pytest.fixture(scope="session")
def backend() -> OpenClBackend:
    return opencl.backend()
