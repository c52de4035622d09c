"""Devices by the names that users call them: the one list of them."""

from __future__ import annotations

import re
from typing import Any

from mapsto.arguments import brief, text_of
from mapsto.devices.backend import Backend
from mapsto.devices.cpu.host import Host, host_machine, measure_host
from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ArgumentError

__all__ = ["Host", "backend_named", "host_machine", "measure_host"]

_OPENCL = re.compile(r"opencl(?::([0-9]{1,4}))?")


def backend_named(device: Any, cache: bool, isa: str | None) -> Backend:
    """The named device, open for compiling. Raises ArgumentError for a device that there is not; whatever opening it
    raises.
    """
    if text_of(device, "device") == "cpu":
        return Workers(cache, isa)
    found = _OPENCL.fullmatch(device)
    if found is None:
        raise ArgumentError(f"device: there is no {brief(device)}; there are: cpu, opencl, opencl:NUMBER")
    if isa is not None:
        raise ArgumentError(f"isa: instruction sets are the CPU's; leave it out for {device}")
    from mapsto.devices.opencl.backend import OpenClBackend  # pyopencl is not needed for others

    return OpenClBackend(int(found[1] or 0), cache)
