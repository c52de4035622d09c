"""An OpenCL device, open for compiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mapsto.budget import current
from mapsto.devices.backend import Progress
from mapsto.devices.opencl.device import open_device
from mapsto.devices.opencl.engine import OpenClEngine
from mapsto.devices.opencl.functions import Functions
from mapsto.devices.opencl.maker import OpenClMaker
from mapsto.devices.opencl.typical import typical
from mapsto.runtime.executable import Executable
from mapsto.runtime.program import Program


class OpenClBackend:
    """A `devices.backend.Backend`. number: of the device in `list_devices`. Raises UnsupportedError where it is not
    there, or pyopencl is not.
    """

    name = "opencl"

    def __init__(self, number: int = 0) -> None:
        self._device = open_device(number)
        self._functions = Functions(self._device)
        self._spec = typical(self._device)

    def __enter__(self) -> OpenClBackend:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        """Executables keep what they need."""

    def maker(self, constants: Mapping[str, np.ndarray]) -> OpenClMaker:
        return OpenClMaker(self.name, constants, self._functions, self._spec)

    def executable(
        self,
        program: Program,
        threads: int | None,
        progress: Progress | None = None,
        sources: Mapping[str, Sequence[str]] | None = None,
    ) -> Executable:
        """All functions are built in one go: a compiler that is started for each takes several times as long."""
        names = program.functions()
        current().tick("code for OpenCL")
        functions = {name: self._functions.made[name] for name in names}
        computes = dict.fromkeys(node for name in names for node in (sources or {}).get(name, ()))
        built = self._device.build(self._functions.text(names), list(computes)[:4]) if names else None
        if progress:
            progress(len(names), len(names), self._device.name)
        return Executable(
            program, [], threads, engine=OpenClEngine(self.name, self._device, functions, dict.fromkeys(names, built))
        )
