"""Functions of a program as OpenCL C, each once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from mapsto import debug
from mapsto.budget import current
from mapsto.devices.making.code import Unwritten
from mapsto.devices.opencl.device import Device
from mapsto.devices.opencl.traits import core_of, processor_of
from mapsto.errors import UnsupportedError
from mapsto.loop.ast import Function
from mapsto.loop.opencl import Printed, printed
from mapsto.loop.text import format_function

_WORD = 8  # bytes of a kernel's argument: a pointer or a long


class Functions:
    """A `making.code.MadeFor`: what a device's functions are made for, and those that were made.

    Vectors are as wide as the device says it likes them: a core's registers on a CPU, one element on most GPUs.
    """

    fused = True  # `fma` of OpenCL C rounds once on every device

    def __init__(self, device: Device) -> None:
        self.processor = processor_of(device)
        self.core = core_of(device)
        self._device = device
        self._printed: dict[str, Printed] = {}
        self.made: dict[str, Function] = {}

    def add(self, function: Function, optimizer: str) -> str:
        """The name of its kernel; equal functions share one. Raises UnsupportedError for what the device lacks."""
        text = printed(replace(function, name="kernel"))
        current().charge("code", len(text.kernel), "the code of its kernels")
        name = "k" + hashlib.sha256(text.kernel.encode()).hexdigest()[:20]
        if name not in self.made:
            self._check(function, text)
            self.made[name] = replace(function, name=name)
            self._printed[name] = text.renamed(self.made[name])
            debug.show(debug.KERNELS, f"function {name}", lambda: format_function(function))
            debug.show(debug.LLVM, f"OpenCL C of {name}", lambda: self._printed[name].kernel)
        return name

    def add_later(self, source: Unwritten, optimizer: str) -> str:
        """The same for one that is yet to be written, which it is at once: only its text says whether the device has
        what it needs.
        """
        return self.add(source.write(), optimizer)

    def printed(self, names: Iterable[str]) -> dict[str, Printed]:
        """The kernels of these functions."""
        return {name: self._printed[name] for name in names}

    def _check(self, function: Function, text: Printed) -> None:
        device = self._device
        if text.doubles and not device.doubles:
            raise UnsupportedError(f"it needs 64-bit floats, which {device.name} does not have")
        taken = _WORD * (len(function.params) + 4)
        if taken > device.parameter_bytes:
            raise UnsupportedError(
                f"its kernel takes {taken} bytes of arguments ({len(function.params)} tensors), {device.name} allows "
                f"{device.parameter_bytes}. A plan with a line `pin apart` of some of these nodes makes several kernels"
                " of them; the CPU has no such limit"
            )
