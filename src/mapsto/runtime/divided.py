"""One model on several devices: parts that run on lanes, one a device, each as soon as what it reads is there.

A lane does its parts in the order of the whole, and those of one run before those of the next, so whichever part is the
first that is not done has all that it reads: nothing can wait in a circle.

A device that fails is taken out: the part is done on the host, with the same inputs, as are all parts that were the
device's from then on; `report` says so. What the host refuses as well is the model's, or the inputs', fault.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapsto.arguments import brief
from mapsto.boundary import public
from mapsto.errors import ArgumentError, MapstoError, ShapeError
from mapsto.ir.expr import Expr, evaluate, symbols
from mapsto.ir.graph import Value
from mapsto.runtime.executable import Executable

NamedArrays = dict[str, np.ndarray]
_AHEAD = 2  # runs of a stream that are begun before the first of them has ended


@dataclass(frozen=True)
class DividedPart:
    """executable: on its device. on_host: makes one of the same part for the host. after: parts that it waits for.
    told: an input's name, and sizes that its shape is to hold; None: none. values: what it yields, as declared. holds:
    (a scalar among them or among the inputs of the whole, the size that it is).
    """

    name: str
    device: str
    executable: Executable
    on_host: Callable[[], Executable]
    after: tuple[int, ...]
    told: tuple[str, tuple[str, ...]] | None
    values: tuple[Value, ...]
    holds: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Whole:
    """The model: its inputs and outputs, and constants among these."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, np.ndarray]


@dataclass
class PartTime:
    """Seconds of all runs of a part, how many they were, and bytes that came from another device."""

    seconds: float = 0.0
    runs: int = 0
    bytes: int = 0


@dataclass
class _Running:
    """One run: values so far, sizes so far, and what says that each of its parts is done."""

    values: NamedArrays
    sizes: dict[str, int]
    done: dict[int, Future[None]]


class _Lane:
    """A thread that does one thing after the other; it is started with the first, and once more in a forked child."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._process = 0

    def put(self, task: Callable[[], None]) -> None:
        if self._process != os.getpid():
            self._tasks, self._process = queue.SimpleQueue(), os.getpid()
            threading.Thread(target=_work, args=(self._tasks,), name=f"mapsto {self._name}", daemon=True).start()
        self._tasks.put(task)


def _work(tasks: queue.SimpleQueue[Callable[[], None]]) -> None:
    while True:
        tasks.get()()


class DividedExecutable:
    """Runs a model whose parts are on several devices. May be called from several threads at once.

    `run`, and calling it, are as an `Executable`'s are; `stream` keeps several runs going at a time.
    """

    def __init__(
        self, whole: Whole, parts: Sequence[DividedPart], host: str, plan_text: str, copies: Sequence[int] = ()
    ) -> None:
        """host: the device whose parts the caller's own thread does. plan_text: where each work is, and why. copies:
        parts that are all of the model, each on a device of its own: a run is done by the first, and those of a stream
        by whichever will be done first.
        """
        self.whole, self.parts, self.host, self.plan_text = whole, tuple(parts), host, plan_text
        self.copies = tuple(copies)
        self._waiting = [0] * len(self.parts)  # runs that were put on a lane and have not ended; about
        self.lost: list[str] = []
        self.times = [PartTime() for _ in parts]
        self._history: list[str] = []
        self._lanes = {part.device: _Lane(part.device) for part in parts}
        self._instead: dict[int, Executable] = {}
        self._guard = threading.Lock()
        self._makers = {v.name: k for k, part in enumerate(parts) for v in part.values}

    @public
    def run(self, inputs: Mapping[str, Any]) -> NamedArrays:
        """Outputs by name for inputs by name. Raises ShapeError for inputs that do not fit, ExecutionError where the
        run fails.
        """
        running = self._begun(inputs, self.copies[:1] or range(len(self.parts)))
        for k in running.done:
            if self.parts[k].device != self.host:
                self._put(running, k)
        for k in running.done:
            if self.parts[k].device == self.host:
                self._do(running, k)
        return self._ended(running)

    @public
    def __call__(self, *inputs: Any) -> Any:
        """The only output, or a tuple of all, for the inputs in order."""
        if len(inputs) != len(self.whole.inputs):
            raise ShapeError(f"{self.whole.name} takes {len(self.whole.inputs)} inputs, got {len(inputs)}")
        found = self.run({value.name: each for value, each in zip(self.whole.inputs, inputs, strict=True)})
        results = tuple(found[name] for name in self.whole.outputs)
        return results[0] if len(results) == 1 else results

    @public
    def stream(self, inputs: Iterable[Mapping[str, Any]], ahead: int = _AHEAD) -> Iterator[NamedArrays]:
        """Outputs by name for each of many inputs, in their order; while the last parts of one are done, the first of
        the next are. ahead: how many are begun at a time, beside the one that is waited for.
        """
        if ahead < 0:
            raise ArgumentError(f"ahead: {ahead} is no number of runs")
        return self._streamed(inputs, ahead)

    def _streamed(self, inputs: Iterable[Mapping[str, Any]], ahead: int) -> Iterator[NamedArrays]:
        going: deque[_Running] = deque()
        ahead = ahead * max(len(self.copies), 1)
        for each in inputs:
            running = self._begun(each, [self._first_free()] if self.copies else range(len(self.parts)))
            going.append(running)
            for k in running.done:
                self._put(running, k)
            if len(going) > ahead:
                yield self._ended(going.popleft())
        while going:
            yield self._ended(going.popleft())

    @public
    def report(self) -> str:
        """Parts, what their runs took, bytes that were moved for them, and what happened to devices."""
        lines = []
        for part, spent in zip(self.parts, self.times, strict=True):
            count = max(spent.runs, 1)
            mean = f"{spent.seconds / count * 1e3:.3f} ms in the mean of {spent.runs} runs" if spent.runs else "not run"
            moved = f", {spent.bytes // count:,} bytes from other devices" if spent.bytes else ""
            lines.append(f"{part.name} on {part.device}: {mean}{moved}")
        return "\n".join([*lines, *self._history])

    def _put(self, running: _Running, k: int) -> None:
        self._waiting[k] += 1
        self._lanes[self.parts[k].device].put(lambda: self._do(running, k))

    def _first_free(self) -> int:
        """The copy that will be done first with one run more."""
        return min(self.copies, key=lambda k: (self._waiting[k] + 1) * self._takes(k))

    def _takes(self, k: int) -> float:
        """Seconds of a run of a part: as measured, else (all are to be tried) none."""
        spent = self.times[k]
        return spent.seconds / spent.runs if spent.runs else 0.0

    # ---- one run -----------------------------------------------------------------------------------------------------

    def _begun(self, inputs: Mapping[str, Any], parts: Iterable[int]) -> _Running:
        if not isinstance(inputs, Mapping):
            raise ArgumentError(f"inputs: expected a dict by name, got {brief(inputs)}")
        names = [value.name for value in self.whole.inputs]
        if set(inputs) != set(names):
            given = ", ".join(map(str, inputs)) or "none"
            raise ShapeError(f"inputs of {self.whole.name}: it takes {', '.join(names) or 'none'}; got {given}")
        values = {name: np.asarray(inputs[name]) for name in names}
        return _Running(values, self._sizes(values), {k: Future() for k in parts})

    def _sizes(self, values: NamedArrays) -> dict[str, int]:
        """The sizes that the inputs' shapes say."""
        sizes: dict[str, int] = {}
        for value in self.whole.inputs:
            shape = values[value.name].shape
            if len(shape) == value.rank:
                for dim, extent in zip(value.shape, shape, strict=True):
                    if isinstance(dim, Expr) and str(dim) in symbols(dim):
                        sizes.setdefault(str(dim), extent)
        for value in self.whole.inputs:
            expected = tuple(evaluate(dim, sizes) if symbols(dim) <= sizes.keys() else -1 for dim in value.shape)
            if values[value.name].shape != expected:
                raise ShapeError(f"input {value.name!r}: shape {values[value.name].shape} does not fit {value}")
        return sizes

    def _do(self, running: _Running, k: int) -> None:
        """A part of a run, when those that it waits for are done; whatever comes of it is told to those that wait."""
        try:
            for other in self.parts[k].after:
                running.done[other].result()
            found = self._made(k, self._inputs(running, k))
            for value in self.parts[k].values:
                array = found[value.name]
                running.values[value.name] = array
                for dim, extent in zip(value.shape, array.shape, strict=True):
                    if isinstance(dim, Expr) and str(dim) in symbols(dim):
                        running.sizes[str(dim)] = extent
            running.sizes.update({size: int(running.values[name]) for name, size in self.parts[k].holds})
        except BaseException as error:
            self._waiting[k] = max(self._waiting[k] - 1, 0)
            running.done[k].set_exception(error)
        else:
            self._waiting[k] = max(self._waiting[k] - 1, 0)
            running.done[k].set_result(None)

    def _inputs(self, running: _Running, k: int) -> NamedArrays:
        part, found = self.parts[k], {}
        for port in part.executable.program.inputs:
            if part.told is not None and port.name == part.told[0]:
                found[port.name] = np.zeros((*(running.sizes[name] for name in part.told[1]), 0), bool)
                continue
            found[port.name] = running.values[port.name]
            maker = self._makers.get(port.name)
            if (self.host if maker is None else self.parts[maker].device) != part.device:
                self.times[k].bytes += found[port.name].nbytes
        return found

    def _made(self, k: int, inputs: NamedArrays) -> NamedArrays:
        part, begun = self.parts[k], time.perf_counter()
        if part.device in self.lost:
            found = self._by_host(k).run(inputs)
        else:
            try:
                found = part.executable.run(inputs)
            except Exception as error:
                if part.device == self.host:
                    raise
                found = self._by_host(k).run(inputs)  # raises what is the inputs' fault
                self._lose(part.device, error)
        self.times[k].seconds += time.perf_counter() - begun
        self.times[k].runs += 1
        return found

    def _by_host(self, k: int) -> Executable:
        made = self._instead.get(k)
        return made or self._instead.setdefault(k, self.parts[k].on_host())

    def _lose(self, device: str, error: Exception) -> None:
        with self._guard:
            if device not in self.lost:
                self.lost.append(device)
                said = error if isinstance(error, MapstoError) else f"{type(error).__name__}: {error}"
                self._history.append(f"{device} failed and was taken out; its parts run on {self.host}: {said}")

    def _ended(self, running: _Running) -> NamedArrays:
        for done in running.done.values():
            done.result()
        found = {}
        for name in self.whole.outputs:
            array = running.values.get(name)
            found[name] = np.array(self.whole.constants[name] if array is None else array) if (
                array is None or name not in self._makers
            ) else array  # fmt: skip
        return found
