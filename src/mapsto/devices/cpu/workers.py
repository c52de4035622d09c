"""Native code for this processor, by compile workers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

import numpy as np

from mapsto.arguments import text_of
from mapsto.budget import current
from mapsto.devices.backend import Progress
from mapsto.devices.cache import ObjectCache
from mapsto.devices.cpu import isa as isas
from mapsto.devices.cpu.compiler import CompilePool
from mapsto.devices.cpu.functions import CHARGED
from mapsto.devices.cpu.host import host_machine, host_tuning, keep_tuning, tuning_refusal
from mapsto.devices.cpu.maker import CpuMaker
from mapsto.devices.making.code import Unwritten
from mapsto.errors import CompileError
from mapsto.machine.tuning import Tuning
from mapsto.runtime.artifact import Target
from mapsto.runtime.executable import Executable
from mapsto.runtime.native import architecture
from mapsto.runtime.program import Program
from mapsto.store import default_folder


class Workers:
    """A `devices.backend.Backend`: compile workers that start while the model is still being read; they are given code
    function by function. `isa`: an instruction set by name; None: the processor's own.
    """

    def __init__(self, cache: bool, isa: str | None = None) -> None:
        self.isa = _instruction_set(isa)
        self.name = self.isa.name
        self.machine = host_machine(self.isa).machine
        self.tuning = host_tuning(self.isa)
        self._cache = ObjectCache(default_folder()) if cache else None
        self._pool: CompilePool | None = None
        self.futures: dict[str, Future[bytes]] = {}

    def __enter__(self) -> Workers:
        self._pool = CompilePool(self.isa, min(4, len(os.sched_getaffinity(0))), self._cache)
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        assert self._pool is not None
        self._pool.close(finish=failed is None)

    def maker(self, constants: Mapping[str, np.ndarray]) -> CpuMaker:
        return self.tuned_maker(constants, self.tuning)

    def tuned_maker(self, constants: Mapping[str, np.ndarray], tuning: Tuning) -> CpuMaker:
        """One that takes these tuned kernels; see `TunableBackend`."""
        return CpuMaker(self.isa, constants, self.submit, self.machine, tuning, self.submit_later)

    def tuning_refusal(self) -> str:
        """See `TunableBackend`."""
        return tuning_refusal()

    def keep_tuning(self, tuning: Tuning) -> str:
        """Keeps what was tuned for whatever is compiled from now on; see `TunableBackend`."""
        self.tuning = tuning
        return str(keep_tuning(tuning, self.isa))

    def executable(
        self,
        program: Program,
        threads: int | None,
        progress: Progress | None = None,
        sources: Mapping[str, Sequence[str]] | None = None,
    ) -> Executable:
        """A program of functions that were submitted; see `Backend.executable`."""
        objects = self.objects(program.functions(), progress, sources or {})
        return Executable(program, objects, threads, target=_target(self.isa))

    def submit(self, name: str, text: str, optimizer: str) -> None:
        assert self._pool is not None
        if name not in self.futures:
            self.futures[name] = self._pool.submit(name, text, optimizer)

    def submit_later(self, name: str, source: Unwritten, optimizer: str) -> None:
        assert self._pool is not None
        if name not in self.futures:
            self.futures[name] = self._pool.submit_later(name, source, optimizer)

    def objects(
        self, names: Sequence[str], progress: Progress | None, sources: Mapping[str, Sequence[str]]
    ) -> list[bytes]:
        """Object code of these functions; CompileError naming all that failed. sources: the nodes each stands for."""
        assert self._pool is not None
        found, failures = [], []
        self._pool.write_rest()
        for done, name in enumerate(names, 1):
            current().tick(f"code of {name}")
            try:
                found.append(self.futures[name].result())
            except CompileError as error:
                computes = ", ".join(sources.get(name, ()))
                failures.append(f"{error}" + (f" (it computes {computes})" if computes else ""))
            current().charge("code", self._pool.lengths.pop(name, 0), CHARGED)
            if progress:
                progress(done, len(names), name)
        if failures:
            raise CompileError("; ".join(failures))
        return found


def _instruction_set(name: str | None) -> isas.Isa:
    """The processor's own, or the named one. Raises CompileError for one that this processor cannot run."""
    if name is not None:
        text_of(name, "isa")
    if name is None or name == isas.host().name:
        return isas.host()
    isa = isas.by_name(name)
    if not isas.runs(isa):
        raise CompileError(
            f"this processor does not run code for {name}; the widest that it runs is {isas.host().name}"
        )
    return isa


def _target(isa: isas.Isa) -> Target:
    """What the code needs of a machine: every feature of the processor level that it was made for."""
    import llvmlite.binding as llvm

    needs = isas.needs(isa)
    assert set(needs) <= {f for f, on in llvm.get_host_cpu_features().items() if on}
    return Target(architecture(), isa.name, needs)
