"""A program with its code, ready to run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mapsto.errors import ShapeError
from mapsto.runtime import artifact
from mapsto.runtime.arrays import address_of, aligned_bytes
from mapsto.runtime.cpus import available_cpus
from mapsto.runtime.frame import Frame
from mapsto.runtime.layout import Layout, remember, root_layout
from mapsto.runtime.native import Library
from mapsto.runtime.poison import Poison
from mapsto.runtime.pool import load_runner, shared_pool
from mapsto.runtime.profile import StepTime, profile_frame
from mapsto.runtime.program import ALIGNMENT, Program
from mapsto.runtime.tables import Tables
from mapsto.runtime.verify import verify_program

if TYPE_CHECKING:
    from mapsto.plan.plan import Plan

_LAYOUTS = 8  # kept for the last sizes


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of a run. `arena_bound` is the most scratch memory alive at once: no layout needs less."""

    arena: int
    arena_bound: int
    constants: int


class Executable:
    """Runs a program. May be called from several threads at once; each run has memory of its own.

    `run({"x": array})` gives a dict of outputs by name; `exe(array)` takes the inputs in order and gives the only
    output, or a tuple. Inputs are read in place where they are C-contiguous, aligned and of the declared dtype; they
    are written only where the program updates them. Outputs are fresh arrays.
    """

    def __init__(
        self,
        program: Program,
        objects: Sequence[bytes],
        threads: int | None = None,
        *,
        plan: str = "",
        target: artifact.Target | None = None,
        runner: bytes | None = None,
    ) -> None:
        """`threads` None: as many as this process may keep busy. `runner` is saved object code of the step runner.

        Raises VerifyError for an inconsistent program, CompileError for objects that lack a function, ExecutionError
        for an absurd thread count.
        """
        verify_program(program)
        self.program = program
        self.objects = tuple(objects)
        self.plan_text = plan
        self.target = target or artifact.Target.baseline()
        self.threads = available_cpus() if threads is None else threads
        self._library = Library(objects, program.functions())
        self._runner = load_runner(runner)
        self._pool = shared_pool(self.threads, self._runner) if self.threads != 1 else None
        self._tables = Tables(program, self._library.addresses)
        self._constants = _aligned(program.constants)
        self._layouts: dict[tuple[int, ...], Layout] = {}
        self._frames: list[Frame] = []
        self._input_names = [port.name for port in program.inputs]
        self._output_names = [port.name for port in program.outputs]
        self._single = len(program.outputs) == 1
        self._poison = False

    @property
    def plan(self) -> Plan:
        """The decisions that this executable was made by. Raises ParseError where it was made without a plan."""
        from mapsto.plan.plan import parse

        return parse(self.plan_text)

    @property
    def addresses(self) -> Mapping[str, int]:
        """Where each compiled function lies in this process: for tools that call one by itself."""
        return self._library.addresses

    def __call__(self, *inputs: Any) -> Any:
        """The only output, or a tuple of all, for the inputs in order. Raises ShapeError for inputs that do not fit."""
        frames = self._frames
        try:
            frame = frames.pop()
        except IndexError:
            frame = self._frame()
        results = frame.run(inputs)
        frames.append(frame)  # not after an exception: it may be half prepared
        return results[0] if self._single else tuple(results)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name. Raises ShapeError for inputs that do not fit."""
        if len(inputs) != len(self._input_names):
            raise self._wrong_names(inputs)
        try:
            values = [inputs[name] for name in self._input_names]
        except KeyError:
            raise self._wrong_names(inputs) from None
        results = self(*values)
        if self._single:
            return {self._output_names[0]: results}
        return dict(zip(self._output_names, results, strict=True))

    def profile(self, *inputs: Any, runs: int = 1) -> list[StepTime]:
        """Nanoseconds of each step, over `runs` runs; with several threads, until the last of them is done with it."""
        frame = self._frame()
        frame.run(inputs)  # memory is touched, caches are warm
        return profile_frame(frame, self.program, inputs, runs)

    def memory(self, sizes: Mapping[str, int] | None = None) -> MemoryUse:
        """What a run uses in memory when the symbols have these values, those of Bind steps included."""
        layout = root_layout(self._tables, self.threads, self._tables.tape.start(dict(sizes or {})))
        arena, bound = layout.memory()
        return MemoryUse(arena, bound, self._constants.nbytes)

    def poison(self, on: bool = True) -> None:
        """For tests: runs go step by step, and scratch memory that holds nothing holds NaN (see `runtime.poison`)."""
        self._poison = on
        self._frames = []

    def release_memory(self) -> None:
        """Lets go of scratch memory and layouts; the next run makes its own."""
        self._frames = []
        self._layouts = {}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one file from which `load` makes this executable again, without compiling."""
        artifact.save(path, artifact.Artifact(self.program, self.objects, self.target, self.plan_text))

    def _frame(self) -> Frame:
        frame = Frame(self._tables, self._constants, self._layout, self._runner.run, self._pool)
        frame.poison = Poison(self._tables) if self._poison else None
        return frame

    def _layout(self, sizes: Mapping[str, int]) -> Layout:
        key = tuple(sizes.values())
        layout = self._layouts.get(key)
        if layout is None:
            layout = root_layout(self._tables, self.threads, self._tables.tape.start(sizes))
            remember(self._layouts, key, layout, _LAYOUTS)
        return layout

    def _wrong_names(self, inputs: Mapping[str, Any]) -> ShapeError:
        wanted = ", ".join(map(str, self.program.inputs))
        missing = [name for name in self._input_names if name not in inputs]
        unknown = [name for name in inputs if name not in self._input_names]
        parts = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"unknown: {', '.join(unknown)}"] * bool(unknown)
        return ShapeError(f"inputs of {self.program.name}: {'; '.join(parts)} (it takes {wanted})")


def load(path: str | os.PathLike[str], threads: int | None = None) -> Executable:
    """The executable that a file of `Executable.save` holds; nothing is compiled.

    Raises ModelError where the file is damaged, of another version, or for another machine.
    """
    saved = artifact.load(path)
    return Executable(saved.program, saved.objects, threads, plan=saved.plan, target=saved.target, runner=saved.runner)


def _aligned(constants: Any) -> np.ndarray:
    """The constants as bytes at an aligned address; copied only where they are not there already."""
    data = np.frombuffer(constants, np.uint8) if memoryview(constants).nbytes else aligned_bytes(0)
    if address_of(data) % ALIGNMENT == 0:
        return data
    copy = aligned_bytes(data.nbytes)
    copy[:] = data
    return copy
