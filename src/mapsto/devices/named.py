"""Devices by the names that users call them: the one list of them. A device's folder is imported when it is opened."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mapsto.arguments import brief, text_of
from mapsto.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from mapsto.devices.backend import Backend, TunableBackend
    from mapsto.devices.cpu.ceilings import Ceilings
    from mapsto.devices.cpu.host import Host as Host
    from mapsto.machine.machine_file import DescribedDevice
    from mapsto.plan.asked import Asked
    from mapsto.runtime.executable import Executable
    from mapsto.runtime.program import Program

TUNABLE = "cpu"  # the device whose kernels can be tuned
_OPENCL = re.compile(r"opencl(?::([0-9]{1,4}))?")


def backend_named(device: Any, cache: bool, isa: str | None) -> Backend:
    """The named device, open for compiling. Raises ArgumentError for a device that there is not; whatever opening it
    raises.
    """
    if text_of(device, "device") == "cpu":
        from mapsto.devices.cpu.workers import Workers

        return Workers(cache, isa)
    found = _OPENCL.fullmatch(device)
    if found is None:
        raise ArgumentError(f"device: there is no {brief(device)}; there are: cpu, opencl, opencl:NUMBER")
    if isa is not None:
        raise ArgumentError(f"isa: instruction sets are the CPU's; leave it out for {device}")
    from mapsto.devices.opencl.backend import OpenClBackend  # pyopencl is not needed for others

    return OpenClBackend(int(found[1] or 0), cache)


def tunable_backend(cache: bool) -> TunableBackend:
    """The device whose kernels can be tuned on this machine, open for compiling."""
    from mapsto.devices.cpu.workers import Workers

    return Workers(cache)


def host_ceilings(threads: int) -> Ceilings:
    """What this processor does at most, measured again and again; see `devices.cpu.ceilings`."""
    from mapsto.devices.cpu.ceilings import Ceilings

    return Ceilings(threads)


def loaded(device: str, program: Program, code: bytes, plan: str, threads: int) -> Executable:
    """The executable of a device other than the host, from what a file has of it (`Engine.code`). Raises ModelError for
    what is none, ArgumentError for a device that there is not; whatever opening it raises.
    """
    found = _OPENCL.fullmatch(device)
    if found is None:
        raise ArgumentError(f"device: there is no {brief(device)}; there are: cpu, opencl, opencl:NUMBER")
    from mapsto.devices.opencl.saved import engine_of
    from mapsto.runtime.executable import Executable

    return Executable(program, [], threads, plan=plan, engine=engine_of(int(found[1] or 0), device, code))


def deciding(device: Any) -> tuple[str, ...] | None:
    """All of the machine that decides what is made for a device, without opening it; None for one whose executables
    cannot be saved.
    """
    if device != "cpu":
        return None
    from mapsto.devices.cpu.deciding import deciding

    return deciding()


def described(device: DescribedDevice, constants: Mapping[str, np.ndarray]) -> Asked:
    """What a device that is only described says of the works of a graph with these constants."""
    from mapsto.devices.described.maker import DescribedMaker

    return DescribedMaker(device.spec, constants, support=device.support, tile=device.tile)


def host_machine() -> Host:
    """The machine that we run on; see `devices.cpu.host`."""
    from mapsto.devices.cpu.host import host_machine

    return host_machine()


def measure_host() -> Host:
    """The same, measured. Raises FileError where the figures cannot be kept."""
    from mapsto.devices.cpu.host import measure_host

    return measure_host()
