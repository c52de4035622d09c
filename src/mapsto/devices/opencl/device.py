"""OpenCL devices: which there are, one of them open. Imports pyopencl when a device is asked for."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapsto.errors import CompileError, UnsupportedError
from mapsto.loop.opencl import Printed

_MOST_LANES = 16  # of a vector in OpenCL C
_CORRECTLY_ROUNDED = "-cl-fp32-correctly-rounded-divide-sqrt"
# Of a driver that has given up a device or its context, and of one that has no memory.
_LOST = ("DEVICE_NOT_AVAILABLE", "DEVICE_NOT_FOUND", "INVALID_CONTEXT", "INVALID_COMMAND_QUEUE", "INVALID_DEVICE")
_FULL = ("MEM_OBJECT_ALLOCATION_FAILURE", "OUT_OF_RESOURCES", "OUT_OF_HOST_MEMORY")


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
        platform = device.platform
        self.identity = tuple(
            str(part).strip()
            for part in (platform.name, platform.version, device.name, device.version, device.driver_version)
        )
        self.compute_units = int(device.max_compute_units)
        self.lanes = min(max(int(device.preferred_vector_width_float), 1), _MOST_LANES)
        self.doubles = bool(device.double_fp_config)
        self.fused = bool(device.single_fp_config & cl.device_fp_config.FMA)
        self.parameter_bytes = int(device.max_parameter_size)
        self.largest_buffer = int(device.max_mem_alloc_size)
        self.clock = int(device.max_clock_frequency) * 1e6  # cycles a second
        self.cache_bytes = int(device.global_mem_cache_size)

    @functools.cached_property
    def profiling_queue(self) -> Any:
        """A second queue, whose commands are timed."""
        return self.cl.CommandQueue(self.context, properties=self.cl.command_queue_properties.PROFILING_ENABLE)

    def refusal(self, error: Any) -> str:
        """What a driver's error means for whoever runs a program."""
        codes = self.cl.status_code
        if error.code in [getattr(codes, name) for name in _LOST]:
            return (
                f"{self.name} is lost ({error}): its driver has ended the context, and nothing that was compiled for "
                "it can run any more. Compile again; where that fails too, start a new process, and see whether "
                "`mapsto devices` still lists it"
            )
        if error.code in [getattr(codes, name) for name in _FULL]:
            return f"{self.name} has no memory left for this ({error}): run fewer models at a time, or smaller inputs"
        return f"{self.name}: {error}"

    def build(self, source: str, computes: Sequence[str] = ()) -> Any:
        """The program of a source. Raises CompileError with the compiler's log; `computes`: what for, for messages."""
        cl = self.cl
        exact = self._device.single_fp_config & cl.device_fp_config.CORRECTLY_ROUNDED_DIVIDE_SQRT
        try:
            return cl.Program(self.context, source).build(options=[_CORRECTLY_ROUNDED] if exact else [])
        except cl.RuntimeError as error:
            what = f" that computes {', '.join(computes)}" if computes else ""
            raise CompileError(f"{self.name} does not build the OpenCL code{what}: {error}") from error

    def finish(self, program: Any, kernel: Printed) -> None:
        """Has a kernel of a program compiled to the end, which drivers put off until it is started: it is started for
        nothing, and touches nothing. Raises CompileError with what the driver says where it cannot.
        """
        cl = self.cl
        flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
        try:
            zeros = cl.Buffer(self.context, flags, hostbuf=np.zeros(kernel.numbers + 1, np.int64))
            started = cl.Kernel(program, kernel.name)
            started.set_args(*[zeros] * (kernel.tensors + 1), np.int64(0), np.int64(0), np.int64(1))
            cl.enqueue_nd_range_kernel(self.queue, started, (1,), (1,))
            self.queue.finish()
        except cl.Error as error:
            raise CompileError(f"{self.refusal(error)} (kernel {kernel.name})") from error
