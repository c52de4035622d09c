"""Loop functions as kernels of an OpenCL device, called like `loop.interpret.interpret`, on numpy buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapsto.devices.opencl.device import Device
from mapsto.loop.ast import Function
from mapsto.loop.opencl import kernel_name, to_opencl

# Elements before each buffer's first one: a kernel must start where it is told.
START = 3


class Kernel:
    """A built function."""

    def __init__(self, device: Device, program: Any, function: Function) -> None:
        self.function = function
        self._device = device
        self._kernel = device.cl.Kernel(program, kernel_name(function))

    def __call__(
        self,
        buffers: Sequence[np.ndarray],
        dims: Mapping[str, int] | Sequence[int],
        begin: int,
        end: int,
        chunk: int | None = None,
    ) -> None:
        """Runs over [begin, end), `chunk` steps of it a work-item (default: one share a compute unit)."""
        if end <= begin:
            return
        cl, device = self._device.cl, self._device
        values = [dims[d] for d in self.function.dims] if isinstance(dims, Mapping) else list(dims)
        chunk = chunk or -(-(end - begin) // device.compute_units)
        padded = [np.concatenate([np.zeros(START, b.dtype), b.reshape(-1)]).view(np.uint8) for b in buffers]
        flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
        held = [cl.Buffer(device.context, flags, hostbuf=bits) for bits in padded]
        numbers = cl.Buffer(device.context, flags, hostbuf=np.array([*(START for _ in buffers), *values], np.int64))
        shares = [np.int64(n) for n in (begin, end, chunk)]
        self._kernel(device.queue, (-(-(end - begin) // chunk),), (1,), *held, numbers, *shares)
        for param, buffer, bits, memory in zip(self.function.params, buffers, padded, held, strict=True):
            if param.writes:
                cl.enqueue_copy(device.queue, bits, memory)
                buffer.reshape(-1)[:] = bits.view(buffer.dtype)[START:]


def built(device: Device, functions: Sequence[Function]) -> dict[str, Kernel]:
    """One program of several functions."""
    program = device.build(to_opencl(functions))
    return {function.name: Kernel(device, program, function) for function in functions}
