"""One OpenCL device: builds functions, copies buffers, runs kernels. Imports pyopencl when a device is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.errors import CompileError, ExecutionError, UnsupportedError
from mapsto.loop.ast import Function
from mapsto.loop.opencl import kernel_name, to_opencl

Array = NDArray[Any]
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
    if index >= len(found):
        raise UnsupportedError(
            f"there is no OpenCL device {index}: {len(found)} found. A driver must be installed "
            "(for CPUs on Debian or Ubuntu: apt-get install pocl-opencl-icd)"
        )
    return Device(cl, found[index])


class Device:
    """An open device with a queue."""

    def __init__(self, cl: Any, device: Any) -> None:
        self._cl = cl
        self._device = device
        self._context = cl.Context([device])
        self.queue = cl.CommandQueue(self._context)

    @property
    def name(self) -> str:
        return str(self._device.name).strip()

    @property
    def compute_units(self) -> int:
        return int(self._device.max_compute_units)

    def build(self, functions: Sequence[Function]) -> dict[str, Kernel]:
        """One program of several functions, ready to run. Raises CompileError with the compiler's log."""
        cl = self._cl
        source = to_opencl(functions)
        exact = self._device.single_fp_config & cl.device_fp_config.CORRECTLY_ROUNDED_DIVIDE_SQRT
        try:
            program = cl.Program(self._context, source).build(options=[_CORRECTLY_ROUNDED] if exact else [])
        except cl.RuntimeError as error:
            names = ", ".join(f.name for f in functions)
            raise CompileError(f"{self.name} does not build the OpenCL code of {names}: {error}") from error
        return {f.name: Kernel(self, cl, f, cl.Kernel(program, kernel_name(f))) for f in functions}

    def context(self) -> Any:
        return self._context


class Kernel:
    """A built function: called like `loop.interpret.interpret`, on numpy buffers."""

    def __init__(self, device: Device, cl: Any, function: Function, kernel: Any) -> None:
        self.function = function
        self._device = device
        self._cl = cl
        self._kernel = kernel

    def __call__(
        self,
        buffers: Sequence[Array],
        dims: Mapping[str, int] | Sequence[int],
        begin: int,
        end: int,
        chunk: int | None = None,
    ) -> None:
        """Run over [begin, end), `chunk` steps of the outermost range to a work-item (default: one share a compute
        unit). Every buffer is copied to the device, what the function writes is copied back."""
        function, cl = self.function, self._cl
        if len(buffers) != len(function.params):
            raise ExecutionError(f"{function.name} takes {len(function.params)} buffers, {len(buffers)} given")
        if end <= begin:
            return
        values = [dims[d] for d in function.dims] if isinstance(dims, Mapping) else list(dims)
        chunk = chunk or -(-(end - begin) // self._device.compute_units)
        held = [self._to_device(buffer) for buffer in buffers]
        numbers = [np.int64(n) for n in (*values, begin, end, chunk)]
        queue = self._device.queue
        self._kernel(queue, (-(-(end - begin) // chunk),), None, *held, *numbers)
        for param, buffer, memory in zip(function.params, buffers, held, strict=True):
            if param.writes and buffer.size:
                cl.enqueue_copy(queue, buffer.view(np.uint8), memory)
        queue.finish()

    def _to_device(self, buffer: Array) -> Any:
        flags = self._cl.mem_flags
        if not buffer.size:  # OpenCL has no empty buffers
            return self._cl.Buffer(self._device.context(), flags.READ_WRITE, 8)
        bits = np.ascontiguousarray(buffer).view(np.uint8)
        return self._cl.Buffer(self._device.context(), flags.READ_WRITE | flags.COPY_HOST_PTR, hostbuf=bits)
