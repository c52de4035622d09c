"""What a device is to a session: a maker of works, and executables of what it made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from mapsto.arguments import Progress as Progress
from mapsto.devices.maker import Maker, TunableMaker
from mapsto.machine.tuning import Tuning
from mapsto.runtime.executable import Executable
from mapsto.runtime.program import Program

"""Is told (done, total, label)."""


class Backend(Protocol):
    """A device that is open for compiling, for as long as the context that it is lasts."""

    def __enter__(self) -> Backend: ...

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None: ...

    @property
    def name(self) -> str:
        """As plans have it."""

    def maker(self, constants: Mapping[str, np.ndarray]) -> Maker:
        """For the tasks of one graph with these constants."""

    def executable(
        self,
        program: Program,
        threads: int | None,
        progress: Progress | None = None,
        sources: Mapping[str, Sequence[str]] | None = None,
    ) -> Executable:
        """A program of functions that its makers made, ready to run. sources: the nodes that each function stands for.
        Raises CompileError naming those whose code cannot be built.
        """


class TunableBackend(Backend, Protocol):
    """A device whose kernels can be tuned. tuning: what was tuned of it before."""

    def __enter__(self) -> TunableBackend: ...

    @property
    def tuning(self) -> Tuning: ...

    def tuned_maker(self, constants: Mapping[str, np.ndarray], tuning: Tuning) -> TunableMaker:
        """A maker that takes these tuned kernels instead."""

    def tuning_refusal(self) -> str:
        """Why nothing that is tuned could be kept ("": it could)."""

    def keep_tuning(self, tuning: Tuning) -> str:
        """Keeps what was tuned; the file that it is in. Raises FileError where it cannot be written."""
