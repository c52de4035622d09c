"""An OpenCL device, open for compiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mapsto.devices.backend import Progress
from mapsto.devices.cache import ObjectCache
from mapsto.devices.opencl.device import open_device
from mapsto.devices.opencl.engine import OpenClEngine
from mapsto.devices.opencl.functions import Functions
from mapsto.devices.opencl.maker import OpenClMaker
from mapsto.devices.opencl.programs import Programs
from mapsto.devices.opencl.typical import typical
from mapsto.runtime.executable import Executable
from mapsto.runtime.program import Program
from mapsto.store import default_folder


class OpenClBackend:
    """A `devices.backend.Backend`. number: of the device in `list_devices`. cache: whether programs are remembered on
    disk. Raises UnsupportedError where the device is not there, or pyopencl is not.
    """

    name = "opencl"

    def __init__(self, number: int = 0, cache: bool = True) -> None:
        self._device = open_device(number)
        self._programs = Programs(self._device, ObjectCache(default_folder()) if cache else None)
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
        names = program.functions()
        functions = {name: self._functions.made[name] for name in names}
        computes = dict.fromkeys(node for name in names for node in (sources or {}).get(name, ()))

        def tell(done: int, name: str) -> None:
            if progress:
                progress(done, len(names), name)

        printed = self._functions.printed(names)
        built = self._programs.built(printed, computes, tell)
        return Executable(program, [], threads, engine=OpenClEngine(self.name, self._device, functions, built, printed))
