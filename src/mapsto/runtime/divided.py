"""One model on several devices: parts that run on lanes, one a device, each as soon as what it reads is there.

A lane gets a part when it can be done (`runtime.division_run`), and of several the one of the earliest run: no lane
waits for another one while there is anything to do, and nothing can wait in a circle.

A device that fails is taken out: the part is done on the host, with the same inputs, as are all parts that were the
device's from then on; `report` says so. What the host refuses as well is the model's, or the inputs', fault.

An input that is updated in place is read by all parts as it was given: its new content is computed beside it, and
copied there when all parts have ended. Until then a run that fails has changed nothing; and the copies of all such
inputs are one step, within which no signal is handled.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, repeat
from operator import setitem
from typing import TYPE_CHECKING, Any

import numpy as np

from mapsto.arguments import brief, integer, text_of
from mapsto.boundary import public
from mapsto.errors import ArgumentError, ShapeError
from mapsto.ir.expr import Expr, evaluate, symbols
from mapsto.runtime.arrays import readable
from mapsto.runtime.division_run import DivisionRun
from mapsto.runtime.divisions import CurrentDivision, DividedPart, Division, PartTime, Replanning, Whole
from mapsto.runtime.executable import Executable, Overriding
from mapsto.runtime.lanes import DeviceThread
from mapsto.runtime.program import Port
from mapsto.runtime.redividing import Redividing
from mapsto.runtime.sizing import require_own_memory

if TYPE_CHECKING:
    from mapsto.ir.graph import Value
    from mapsto.plan.division import Alternative, DividedPlan, PlacedWork

NamedArrays = dict[str, np.ndarray]
# Runs of a stream that are begun before the first of them has ended: as many as there are parts, within these.
_FEWEST, _MOST = 2, 6


class DividedExecutable:
    """Runs a model whose parts are on several devices. May be called from several threads at once.

    `run`, and calling it, are as an `Executable`'s are; `stream` keeps several runs going at a time.
    """

    def __init__(
        self, whole: Whole, division: Division, devices: Sequence[str], replanning: Replanning | None = None,
        notes: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """devices: the first is the host, whose parts the caller's own thread does. replanning: None: the division
        stays as it is, however long its parts take. notes: what is to be said of it, which `report` does.
        """
        self.whole, self.devices, self.host = whole, tuple(devices), devices[0]
        self._numbers = count()
        self.notes = tuple(notes)
        self.overriding: Overriding[DividedExecutable] | None = None  # initializers that a run may give as well
        self.costs: Callable[[DividedPlan, PlacedWork], list[Alternative]] | None = None  # None: as the plan has them
        self._lanes = {device: DeviceThread(device) for device in devices}
        self._redividing = Redividing(division, self.devices, self._lanes, replanning, self.notes)

    @property
    def _current(self) -> CurrentDivision:
        return self._redividing.current

    @property
    def lost(self) -> list[str]:
        """Devices that failed and were taken out."""
        return self._redividing.lost

    @property
    def inputs(self) -> Sequence[Value]:
        """What a run takes, in order."""
        return self.whole.inputs

    @property
    def parts(self) -> tuple[DividedPart, ...]:
        """Those of the next run."""
        return self._current.parts

    @property
    def plan_text(self) -> str:
        """Where each work is, what it would take elsewhere, and the plan of each part, as text: `mapsto.divide` does it
        again (`plan`). "" where seats were given.
        """
        return self._current.division.plan_text

    @property
    @public
    def plan(self) -> DividedPlan:
        """What `plan_text` says. Raises ParseError where seats were given."""
        from mapsto.plan.division_text import parse_division

        return parse_division(self.plan_text)

    @public
    def alternatives(self, name: str) -> list[Alternative]:
        """The works that have a node of this name (of the source model, or by what it yields), on each device: what
        they would take there, and what that would have cost the whole. Empty: nothing that is placed has the name.
        """
        from mapsto.plan.division_costs import as_planned

        plan = self.plan
        costs = self.costs or as_planned
        return [each for work in plan.works_of(text_of(name, "the name of a node")) for each in costs(plan, work)]

    @public
    def explain(self, name: str) -> str:
        """Why a node (by the source model's name or by a value it yields) is where it is: the alternatives, and what
        the plan of its part says. Raises MapstoError where nothing has that name.
        """
        from mapsto.plan.division_costs import explained

        return explained(self.plan, name, self.alternatives(name))

    @property
    def times(self) -> list[PartTime]:
        """Of each of the parts."""
        return self._current.times

    @public
    def run(self, inputs: Mapping[str, Any]) -> NamedArrays:
        """Outputs by name for inputs by name. Raises ShapeError for inputs that do not fit, ExecutionError where the
        run fails.
        """
        other = self._overridden(inputs)
        if other is not None:
            return other.run(inputs)
        running = self._begun(inputs, False)
        try:
            for k in running.first():
                self._ready(running, k, True)
            for k in running.given():
                self._do(running, k, True)
            return self._ended(running)
        except BaseException as error:  # whatever comes between (Ctrl-C): no lane begins what nobody waits for
            running.stop(error)
            raise

    @public
    def __call__(self, *inputs: Any) -> Any:
        """The only output, or a tuple of all, for the inputs in order."""
        if len(inputs) != len(self.whole.inputs):
            raise ShapeError(f"{self.whole.name} takes {len(self.whole.inputs)} inputs, got {len(inputs)}")
        found = self.run({value.name: each for value, each in zip(self.whole.inputs, inputs, strict=True)})
        results = tuple(found[name] for name in self.whole.outputs)
        return results[0] if len(results) == 1 else results

    @public
    def stream(self, inputs: Iterable[Mapping[str, Any]], ahead: int | None = None) -> Iterator[NamedArrays]:
        """Outputs by name for each of many inputs, in their order; while the last parts of one are done, the first of
        the next are. ahead: how many are begun at a time, beside the one that is waited for (None: by the number of
        parts); none where inputs are updated in place, which the next run reads.
        """
        count = max(_FEWEST, min(len(self.parts), _MOST)) if ahead is None else integer(ahead)
        if count is None or count < 0:
            raise ArgumentError(f"ahead: {brief(ahead)} is no number of runs")
        if isinstance(inputs, Mapping) or not isinstance(inputs, Iterable):
            raise ArgumentError(f"inputs: expected dicts of inputs by name, one after the other, got {brief(inputs)}")
        return self._streamed(inputs, count)

    def _streamed(self, inputs: Iterable[Mapping[str, Any]], ahead: int) -> Iterator[NamedArrays]:
        going: deque[DivisionRun] = deque()
        ahead = 0 if self.whole.updates else ahead * max(len(self._current.division.copies), 1)
        for each in inputs:
            running = self._begun(each, True)
            going.append(running)
            for k in running.first():
                self._ready(running, k, False)
            if len(going) > ahead:
                yield self._ended(going.popleft())
        while going:
            yield self._ended(going.popleft())

    @public
    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one file from which `mapsto.load` makes this executable again, as it is divided now: whole, or not at
        all. Each part of a device other than the host is compiled for the host as well, which stands in for it where
        the device fails or is not to be had. Loaded, it stays as it is (`adapt`), and takes no initializers.

        Raises FileError where it cannot be written, ModelError for sizes that cannot be saved, UnsupportedError for
        code of a device that cannot be saved: then `plan_text` and the model are what gives the same again.
        """
        from mapsto.runtime import division_file

        division_file.save(path, self.whole, self._current.division, self.devices)

    @public
    def report(self) -> str:
        """Parts, what their runs took, bytes that were moved for them, and what happened to devices."""
        lines = []
        current = self._current
        for part, spent in zip(current.parts, current.times, strict=True):
            count = max(spent.runs, 1)
            mean = f"{spent.seconds / count * 1e3:.3f} ms in the mean of {spent.runs} runs" if spent.runs else "not run"
            moved = f", {spent.bytes // count:,} bytes from other devices" if spent.bytes else ""
            lines.append(f"{part.name} on {part.device}: {mean}{moved}")
        if current.division.joules is not None:
            lines.append(f"{current.division.joules:.3g} J a run (modelled)")
        return "\n".join([*lines, *self._redividing.history])

    def _ready(self, running: DivisionRun, k: int, is_awaited: bool) -> None:
        """A part can be done. is_awaited: who called `run` does the host's parts."""
        device = running.of.parts[k].device
        if is_awaited and device == self.host:
            running.give(k)
            return
        running.of.put(k)

        def task() -> None:
            try:
                self._do(running, k, is_awaited)
            finally:
                running.of.ended(k)

        self._lanes[device].put(task, (running.number, k))

    def _chosen(self, current: CurrentDivision, of_stream: bool) -> Sequence[int]:
        """The parts that a run does: of copies, the one that will be done first with one run more; each is tried."""
        copies = current.division.copies
        if not copies:
            return range(len(current.parts))
        if not of_stream:
            return copies[:1]
        times = current.times
        return [min(copies, key=lambda k: (current.waiting[k] + 1) * times[k].seconds / max(times[k].runs, 1))]

    # ---- one run -----------------------------------------------------------------------------------------------------

    def _begun(self, inputs: Mapping[str, Any], of_stream: bool) -> DivisionRun:
        if not isinstance(inputs, Mapping):
            raise ArgumentError(f"inputs: expected a dict by name, got {brief(inputs)}")
        names = [value.name for value in self.whole.inputs]
        if set(inputs) != set(names):
            given = ", ".join(map(str, inputs)) or "none"
            if of_stream and self._overridden(inputs) is not None:
                raise ShapeError(f"inputs of {self.whole.name}: initializers are given to `run`, not to a stream; "
                                 f"got {given}")  # fmt: skip
            raise ShapeError(f"inputs of {self.whole.name}: it takes {', '.join(names) or 'none'}; got {given}")
        ports = [Port(value.name, value.dtype, value.shape, 0) for value in self.whole.inputs]
        updated = dict(self.whole.updates)
        values = {port.name: readable(port, inputs[port.name], port.name in updated) for port in ports}
        require_own_memory(ports, list(values.values()), {i for i, port in enumerate(ports) if port.name in updated})
        if of_stream:  # whoever gives the next input may refill the array of the last one, whose run may not have begun
            values = {name: array if name in updated else np.array(array) for name, array in values.items()}
        sizes = self._sizes(values)
        current = self._redividing.switched()
        return DivisionRun(next(self._numbers), current, values, sizes, self._chosen(current, of_stream))

    def _overridden(self, inputs: Mapping[str, Any]) -> DividedExecutable | None:
        """The executable that takes the initializers among these inputs; None: there are none among them."""
        if self.overriding is None or not isinstance(inputs, Mapping):
            return None
        given = frozenset(inputs) - {value.name for value in self.whole.inputs}
        return self.overriding.executable(given) if given and given <= self.overriding.names else None

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

    def _do(self, running: DivisionRun, k: int, is_awaited: bool) -> None:
        """A part of a run, and what can be done after it; whatever comes of it is told to who waits for the run."""
        if running.is_stopped:
            return
        try:
            found = self._made(running.of, k, self._inputs(running, k))
            for value in running.of.parts[k].values:
                array = found[value.name]
                running.values[value.name] = array
                for dim, extent in zip(value.shape, array.shape, strict=True):
                    if isinstance(dim, Expr) and str(dim) in symbols(dim):
                        running.sizes[str(dim)] = extent
            running.sizes.update({size: int(running.values[name].item()) for name, size in running.of.parts[k].holds})
            for other in running.done(k):
                self._ready(running, other, is_awaited)
        except BaseException as error:
            running.stop(error)

    def _inputs(self, running: DivisionRun, k: int) -> NamedArrays:
        part, found = running.of.parts[k], {}
        for port in part.executable.program.inputs:
            if port.name in part.told:
                found[port.name] = np.zeros((running.sizes[part.told[port.name]], 0), bool)
                continue
            found[port.name] = running.values[port.name]
            maker = running.of.makers.get(port.name)
            if (self.host if maker is None else running.of.parts[maker].device) != part.device:
                running.of.brought(k, found[port.name].nbytes)
        return found

    def _made(self, current: CurrentDivision, k: int, inputs: NamedArrays) -> NamedArrays:
        part, begun = current.parts[k], time.perf_counter()
        if part.device in self.lost:
            found = self._by_host(current, k).run(inputs)
        else:
            try:
                found = part.executable.run(inputs)
            except Exception as error:
                if part.device == self.host:
                    raise
                found = self._by_host(current, k).run(inputs)  # raises what is the inputs' fault
                self._redividing.lose(part.device, error)
        current.ran(k, time.perf_counter() - begun, not self._redividing.is_making)
        return found

    def _by_host(self, current: CurrentDivision, k: int) -> Executable:
        made = current.instead.get(k)
        return made or current.instead.setdefault(k, current.parts[k].on_host())

    def _ended(self, running: DivisionRun) -> NamedArrays:
        try:
            running.result()
        except BaseException:
            running.values.clear()  # what the error's frames hold on to
            raise
        found = {}
        for name in self.whole.outputs:
            array = running.values.get(name)
            if array is None:
                array = np.array(self.whole.constants[name])
            found[name] = array if name in running.of.makers else np.array(array)  # an input is not given away
        self._update(running, found)
        self._redividing.look(running.of)
        return found

    def _update(self, running: DivisionRun, found: NamedArrays) -> None:
        """New contents to the inputs that outputs take over, and these arrays in place of the outputs."""
        pairs = self.whole.updates
        arrays = [running.values[source] for source, _ in pairs]
        # All in one call of native code: signal handlers, which may raise, run before it or after it.
        put: Callable[..., None] = setitem
        deque(map(put, arrays, repeat(Ellipsis), [found[output] for _, output in pairs]), maxlen=0)
        found.update((output, array) for (_, output), array in zip(pairs, arrays, strict=True))
