"""A program's functions on an OpenCL device: a `runtime.engine.Engine`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from mapsto.devices.opencl.code import code_of
from mapsto.devices.opencl.device import Device
from mapsto.errors import ExecutionError
from mapsto.loop.ast import Function
from mapsto.loop.opencl import Printed, kernel_name
from mapsto.runtime.engine import Memory

T = TypeVar("T")


class OpenClEngine:
    """`functions`: by their names; `built`: the program that has the kernel of each. One queue, in order: commands are
    only handed to it, and it is waited for where something is read.
    """

    def __init__(
        self, name: str, device: Device, functions: Mapping[str, Function], built: Mapping[str, Any],
        printed: Mapping[str, Printed] | None = None,
    ) -> None:  # fmt: skip
        """printed: the text of each kernel, for a file; None: it is not kept."""
        self.name = name
        self._printed = printed
        self.device = device
        self._functions = functions
        self._built = built
        self._process = os.getpid()

    def reserve(self, count: int) -> Memory:
        device = self.device
        if count > device.largest_buffer:
            raise ExecutionError(
                f"this run needs {count:,} bytes of memory in one piece, {device.name} gives {device.largest_buffer:,}"
            )
        flags = device.cl.mem_flags.READ_WRITE
        return self.told(lambda: device.cl.Buffer(device.context, flags, max(count, 1)))  # none is empty in OpenCL

    def write(self, memory: Memory, offset: int, data: np.ndarray) -> Any:
        """See `Engine`: pyopencl's event waits when it is let go."""
        return self._copy(memory, _bytes(data), False, dst_offset=offset) if data.nbytes else None

    def read(self, *wanted: tuple[Memory, int, np.ndarray]) -> None:
        """See `Engine`. The last copy is waited for; those before it are done by then."""
        copies = [(memory, offset, _bytes(into)) for memory, offset, into in wanted if into.nbytes]
        events = []
        for at, (memory, offset, into) in enumerate(copies, 1):
            events.append(self._copy(into, memory, at == len(copies), src_offset=offset))
        if not copies:
            self.told(self.device.queue.finish)

    def code(self) -> bytes | None:
        """See `Engine`: `devices.opencl.saved` reads it."""
        return None if self._printed is None else code_of(self._functions, self._printed)

    def launcher(self, function: str) -> OpenClLauncher:
        return OpenClLauncher(self, self._functions[function], self._built[function])

    def told(self, act: Callable[[], T]) -> T:
        """What the driver is told. Raises ExecutionError with what it says where it refuses."""
        if os.getpid() != self._process:
            raise ExecutionError(f"{self.device.name} belongs to the process that opened it; compile again in a fork")
        try:
            return act()
        except self.device.cl.Error as error:
            raise ExecutionError(self.device.refusal(error)) from error

    def _copy(self, target: Any, source: Any, wait: bool, **offset: int) -> Any:
        """Its event, which holds the array."""
        copy = self.device.cl.enqueue_copy
        return self.told(lambda: copy(self.device.queue, target, source, is_blocking=wait, **offset))


class OpenClLauncher:
    """A `runtime.engine.Launcher`: a kernel object of its own, whose arguments stay set until they change. Giving it
    all of them at each start takes twenty times as long as starting it.
    """

    def __init__(self, engine: OpenClEngine, function: Function, built: Any) -> None:
        self._engine = engine
        self._device = device = engine.device
        self._kernel = engine.told(lambda: device.cl.Kernel(built, kernel_name(function)))
        self._sizes = [param.element.size for param in function.params]
        self._numbers = engine.reserve(8 * (len(function.params) + len(function.dims)))  # what is told in memory
        self._told: list[int] = []
        self._arguments: list[Any] = []
        self._start: Callable[[Any], Any] | None = None

    def set(self, operands: Sequence[tuple[Memory, int]], dims: Sequence[int], extent: int, grain: int) -> None:
        """See `Launcher`. Work-items have shares of the extent; there are as many as compute units, or fewer."""
        starts = [offset // size for (_, offset), size in zip(operands, self._sizes, strict=True)]
        numbers = [*starts, *dims]
        if numbers != self._told:
            self._engine.write(self._numbers, 0, np.array(numbers, np.int64))
            self._told = numbers
        share = -(-extent // min(self._device.compute_units, max(extent // grain, 1)))
        self._engine.told(lambda: self._give([*(m for m, _ in operands), self._numbers, 0, extent, share]))
        enqueue = self._device.cl.enqueue_nd_range_kernel
        items = (-(-extent // share),)
        self._start = lambda queue: enqueue(queue, self._kernel, items, (1,))

    def start(self) -> None:
        assert self._start is not None, "it was not set"
        self._engine.told(partial(self._start, self._device.queue))

    def timed(self) -> int:
        """See `Launcher`: as the driver's clock has it, without what it takes to hand a command over."""
        assert self._start is not None, "it was not set"
        self._engine.told(self._device.queue.finish)
        event = self._engine.told(partial(self._start, self._device.profiling_queue))
        self._engine.told(event.wait)
        profile = event.profile
        return int(self._engine.told(lambda: profile.end - profile.start))

    def _give(self, arguments: list[Any]) -> None:
        """Sets the arguments that differ from what was set before."""
        known = self._arguments or [None] * len(arguments)
        self._arguments = []  # as long as only some are set
        for position, (argument, before) in enumerate(zip(arguments, known, strict=True)):
            if argument is not before:
                value = np.int64(argument) if isinstance(argument, int) else argument
                self._kernel.set_arg(position, value)
        self._arguments = arguments


def _bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)
