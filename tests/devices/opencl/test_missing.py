"""Without pyopencl: the error says what to install."""

from __future__ import annotations

import sys

import pytest

from mapsto.devices.opencl.device import list_devices
from mapsto.errors import UnsupportedError


def test_missing_pyopencl_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'mapsto\[opencl\]'"):
        list_devices()
