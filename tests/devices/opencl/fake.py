"""A driver that remembers what it was told, and fails where it is told to: `pyopencl` as far as an engine needs it."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np

from mapsto.devices.opencl.device import Device

CODES = SimpleNamespace(
    DEVICE_NOT_FOUND=-1,
    DEVICE_NOT_AVAILABLE=-2,
    MEM_OBJECT_ALLOCATION_FAILURE=-4,
    OUT_OF_RESOURCES=-5,
    OUT_OF_HOST_MEMORY=-6,
    INVALID_DEVICE=-33,
    INVALID_CONTEXT=-34,
    INVALID_COMMAND_QUEUE=-36,
    INVALID_KERNEL_ARGS=-52,
)


class Error(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(f"clSomething failed: {name}")
        self.code = getattr(CODES, name)


class Copied:
    """A copy's event."""


class Driver:
    """`failing`: the name of the error that every call from now on ends with; "": none. `held`: copies whose events
    somebody has: pyopencl waits for one that is let go.
    """

    Error = RuntimeError = Error
    status_code = CODES
    mem_flags = SimpleNamespace(READ_WRITE=1, COPY_HOST_PTR=32)
    device_fp_config = SimpleNamespace(FMA=32, CORRECTLY_ROUNDED_DIVIDE_SQRT=128)
    command_queue_properties = SimpleNamespace(PROFILING_ENABLE=2)

    def __init__(self) -> None:
        self.failing = ""
        self.held = 0
        self.log: list[tuple[Any, ...]] = []

    def _did(self, *what: Any) -> None:
        if self.failing:
            raise Error(self.failing)
        self.log.append(what)

    def Context(self, devices: Any) -> str:
        return "context"

    def CommandQueue(self, context: Any, properties: int = 0) -> Any:
        return SimpleNamespace(properties=properties, finish=lambda: self._did("finish"))

    def Buffer(self, context: Any, flags: int, size: int = 0, hostbuf: Any = None) -> Any:
        self._did("buffer", size)
        return SimpleNamespace(size=size)

    def Kernel(self, program: Any, name: str) -> Any:
        self._did("kernel", name)
        return SimpleNamespace(set_arg=lambda at, value: self._did("argument", at, value))

    def enqueue_copy(self, queue: Any, target: Any, source: Any, is_blocking: bool, **_: Any) -> Any:
        self._did("copy", "read" if isinstance(target, np.ndarray) else "write", is_blocking)
        copied = Copied()
        self.held += 1
        weakref.finalize(copied, self._let_go)
        return copied

    def _let_go(self) -> None:
        self.held -= 1

    def enqueue_nd_range_kernel(self, queue: Any, kernel: Any, items: tuple[int], local: tuple[int]) -> Any:
        self._did("start", items, queue.properties)
        return SimpleNamespace(wait=lambda: self._did("wait"), profile=SimpleNamespace(start=1000, end=1700))


def device_of(driver: Driver, units: int = 4) -> Device:
    """A device of that driver."""
    platform = SimpleNamespace(name="fake", version="1")
    return Device(
        driver,
        SimpleNamespace(
            name="a fake device",
            platform=platform,
            version="1",
            driver_version="1",
            max_compute_units=units,
            preferred_vector_width_float=8,
            double_fp_config=63,
            single_fp_config=255,
            max_parameter_size=1024,
            max_mem_alloc_size=1 << 20,
            max_clock_frequency=1000,
            global_mem_cache_size=1 << 20,
        ),
    )
