"""A program's functions on an OpenCL device: a `runtime.engine.Engine`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from mapsto.devices.opencl.device import Device
from mapsto.errors import ExecutionError
from mapsto.loop.ast import Function
from mapsto.loop.opencl import kernel_name
from mapsto.runtime.engine import Launch, Memory

T = TypeVar("T")


class OpenClEngine:
    """`functions`: by their names; `built`: the program that has their kernels. One queue, in order."""

    def __init__(self, name: str, device: Device, functions: Mapping[str, Function], built: Any) -> None:
        self.name = name
        self._device = device
        self._functions = functions
        self._built = built
        self._process = os.getpid()

    def reserve(self, count: int) -> Memory:
        device = self._device
        if count > device.largest_buffer:
            raise ExecutionError(
                f"this run needs {count:,} bytes of memory in one piece, {device.name} gives {device.largest_buffer:,}"
            )
        flags = device.cl.mem_flags.READ_WRITE
        return self._told(lambda: device.cl.Buffer(device.context, flags, max(count, 1)))  # none is empty in OpenCL

    def write(self, memory: Memory, offset: int, data: np.ndarray) -> None:
        if data.nbytes:
            self._copy(memory, _bytes(data), dst_offset=offset)

    def read(self, memory: Memory, offset: int, into: np.ndarray) -> None:
        if into.nbytes:
            self._copy(_bytes(into), memory, src_offset=offset)

    def launcher(self, function: str) -> Launch:
        """Each has a kernel object of its own: arguments are set on it before it is started. What its numbers are told
        in stays until they change.
        """
        device, made = self._device, self._functions[function]
        kernel = self._told(lambda: device.cl.Kernel(self._built, kernel_name(made)))
        sizes = [param.element.size for param in made.params]
        held = self.reserve(8 * (len(made.params) + len(made.dims)))
        known: list[int] = []

        def launch(operands: Sequence[tuple[Memory, int]], dims: Sequence[int], extent: int) -> None:
            memories = [memory for memory, _ in operands]
            starts = [offset // size for (_, offset), size in zip(operands, sizes, strict=True)]
            numbers = [*starts, *dims]
            if numbers != known:
                self.write(held, 0, np.array(numbers, np.int64))
                known[:] = numbers
            chunk = -(-extent // device.compute_units)
            shares = [np.int64(n) for n in (0, extent, chunk)]
            self._told(lambda: kernel(device.queue, (-(-extent // chunk),), (1,), *memories, held, *shares))

        return launch

    def wait(self) -> None:
        self._told(self._device.queue.finish)

    def _copy(self, target: Any, source: Any, **offset: int) -> None:
        """Waits until it is done."""
        self._told(lambda: self._device.cl.enqueue_copy(self._device.queue, target, source, is_blocking=True, **offset))

    def _told(self, act: Callable[[], T]) -> T:
        """What the driver is told. Raises ExecutionError with what it says where it refuses."""
        if os.getpid() != self._process:
            raise ExecutionError(f"{self._device.name} belongs to the process that opened it; compile again in a fork")
        try:
            return act()
        except self._device.cl.Error as error:
            raise ExecutionError(f"{self._device.name}: {error}") from error


def _bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)
