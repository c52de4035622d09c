"""What is placed: works in program order, the values that pass between them, devices, and the buses that values are
moved over. Figures alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

HOST = 0  # the device that inputs come from and outputs go to
CLOSE = 1e-9  # relative: what is not better by more is no better
OBJECTIVES = ("latency", "throughput", "energy")
"""What is to be least: the seconds of one run; those of the slowest stage of a stream of runs (a device, or a bus); or
the sum over all works and transfers, whose figures are joules then.
"""
PLACERS = ("greedy", "heft", "exact", "exhaustive")
"""How seats are found: "exact" is the one to use, the others are there to compare with."""


@dataclass(frozen=True)
class Job:
    """seconds: on each device; inf where it cannot run there. reads, writes: values by their index. holds: bytes of
    constants that lie on its device all the time.
    """

    name: str
    seconds: tuple[float, ...]
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    holds: float = 0.0


@dataclass(frozen=True)
class Route:
    """From one device to another: a transfer takes `latency` + bytes / `bandwidth` seconds. Over the links of one `bus`
    they are made one at a time. by: a device that makes them itself, and does nothing else meanwhile; None: the bus.
    """

    bus: int
    latency: float
    bandwidth: float
    by: int | None = None

    def seconds(self, count: float) -> float:
        return self.latency + count / self.bandwidth


@dataclass(frozen=True)
class PlacementProblem:
    """devices: their names, the host first. works: in program order, each after those whose values it reads. values:
    bytes of each; one that no work writes is an input, which lies on the host from the beginning. outputs: values that
    are on the host in the end. links: by (from, to); two devices without one cannot pass values on (they may pass them
    on by way of the host, which a problem says by a link of what that takes). memory: bytes that may be taken of each
    device (empty: of all as much as is wanted). begins: seconds of each device until it goes on with what was moved to
    it (empty: none of any).

    Raises ValueError for figures that are NaN or negative, a work that runs nowhere, an order in which something is
    read before it is written, two writers of one value, and indices of nothing.
    """

    devices: tuple[str, ...]
    works: tuple[Job, ...]
    values: tuple[float, ...]
    outputs: tuple[int, ...]
    links: Mapping[tuple[int, int], Route]
    objective: str = "latency"
    memory: tuple[float, ...] = ()
    begins: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.devices:
            raise ValueError("no device")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective {self.objective!r}; there are {', '.join(OBJECTIVES)}")
        if self.memory and (len(self.memory) != len(self.devices) or not all(limit >= 0 for limit in self.memory)):
            raise ValueError(f"limits of memory {self.memory} for {len(self.devices)} devices")
        if self.begins and (len(self.begins) != len(self.devices) or not all(s >= 0 for s in self.begins)):
            raise ValueError(f"devices begin after {self.begins} seconds, {len(self.devices)} devices")
        for (a, b), link in self.links.items():
            if not (0 <= a < len(self.devices) and 0 <= b < len(self.devices) and a != b and link.bus >= 0):
                raise ValueError(f"a link from {a} to {b} on bus {link.bus}")
            if link.by is not None and link.by not in (a, b):
                raise ValueError(f"a link from {a} to {b} whose transfers device {link.by} makes")
            if not (link.latency >= 0 and link.bandwidth > 0):
                raise ValueError(f"a link of latency {link.latency} and bandwidth {link.bandwidth}")
        if not all(count >= 0 for count in self.values):
            raise ValueError("a value has a negative number of bytes")
        self._check_works()

    def _check_works(self) -> None:
        written: set[int] = set()
        every = {v for work in self.works for v in work.writes}
        for work in self.works:
            if len(work.seconds) != len(self.devices) or not all(s >= 0 for s in work.seconds):
                raise ValueError(f"{work.name}: seconds {work.seconds} on {len(self.devices)} devices")
            if not work.holds >= 0:
                raise ValueError(f"{work.name} holds {work.holds} bytes")
            if min(work.seconds) == math.inf:
                raise ValueError(f"{work.name} runs on no device")
            for v in (*work.reads, *work.writes):
                if not 0 <= v < len(self.values):
                    raise ValueError(f"{work.name}: there is no value {v}")
            if missing := [v for v in work.reads if v in every and v not in written]:
                raise ValueError(f"{work.name} reads value {missing[0]} before it is written")
            if written.intersection(work.writes) or len(set(work.writes)) != len(work.writes):
                raise ValueError(f"{work.name} writes what is written already")
            written.update(work.writes)
        if any(not 0 <= v < len(self.values) for v in self.outputs):
            raise ValueError("an output is no value")

    @cached_property
    def writer(self) -> dict[int, int]:
        """The work that writes a value; inputs have none."""
        return {v: k for k, work in enumerate(self.works) for v in work.writes}

    @cached_property
    def readers(self) -> dict[int, tuple[int, ...]]:
        """The works that read a value, in program order."""
        found: dict[int, list[int]] = {}
        for k, work in enumerate(self.works):
            for v in dict.fromkeys(work.reads):
                found.setdefault(v, []).append(k)
        return {v: tuple(ks) for v, ks in found.items()}

    @cached_property
    def buses(self) -> int:
        return 1 + max((link.bus for link in self.links.values()), default=-1)

    def move(self, value: int, a: int, b: int) -> float:
        """Seconds from a value's being made on a device until another one goes on with it; 0 on the same one."""
        if a == b:
            return 0.0
        link = self.links.get((a, b))
        return math.inf if link is None else link.seconds(self.values[value]) + (self.begins[b] if self.begins else 0.0)

    def moves(self, value: int) -> npt.NDArray[np.float64]:
        """The same from each device (rows) to each."""
        count = range(len(self.devices))
        return np.array([[self.move(value, a, b) for b in count] for a in count])


Assignment = Sequence[int]
"""The device of each work, in program order."""
