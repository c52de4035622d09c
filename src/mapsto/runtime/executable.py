"""A program with its code, ready to run."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from mapsto.arguments import LARGEST_EXTENT, brief, integer
from mapsto.boundary import public, translated
from mapsto.errors import ArgumentError, MapstoError, ShapeError, UnsupportedError
from mapsto.runtime import artifact
from mapsto.runtime.arena_layout import ArenaLayout, remember, root_layout
from mapsto.runtime.arrays import address_of, aligned_bytes
from mapsto.runtime.cpus import thread_count
from mapsto.runtime.engine import Engine
from mapsto.runtime.frame import Frame
from mapsto.runtime.native import Library
from mapsto.runtime.pool import load_runner, shared_pool
from mapsto.runtime.program import ALIGNMENT, Port, Program
from mapsto.runtime.tables import Tables
from mapsto.runtime.verify import verify_program
from mapsto.runtime.walk import WalkedFrame, Walker

if TYPE_CHECKING:
    from mapsto.plan.plan import Plan
    from mapsto.runtime.adaptive import AdaptiveSizes
    from mapsto.runtime.guard import Fences
    from mapsto.runtime.profile import StepTime

Made = TypeVar("Made")

_LAYOUTS = 8  # kept for the last sizes
_SHAPES = 64  # of inputs that are known to need another executable


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of a run. `arena_bound` is the most scratch memory alive at once: no layout needs less. `outputs`: of the
    fresh arrays that a run returns.
    """

    arena: int
    arena_bound: int
    constants: int
    outputs: int


class _Layouts:
    """The layouts of the last sizes, shared by the frames of an executable; they do not hold the executable, which
    would then live, with its code and memory, until the garbage collector comes by.
    """

    def __init__(self, tables: Tables, threads: int) -> None:
        self._tables, self._threads = tables, threads
        self._kept: dict[tuple[int, ...], ArenaLayout] = {}

    def __call__(self, sizes: Mapping[str, int]) -> ArenaLayout:
        key = tuple(sizes.values())
        layout = self._kept.get(key)
        if layout is None:
            layout = root_layout(self._tables, self._threads, self._tables.tape.start(sizes))
            remember(self._kept, key, layout, _LAYOUTS)
        return layout


class _Native:
    """Frames whose steps a native runner walks."""

    def __init__(self, program: Program, objects: Sequence[bytes], threads: int, runner: bytes | None) -> None:
        self._library = Library(objects, program.functions())
        self.addresses: Mapping[str, int] = self._library.addresses
        self._runner = load_runner(runner)
        self._pool = shared_pool(threads, self._runner) if threads != 1 else None

    def frame(self, tables: Tables, constants: np.ndarray, layouts: _Layouts, poisoned: bool) -> Frame:
        return Frame(tables, constants, layouts, self._runner.run, self._pool, poisoned)

    def fenced_frame(self, tables: Tables, constants: np.ndarray, layouts: _Layouts, fences: Fences) -> Frame:
        from mapsto.runtime.guard import FencedFrame

        return FencedFrame(tables, constants, layouts, self._runner.run, self._pool, fences)


class Overriding(Generic[Made]):
    """Executables that take initializers as inputs, where the model says that these are only defaults; compiled when
    a run first gives such an input. `make` compiles for a set of names.
    """

    def __init__(self, names: frozenset[str], make: Callable[[frozenset[str]], Made]) -> None:
        self.names = names
        self._make = make
        self._made: dict[frozenset[str], Made] = {}

    def executable(self, names: frozenset[str]) -> Made:
        """The executable that takes these names as inputs."""
        # two callers at once compile twice, and one is taken: no lock, which a signal handler could find taken
        return self._made.get(names) or self._made.setdefault(names, self._make(names))


class Narrowing:
    """Executables for sizes that an executable of open sizes refuses in a run, though one that is compiled for them can
    run. `make` gives one that takes such sizes, for the error that names them.
    """

    def __init__(self, make: Callable[[MapstoError], Executable]) -> None:
        self._make = make
        self._made: dict[frozenset[str], Executable] = {}
        self._known: dict[tuple[Any, ...], Executable] = {}

    def known(self, inputs: Sequence[Any]) -> Executable | None:
        """The executable that is known to take inputs of these shapes where the open one does not."""
        return self._known.get(_shapes(inputs))

    def executable(self, error: MapstoError, inputs: Sequence[Any]) -> Executable:
        """The one to run instead, where a run of these inputs ended with this error."""
        names = error.sizes
        # two callers at once make two, and one is taken: no lock, which a signal handler could find taken
        made = self._made.get(names) or self._made.setdefault(names, self._make(error))
        remember(self._known, _shapes(inputs), made, _SHAPES)
        return made

    def lines(self) -> list[str]:
        """What there is, for a report."""
        return [line for made in list(self._made.values()) for line in made.report().splitlines()]


def _shapes(inputs: Sequence[Any]) -> tuple[Any, ...]:
    return tuple([getattr(each, "shape", None) if type(each) is np.ndarray else None for each in inputs])


class Executable:
    """Runs a program. May be called from several threads at once; each run has memory of its own.

    `run({"x": array})` gives a dict of outputs by name; `exe(array)` takes the inputs in order and gives the only
    output, or a tuple. Inputs are read in place where they are C-contiguous, aligned and of the declared dtype; they
    are written only where the program updates them. Outputs are fresh arrays.
    """

    @public
    def __init__(
        self,
        program: Program,
        objects: Sequence[bytes],
        threads: int | None = None,
        *,
        plan: str = "",
        target: artifact.Target | None = None,
        runner: bytes | None = None,
        engine: Engine | None = None,
    ) -> None:
        """`threads` None: as many as this process may keep busy. `runner` is saved object code of the step runner.
        `engine`: a device that has the functions and runs them; then there are no objects.

        Raises ArgumentError for what is no program or no object code, VerifyError for an inconsistent program,
        CompileError for objects that lack a function, ExecutionError for an impossible number of threads.
        """
        self.threads = thread_count(threads)
        if not isinstance(program, Program):
            raise ArgumentError(f"program: expected a Program, got {brief(program)}")
        if not isinstance(objects, (list, tuple)) or not all(isinstance(code, bytes) for code in objects):
            raise ArgumentError(f"objects: expected a list of object files as bytes, got {brief(objects)}")
        verify_program(program)
        self.program = program
        self.objects = tuple(objects)
        self.plan_text = plan
        self.target = target or artifact.Target.baseline()
        self._code: _Native | Walker = (
            _Native(program, objects, self.threads, runner) if engine is None else Walker(program, engine)
        )
        self._tables = Tables(program, self._code.addresses)
        self._constants = _aligned(program.constants)
        self._layouts = _Layouts(self._tables, self.threads)
        self._frames: list[Frame | WalkedFrame] = []
        self._input_names = [port.name for port in program.inputs]
        self._output_names = [port.name for port in program.outputs]
        self._single = len(program.outputs) == 1
        self._defaults = {port.name: self._default(port) for port in program.inputs if port.default is not None}
        self.overriding: Overriding[Executable] | None = None
        self.adaptive: AdaptiveSizes | None = None
        self.narrowing: Narrowing | None = None
        self.cache_note = ""  # what the cache of executables had to do with it, where it was compiled by name
        self._poison = False
        self._fences: Fences | None = None

    @property
    def device_code(self) -> bytes | None:
        """What a file has of the functions of a device other than the processor (`Engine.code`); None: nothing."""
        return self._code.engine.code() if isinstance(self._code, Walker) else None

    @property
    def open_sizes(self) -> Mapping[str, tuple[int, int]]:
        """The sizes that inputs say, by their symbols: (number of an input, axis)."""
        return self._tables.input_symbols

    @property
    @public
    def plan(self) -> Plan:
        """The decisions that this executable was made by. Raises ParseError where it was made without a plan."""
        from mapsto.plan.plan import parse

        return parse(self.plan_text)

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What a run takes, in order."""
        return self.program.inputs

    @property
    def addresses(self) -> Mapping[str, int]:
        """Where each compiled function lies in this process: for tools that call one by itself. 0 on a device."""
        return self._code.addresses

    def _default(self, port: Port) -> np.ndarray:
        assert port.default is not None
        start, shape = port.default
        size = math.prod(shape) * port.dtype.size
        array: np.ndarray = self._constants[start : start + size].view(port.dtype.numpy).reshape(shape)
        array.flags.writeable = False
        return array

    def __call__(self, *inputs: Any) -> Any:
        """The only output, or a tuple of all, for the inputs in order (the last ones may be left out where they have
        defaults). Raises ShapeError for inputs that do not fit, ExecutionError where the run fails.
        """
        if self._defaults and len(inputs) < len(self._input_names):
            rest = self._input_names[len(inputs) :]
            inputs = (*inputs, *(self._defaults[name] for name in rest if name in self._defaults))
        adaptive, narrowing = self.adaptive, self.narrowing
        try:
            if narrowing is not None and (other := narrowing.known(inputs)) is not None:
                return other(*inputs)
            results = self.outputs_of(inputs) if adaptive is None else adaptive.outputs_of(self, inputs)
        except Exception as error:
            if narrowing is not None and isinstance(error, MapstoError) and error.sizes:
                return narrowing.executable(error, inputs)(*inputs)
            if isinstance(error, MapstoError):
                raise
            raise translated(error, "run") from error
        return results[0] if self._single else tuple(results)

    def outputs_of(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        """A run by this program, whatever there is for sizes of single runs."""
        frames = self._frames
        try:
            frame = frames.pop()
        except IndexError:
            frame = self._frame()
        results = frame.run(inputs)
        frames.append(frame)  # not after an exception: it may be half prepared
        return results

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name. Raises ShapeError for inputs that do not fit, ExecutionError where the
        run fails.
        """
        try:
            if len(inputs) != len(self._input_names):
                return self._run_with_defaults(inputs)
            values = [inputs[name] for name in self._input_names]
        except KeyError:
            return self._run_with_defaults(inputs)
        except Exception as error:
            if isinstance(error, MapstoError):
                raise
            raise self._wrong_names(inputs) from None
        results = self(*values)
        if self._single:
            return {self._output_names[0]: results}
        return dict(zip(self._output_names, results, strict=True))

    def _run_with_defaults(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """A run that leaves inputs with defaults out, or gives initializers that were taken for constants."""
        if not isinstance(inputs, Mapping):
            raise self._wrong_names(inputs)
        given = frozenset(inputs) - frozenset(self._input_names)
        if given and self.overriding is not None and given <= self.overriding.names:
            return self.overriding.executable(given).run(inputs)
        filled = {**self._defaults, **inputs}
        if len(filled) != len(self._input_names) or any(name not in filled for name in self._input_names):
            raise self._wrong_names(inputs)
        return self.run(filled)

    @public
    def profile(self, *inputs: Any, runs: int = 1) -> list[StepTime]:
        """Nanoseconds of each step, over `runs` runs; with several threads, until the last of them is done with it."""
        from mapsto.runtime.profile import profile_frame

        count = integer(runs)
        if count is None or count < 1:
            raise ArgumentError(f"runs: {brief(runs)} is no number of runs; give an integer from 1 on")
        frame = self._frame()
        frame.run(inputs)  # memory is touched, caches are warm
        return profile_frame(frame, self.program, inputs, count)

    @public
    def sizes(self, *inputs: Any) -> dict[str, int]:
        """Every open size by its symbol, as a run with these inputs finds it."""
        frame = self._frame()
        frame.run(inputs)
        return frame.sizes

    @public
    def memory(self, sizes: Mapping[str, int] | None = None) -> MemoryUse:
        """What a run uses in memory when the symbols have these values, those of Bind steps included; a symbol that is
        not named counts as 0. Raises ShapeError for unknown names and impossible sizes.
        """
        layout = root_layout(self._tables, self.threads, self._tables.tape.start(self._sizes(sizes)))
        arena, bound = layout.memory()
        updated = {target for _, target in self._tables.updates}
        fresh = [p.buffer for at, p in enumerate(self.program.outputs) if at not in updated]
        return MemoryUse(arena, bound, self._constants.nbytes, sum(max(layout.bytes_of(b), 0) for b in fresh))

    def poison(self, on: bool = True) -> None:
        """For tests: runs go step by step, and scratch memory that holds nothing holds NaN (see `runtime.poison`)."""
        self._poison = on
        self._frames = []
        self._watch_singles()

    def watch_like(self, other: Executable) -> None:
        """Runs are poisoned and guarded as another one's are."""
        self._poison, self._fences, self._frames = other._poison, other._fences, []

    def _watch_singles(self) -> None:
        for single in self.adaptive.executables() if self.adaptive is not None else ():
            single.watch_like(self)

    @public
    def guard(self, fences: Fences | None) -> None:
        """For tests: runs go as poisoned ones, and each of their buffers lies between pages that fault (see
        `runtime.guard`). Nothing on a device with memory of its own.
        """
        self._fences = fences
        self._frames = []
        self._watch_singles()

    def release_memory(self) -> None:
        """Lets go of scratch memory and layouts; the next run makes its own."""
        self._frames = []
        self._layouts = _Layouts(self._tables, self.threads)
        for single in self.adaptive.executables() if self.adaptive is not None else ():
            single.release_memory()

    @public
    def report(self) -> str:
        """What has been done for the sizes that runs brought (`mapsto.compile(adapt=True)`)."""
        if self.adaptive is not None:
            said = self.adaptive.report()
        else:
            said = "one executable for all sizes" if self.open_sizes else "no size is open"
        return said if self.narrowing is None else "\n".join([said, *self.narrowing.lines()])

    @public
    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one file from which `load` makes this executable again, without compiling: whole, or not at all.
        Executables for single sizes (`adaptive`) are no part of it.

        Raises FileError where it cannot be written, ModelError for sizes that cannot be saved, UnsupportedError for
        code of a device other than the processor.
        """
        artifact.save(path, self._artifact())

    @public
    def parts(self) -> list[Any]:
        """What `save` writes, front to back, as bytes-like objects. Raises as `save` does."""
        return artifact.parts(self._artifact())

    @public
    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled (copied, sent to another process) as the file that `save` writes."""
        return _from_bytes, (artifact.to_bytes(self._artifact()), self.threads)

    def _artifact(self) -> artifact.Artifact:
        if isinstance(self._code, Walker):
            name = self._code.engine.name
            raise UnsupportedError(f"code for {name} cannot be saved or pickled yet; compile it where it is to run")
        return artifact.Artifact(self.program, self.objects, self.target, self.plan_text)

    def _frame(self) -> Frame | WalkedFrame:
        if self._fences is not None and isinstance(self._code, _Native):
            return self._code.fenced_frame(self._tables, self._constants, self._layouts, self._fences)
        return self._code.frame(self._tables, self._constants, self._layouts, self._poison)

    def _sizes(self, sizes: Any) -> dict[str, int]:
        if sizes is None:
            return {}
        if not isinstance(sizes, Mapping):
            raise ArgumentError(f"sizes: expected a dict of sizes by the symbols' names, got {brief(sizes)}")
        found = {name: integer(size) for name, size in sizes.items()}
        known = self._tables.tape.symbols
        for name, size in found.items():
            if name not in known:
                raise ShapeError(f"sizes: there is no symbol {brief(name)}; there are: {', '.join(known) or 'none'}")
            if size is None or not 0 <= size <= LARGEST_EXTENT:
                raise ShapeError(f"sizes: {name} = {brief(sizes[name])}; it must be from 0 to {LARGEST_EXTENT}")
        return {name: size for name, size in found.items() if size is not None}

    def _wrong_names(self, inputs: Any) -> MapstoError:
        wanted = ", ".join(map(str, self.program.inputs))
        if not isinstance(inputs, Mapping):
            return ArgumentError(f"inputs: expected a dict by name, got {brief(inputs)} ({wanted})")
        missing = [name for name in self._input_names if name not in inputs and name not in self._defaults]
        unknown = [name if isinstance(name, str) else brief(name) for name in inputs if name not in self._input_names]
        parts = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"unknown: {', '.join(unknown)}"] * bool(unknown)
        what = "; ".join(parts) or "they cannot be had by name"
        hint = "; an initializer is an input where `overridable` names it when compiling" if unknown else ""
        return ShapeError(f"inputs of {self.program.name}: {what} (it takes {wanted}{hint})")


@public
def load(path: str | os.PathLike[str], threads: int | None = None, verify: bool = False) -> Executable:
    """The executable that a file of `Executable.save` holds; nothing is compiled.

    Every byte of the file is looked at: code, plan and header by SHA-256, constants (9 ms for 100 MB) by sums that find
    accidents. verify: constants by SHA-256 as well (125 ms for 100 MB), which finds any change.

    Raises ModelError where the file is damaged, of another version, or for another machine, ExecutionError for an
    impossible number of threads.
    """
    count = thread_count(threads)
    return executable_of(artifact.load(path, verify), count)


@public
def _from_bytes(data: bytes, threads: int) -> Executable:
    """What pickling made of an executable. Like a file, to be trusted as a program is."""
    return executable_of(artifact.read("a pickled executable", memoryview(data)), threads)


def executable_of(saved: artifact.Artifact, threads: int) -> Executable:
    """What a file holds, ready to run."""
    return Executable(saved.program, saved.objects, threads, plan=saved.plan, target=saved.target, runner=saved.runner)


def _aligned(constants: Any) -> np.ndarray:
    """The constants as bytes at an aligned address; copied only where they are not there already."""
    data = np.frombuffer(constants, np.uint8) if memoryview(constants).nbytes else aligned_bytes(0)
    if address_of(data) % ALIGNMENT == 0:
        return data
    copy = aligned_bytes(data.nbytes)
    copy[:] = data
    return copy
