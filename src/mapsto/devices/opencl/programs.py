"""A device's programs: which kernels are built together, and what is known of them on disk.

A driver's compiler takes about as long to be ready for a program as for a kernel, so those that are new are built as
one program. Drivers, or pyopencl for those that do not, keep what they built on disk, by the text of a program. So its
text is kept here, and found again by each kernel in it: a model that shares kernels with one that was compiled before
is given the same text for them, and their code is there already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mapsto.budget import current
from mapsto.devices.cache import ObjectCache, key_of
from mapsto.devices.opencl.device import Device
from mapsto.loop.opencl import Printed, program_text
from mapsto.version import VERSION


class Programs:
    """`cache`: where texts are kept; None: nowhere. A program that has been built is not built again."""

    def __init__(self, device: Device, cache: ObjectCache | None) -> None:
        self._device = device
        self._cache = cache
        self._built: dict[str, Any] = {}  # by kernel

    def built(
        self, kernels: Mapping[str, Printed], computes: Iterable[str], tell: Callable[[int, str], None]
    ) -> dict[str, Any]:
        """The program that has each kernel, by its name, compiled to the end. computes: nodes, for messages. tell: how
        many kernels are ready, and which was the last. Raises CompileError.
        """
        missing = {name: kernel for name, kernel in kernels.items() if name not in self._built}
        ready = len(kernels) - len(missing)
        for text, names in self._texts(missing).items():
            program = self._device.build(text, list(computes)[:4])
            for name in names:
                current().tick("code for OpenCL")
                self._device.finish(program, missing[name])
                self._built[name] = program
                ready += 1
                tell(ready, name)
            self._keep(text, {name: missing[name] for name in names})
        return {name: self._built[name] for name in kernels}

    def _texts(self, kernels: Mapping[str, Printed]) -> dict[str, list[str]]:
        """Texts of programs with the kernels to take from each: known ones, then a new one of all others."""
        found: dict[str, list[str]] = {}
        others = []
        for name, kernel in kernels.items():
            text = self._known(kernel)
            if text is None:
                others.append(name)
            else:
                found.setdefault(text, []).append(name)
        if others:
            found[program_text(kernels[name] for name in others)] = others
        return found

    def _known(self, kernel: Printed) -> str | None:
        """The text that a kernel was built in before."""
        program = None if self._cache is None else self._cache.get(self._key(kernel))
        if self._cache is None or program is None:
            return None
        text = self._cache.get(program.decode("ascii", "replace"))
        return None if text is None else text.decode()

    def _keep(self, text: str, kernels: Mapping[str, Printed]) -> None:
        if self._cache is None:
            return
        program = hashlib.sha256(text.encode()).hexdigest()
        if self._cache.get(program) is None:
            self._cache.put(program, text.encode())
        for kernel in kernels.values():
            if self._cache.get(self._key(kernel)) is None:
                self._cache.put(self._key(kernel), program.encode())

    def _key(self, kernel: Printed) -> str:
        """Of all that a kernel's code depends on."""
        return key_of("opencl", VERSION, *self._device.identity, kernel.kernel, *kernel.helpers.values())
