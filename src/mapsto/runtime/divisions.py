"""What a model on several devices is made of: its parts, what changes them while it runs, and what their runs took."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np

from mapsto.ir.graph import Value
from mapsto.runtime.adapting import Lately
from mapsto.runtime.executable import Executable

_BESIDE = 3  # runs that are looked back on while something is made
_FIRST = 2  # runs of a part that touch memory for the first time


@dataclass(frozen=True)
class DividedPart:
    """executable: on its device. on_host: makes one of the same part for the host. after: parts that it waits for.
    told: sizes that are to be told, by the inputs whose shapes hold them. values: what it yields, as declared. holds:
    (a scalar among them or among the inputs of the whole, the size that it is). makes: all that it computes.
    """

    name: str
    device: str
    executable: Executable
    on_host: Callable[[], Executable]
    after: tuple[int, ...]
    told: Mapping[str, str]
    values: tuple[Value, ...]
    holds: tuple[tuple[str, str], ...] = ()
    makes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Whole:
    """The model: its inputs and outputs, and constants among these. updates: inputs, and the outputs that take over
    their memory.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, np.ndarray]
    updates: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Division:
    """Parts of a model. plan_text: where each work is, and why. copies: parts that are all of the model, each on a
    device of its own: a run is done by the first, and those of a stream by whichever will be done first. predicted:
    seconds of each part, as the devices' makers say (empty: nothing was predicted). joules: of a run, modelled; None:
    nobody asked for them.
    """

    parts: tuple[DividedPart, ...]
    plan_text: str = ""
    copies: tuple[int, ...] = ()
    predicted: tuple[float, ...] = ()
    joules: float | None = None


@dataclass(frozen=True)
class Replanning:
    """What a division is changed by while it runs; of devices, it says how many times what they did at first they take.

    learn: what parts that ran take, beside what was predicted for them. ready: the best division whose code is there,
    which is then taken for the present one. best: makes the best one there is. Both: None where it is not much better.
    prepare: makes code for what may come. probes: for each device, how many times as long something small takes as when
    it was first tried; quietly: around a probe, while something is made, which rests for it.
    """

    learn: Callable[[Mapping[str, float], Sequence[tuple[DividedPart, float]]], None]
    ready: Callable[[Mapping[str, float]], Division | None]
    best: Callable[[Mapping[str, float]], Division | None]
    prepare: Callable[[], None]
    probes: Mapping[str, Callable[[], float]]
    quietly: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass
class PartTime:
    """Seconds of all runs of a part, how many they were, and bytes that came from another device. lately: of runs that
    had the devices for themselves; beside: of those beside which something was made.
    """

    seconds: float = 0.0
    runs: int = 0
    bytes: int = 0
    lately: Lately = field(default_factory=Lately)
    beside: Lately = field(default_factory=lambda: Lately(_BESIDE))


class CurrentDivision:
    """A division, and what is known of its runs. waits_for: of each part, how many others it waits for; followers:
    those that wait for it. Of parts on one device, each waits for the one before it, unless they are copies.
    """

    def __init__(self, division: Division) -> None:
        self.division, self.parts = division, division.parts
        self.times = [PartTime() for _ in self.parts]
        self.waiting = [0] * len(self.parts)  # runs that were put on a lane and have not ended
        self.waits_for, self.followers = _waiting(self.parts, bool(division.copies))
        self.makers = {v.name: k for k, part in enumerate(self.parts) for v in part.values}
        self.instead: dict[int, Executable] = {}
        self._guard = threading.RLock()  # a signal handler may run the model while its thread holds it

    def put(self, k: int) -> None:
        """A run of a part was put on a lane."""
        with self._guard:
            self.waiting[k] += 1

    def ended(self, k: int) -> None:
        """A run of a part has ended, on a lane or not."""
        with self._guard:
            self.waiting[k] = max(self.waiting[k] - 1, 0)

    def brought(self, k: int, count: int) -> None:
        """Bytes were moved to a part from another device."""
        with self._guard:
            self.times[k].bytes += count

    def ran(self, k: int, seconds: float, is_usual: bool) -> None:
        """is_usual: nothing else that is made meanwhile takes time of all devices."""
        with self._guard:
            spent = self.times[k]
            spent.seconds += seconds
            spent.runs += 1
            if spent.runs > _FIRST:
                (spent.lately if is_usual else spent.beside).add(seconds)

    def took(self) -> list[tuple[DividedPart, float]]:
        """Parts that ran, and how many times as long as predicted they took lately."""
        each = zip(self.parts, self.times, self.division.predicted, strict=False)
        return [(part, spent.lately.seconds / predicted) for part, spent, predicted in each
                if spent.lately.seconds > 0 and predicted > 0]  # fmt: skip

    def spent(self) -> dict[str, tuple[float, float]]:
        """(seconds lately, predicted) of each device's parts that ran."""
        return self._by_device([spent.lately.seconds for spent in self.times])

    def spent_beside(self) -> dict[str, tuple[float, float]]:
        """The same of runs beside which something was made."""
        return self._by_device([spent.beside.seconds for spent in self.times])

    def _by_device(self, seconds: Sequence[float]) -> dict[str, tuple[float, float]]:
        found: dict[str, tuple[float, float]] = {}
        for k, (part, predicted) in enumerate(zip(self.parts, self.division.predicted, strict=False)):
            if self.times[k].runs:
                lately, before = found.get(part.device, (0.0, 0.0))
                found[part.device] = (lately + seconds[k], before + predicted)
        return found


def _waiting(parts: Sequence[DividedPart], are_copies: bool) -> tuple[list[int], list[list[int]]]:
    counts: list[int] = []
    followers: list[list[int]] = [[] for _ in parts]
    last: dict[str, int] = {}
    for k, part in enumerate(parts):
        before = {*part.after}
        if part.device in last and not are_copies:
            before.add(last[part.device])
        last[part.device] = k
        counts.append(len(before))
        for other in sorted(before):
            followers[other].append(k)
    return counts, followers
