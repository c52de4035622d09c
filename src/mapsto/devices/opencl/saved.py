"""The engine of a program that a file holds: the driver compiles its kernels anew, or finds what it kept of them."""

from __future__ import annotations

from mapsto.devices.cache import ObjectCache
from mapsto.devices.opencl.code import read_code
from mapsto.devices.opencl.device import open_device
from mapsto.devices.opencl.engine import OpenClEngine
from mapsto.devices.opencl.programs import Programs
from mapsto.errors import UnsupportedError
from mapsto.store import default_folder


def engine_of(number: int, name: str, code: bytes) -> OpenClEngine:
    """The engine of a device (its number in `list_devices`) from `OpenClEngine.code`. Raises ModelError for what is
    none, UnsupportedError where the device is not there or lacks what the kernels need, CompileError.
    """
    functions, printed = read_code(code)
    device = open_device(number)
    if not device.doubles and any(kernel.doubles for kernel in printed.values()):
        raise UnsupportedError(f"it needs 64-bit floats, which {device.name} does not have")
    built = Programs(device, ObjectCache(default_folder())).built(printed, (), lambda done, label: None)
    return OpenClEngine(name, device, functions, built, printed)
