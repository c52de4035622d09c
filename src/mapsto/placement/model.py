"""The execution model: what works take on several devices at once, as a function of their seats alone.

1. A device runs its works one at a time, in program order.
2. A value is moved to a device once, from where it was made, for the first work in program order that reads it there;
   the copy is kept.
3. Transfers over one bus are made one at a time, in the order of the works that they are for, and for one work in the
   order of its operands. A device that makes its transfers itself does so in place of its works, in the same order.
4. A transfer begins when the value is made and its bus is free; a work when its device is free and its operands lie
   there. Transfers over a bus go on while devices compute. A device for one of whose works something was moved takes a
   while to begin with it, when all of its operands are there.
5. Inputs lie on the host at time 0. In the end, outputs are moved to the host, in their order, and it takes a while to
   go on with them.
6. A device holds the constants of all its works, and each value that lies there until the last work that reads it,
   wherever that is, is done. Where that is more than it may, the assignment cannot be.

A *stream* of runs that follow one another as soon as there is room takes, for each, what its slowest stage takes: the
device or bus that is busy the longest. There rules 1 and 4 say nothing: what waits belongs to an earlier run. The same
holds for energy, where the figures are joules and all of them add up.

Program order, and not whatever happens to be ready first, decides in rules 1 and 3: a run can follow it without
deciding anything, and no delay on one device changes what another one does next.

`Runs` is these rules, for many runs at once; whoever asks what an assignment takes goes through it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mapsto.budget import current
from mapsto.placement.problem import HOST, Assignment, PlacementProblem

Figures = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Event:
    """A work on a device, or a transfer (`value`, from `source` to `device`), over a bus or `by` a device."""

    begin: float
    end: float
    device: int
    work: int | None = None
    value: int | None = None
    source: int | None = None
    bus: int | None = None
    by: int | None = None


class Runs:
    """Runs of one problem that have got as far as the same work, one a row.

    free: [run, device], buses: [run, bus], when each is free. there: [run, live value, device], since when it lies
    there; inf: it does not. made: [run, live value], the device that made it. held: [run, device], bytes of constants.
    ended: [run], the end of all so far; inf: it cannot be. live: the values that are still to be read. In a stream,
    and for energy, free and buses are what each has had to do, and what lies somewhere does so from 0 on.
    """

    def __init__(self, problem: PlacementProblem, count: int, tell: Callable[[Event], None] | None = None) -> None:
        """tell: gets the events of a single run, in the order in which they are decided."""
        self.problem, self.tell = problem, tell
        self.next = 0
        self.last = {v: ks[-1] for v, ks in problem.readers.items()} | dict.fromkeys(problem.outputs, math.inf)
        self.live = [v for v in range(len(problem.values)) if v not in problem.writer and v in self.last]
        self.free = np.zeros((count, len(problem.devices)))
        self.buses = np.zeros((count, problem.buses))
        self.there = np.full((count, len(self.live), len(problem.devices)), math.inf)
        self.there[:, :, HOST] = 0.0
        self.made = np.full((count, len(self.live)), HOST, np.intp)
        self.held = np.zeros((count, len(problem.devices)))
        self.ended = np.zeros(count)
        self.is_stream = problem.objective != "latency"
        self.adds_up = problem.objective == "energy"

    def __len__(self) -> int:
        return len(self.free)

    def chosen(self, rows: Indices) -> Runs:
        """Some of the runs, each as often as it is named."""
        other = object.__new__(Runs)
        other.__dict__.update(self.__dict__)
        other.live = list(self.live)
        for name in ("free", "buses", "there", "made", "held", "ended"):
            setattr(other, name, getattr(self, name)[rows])
        return other

    def advance(self, devices: Indices) -> Figures:
        """The next work, on a device for each run; its ends."""
        k, work = self.next, self.problem.works[self.next]
        current().tick("placing works")
        rows = np.arange(len(self))
        there, waits = self._operands(work.reads, devices)
        begin = np.maximum(self.free[rows, devices], there) + waits
        end = begin + np.array(work.seconds)[devices]
        self.free[rows, devices] = end
        self.ended = np.maximum(self.ended, end)
        if self.tell is not None:
            self.tell(Event(float(begin[0]), float(end[0]), int(devices[0]), work=k))
        self._add(work.writes, devices, np.zeros(len(self)) if self.is_stream else end)
        self.held[rows, devices] += work.holds
        self._see_memory()
        self._drop()
        self.next += 1
        return np.asarray(end)

    def _see_memory(self) -> None:
        if self.problem.memory:
            count = np.array([self.problem.values[v] for v in self.live])
            taken = self.held + (np.isfinite(self.there) * count[:, None]).sum(axis=1)
            self.ended[(taken > np.array(self.problem.memory)).any(axis=1)] = math.inf

    def finish(self) -> Figures:
        """The outputs moved to the host; what each run took in all."""
        host = np.full(len(self), HOST, np.intp)
        there, waits = self._operands(self.problem.outputs, host)
        self.ended = np.maximum(self.ended, there + waits)
        if self.is_stream:
            self.free[:, HOST] += waits
            self.ended = np.maximum(self.ended, self.free.max(axis=1))
        self._see_memory()
        if self.adds_up:
            self.ended = np.where(np.isinf(self.ended), math.inf, self.spent())
        return self.ended

    def spent(self) -> Figures:
        """What all devices and buses of each run have had to do."""
        return np.asarray(self.free.sum(axis=1) + self.buses.sum(axis=1))

    def _operands(self, values: Sequence[int], devices: Indices) -> tuple[Figures, Figures]:
        """Since when all of them lie on a device of each run, and how long it takes to begin with them."""
        since, moved = np.zeros(len(self)), np.zeros(len(self), bool)
        for value in values:
            there, missing = self._brought(value, devices)
            since, moved = np.maximum(since, there), moved | missing
        begins = np.array(self.problem.begins or (0.0,) * len(self.problem.devices))
        return since, np.where(moved, begins[devices], 0.0)

    def _brought(self, value: int, devices: Indices) -> tuple[Figures, npt.NDArray[np.bool_]]:
        """Since when a value lies on a device of each run, moved there where it has to be; and where it had to."""
        column = self.live.index(value)
        rows = np.arange(len(self))
        missing = np.isinf(self.there[rows, column, devices])
        if missing.any():
            self._move(value, column, devices, np.flatnonzero(missing))
        return np.asarray(self.there[rows, column, devices]), missing

    def _move(self, value: int, column: int, devices: Indices, rows: Indices) -> None:
        sources = self.made[rows, column]
        for (source, device), link in self.problem.links.items():
            chosen = rows[(sources == source) & (devices[rows] == device)]
            if not len(chosen):
                continue
            clock, at = (self.buses, link.bus) if link.by is None else (self.free, link.by)
            begin = np.maximum(self.there[chosen, column, source], clock[chosen, at])
            end = begin + link.seconds(self.problem.values[value])
            clock[chosen, at] = end
            self.there[chosen, column, device] = 0.0 if self.is_stream else end
            self.ended[chosen] = np.maximum(self.ended[chosen], end)
            if self.tell is not None:
                bus = link.bus if link.by is None else None
                self.tell(Event(float(begin[0]), float(end[0]), device, None, value, source, bus, link.by))

    def _add(self, new: Sequence[int], devices: Indices, since: Figures) -> None:
        """Values that were made, on a device of each run."""
        there = np.full((len(self), len(new), len(self.problem.devices)), math.inf)
        there[np.arange(len(self)), :, devices] = since[:, None]
        self.there = np.concatenate([self.there, there], axis=1)
        self.made = np.concatenate([self.made, np.repeat(devices[:, None], len(new), axis=1)], axis=1)
        self.live = [*self.live, *new]

    def _drop(self) -> None:
        """What nobody reads after the present work."""
        kept = [i for i, v in enumerate(self.live) if self.last.get(v, -1) > self.next]
        self.there, self.made = self.there[:, kept], self.made[:, kept]
        self.live = [self.live[i] for i in kept]


def timeline(problem: PlacementProblem, seats: Assignment) -> list[Event]:
    """All works and transfers, in the order in which they are decided."""
    found: list[Event] = []
    _run(problem, np.array([seats], np.intp).reshape(1, -1), found.append)
    return found


def latency(problem: PlacementProblem, seats: Assignment) -> float:
    """What the problem's objective says of an assignment: seconds until the last output is on the host, or of the
    slowest stage. inf: a work cannot run where it is, a value cannot get there, or there is not enough memory.
    """
    return float(latencies(problem, np.array([seats], np.intp).reshape(1, -1))[0])


def latencies(problem: PlacementProblem, seats: Indices) -> Figures:
    """The same of many assignments, one a row."""
    return _run(problem, seats, None)


def _run(problem: PlacementProblem, seats: Indices, tell: Callable[[Event], None] | None) -> Figures:
    runs = Runs(problem, len(seats), tell)
    for k in range(len(problem.works)):
        runs.advance(seats[:, k])
    return runs.finish()
