"""OpenCL devices: which there are, one of them open. Imports pyopencl when a device is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mapsto.errors import CompileError, UnsupportedError

_MOST_LANES = 16  # of a vector in OpenCL C
_CORRECTLY_ROUNDED = "-cl-fp32-correctly-rounded-divide-sqrt"


@dataclass(frozen=True)
class DeviceInfo:
    """What OpenCL says of a device."""

    name: str
    platform: str
    version: str
    compute_units: int
    doubles: bool


def _pyopencl() -> Any:
    try:
        return importlib.import_module("pyopencl")
    except ImportError as error:
        raise UnsupportedError(
            "OpenCL needs the package pyopencl, which is not installed: pip install 'mapsto[opencl]'"
        ) from error


def _found(cl: Any) -> list[Any]:
    try:
        return [device for platform in cl.get_platforms() for device in platform.get_devices()]
    except cl.LogicError:  # the loader says so where no platform is installed
        return []


def list_devices() -> list[DeviceInfo]:
    """Every OpenCL device of this machine, in the order of `open_device`. Raises UnsupportedError without pyopencl."""
    return [
        DeviceInfo(
            d.name.strip(), d.platform.name.strip(), d.version.strip(), d.max_compute_units, bool(d.double_fp_config)
        )
        for d in _found(_pyopencl())
    ]


def open_device(index: int = 0) -> Device:
    """The device of that number in `list_devices`. Raises UnsupportedError where there is none."""
    cl = _pyopencl()
    found = _found(cl)
    if not 0 <= index < len(found):
        raise UnsupportedError(
            f"there is no OpenCL device {index}: {len(found)} found (`mapsto devices` lists them). A driver must be "
            "installed (for CPUs on Debian or Ubuntu: apt-get install pocl-opencl-icd)"
        )
    return Device(cl, found[index])


class Device:
    """An open device with a queue, in which all is done in order."""

    def __init__(self, cl: Any, device: Any) -> None:
        self.cl = cl
        self._device = device
        self.context = cl.Context([device])
        self.queue = cl.CommandQueue(self.context)
        self.name = str(device.name).strip()
        self.compute_units = int(device.max_compute_units)
        self.lanes = min(max(int(device.preferred_vector_width_float), 1), _MOST_LANES)
        self.doubles = bool(device.double_fp_config)
        self.fused = bool(device.single_fp_config & cl.device_fp_config.FMA)
        self.parameter_bytes = int(device.max_parameter_size)
        self.largest_buffer = int(device.max_mem_alloc_size)
        self.clock = int(device.max_clock_frequency) * 1e6  # cycles a second
        self.cache_bytes = int(device.global_mem_cache_size)

    def build(self, source: str, computes: Sequence[str] = ()) -> Any:
        """The program of a source. Raises CompileError with the compiler's log; `computes`: what for, for messages."""
        cl = self.cl
        exact = self._device.single_fp_config & cl.device_fp_config.CORRECTLY_ROUNDED_DIVIDE_SQRT
        try:
            return cl.Program(self.context, source).build(options=[_CORRECTLY_ROUNDED] if exact else [])
        except cl.RuntimeError as error:
            what = f" that computes {', '.join(computes)}" if computes else ""
            raise CompileError(f"{self.name} does not build the OpenCL code{what}: {error}") from error
