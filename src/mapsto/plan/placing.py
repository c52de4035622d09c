"""A mapped graph as a problem of placement: what each of its works would take on each of several devices, and the
values that pass between them.

Works are those that were joined for the first device; each other device is asked what the same works take there, with
operands that lie as the first one has them. A region (a branch, a loop) is one work of the host, which reads its
condition; its dearest arm counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from mapsto.machine.spec import Machine
from mapsto.placement.problem import HOST, Job, PlacementProblem, Route
from mapsto.plan.asked import Asked, Quote
from mapsto.plan.forecast import forecast
from mapsto.plan.items import Branches, Control, Item, View, reads_of, targets_of, tasks
from mapsto.plan.mapped import Mapped
from mapsto.plan.patterns import Sizes, extent
from mapsto.plan.prices import Prices


def placement_problem(
    mapped: Mapped,
    devices: Sequence[Asked],
    machine: Machine,
    objective: str = "latency",
    memory: Mapping[str, float] | None = None,
) -> PlacementProblem:
    """devices: those of the machine that are to be used, the one that `mapped` was decided for first. memory: bytes
    that may be taken, by device. Both directions between two devices are one bus.
    """
    return _Placing(mapped, devices, machine).problem(objective, memory or {})


class _Placing:
    def __init__(self, mapped: Mapped, devices: Sequence[Asked], machine: Machine) -> None:
        assert mapped.basis is not None, "a plan that is replayed has no costs"
        self.mapped, self.devices, self.machine = mapped, devices, machine
        self.sizes = Sizes(dict(mapped.basis.sizes))
        self.constants = {*mapped.graph.constants, *(n for task in tasks(mapped.items) for n in task.constants)}
        self.made: dict[str, frozenset[str]] = {v.name: frozenset({v.name}) for v in mapped.graph.inputs}
        self.numbers: dict[str, int] = {}
        self.seconds = [self._seconds(asked) for asked in devices]

    def problem(self, objective: str, memory: Mapping[str, float]) -> PlacementProblem:
        works = list(self._works(self.mapped.items))
        outputs = [n for name in self.mapped.graph.outputs for n in self._values([self._place(name)])]
        values = [self._bytes(name) for name in self.numbers]
        names = tuple(asked.name for asked in self.devices)
        limits = tuple(memory.get(name, math.inf) for name in names) if memory else ()
        return PlacementProblem(
            names, tuple(works), tuple(values), tuple(dict.fromkeys(outputs)), self._links(), objective, limits
        )

    def _place(self, output: str) -> str:
        return self.mapped.places.get(output, output)

    def _seconds(self, asked: Asked) -> dict[str, float]:
        """What a device says of each task, by its name."""
        prices = Prices(asked, self.sizes)
        return {
            task.name: next((q.cost.seconds for q in quotes if isinstance(q, Quote)), math.inf)
            for task, quotes in forecast(self.mapped.items, self.mapped.homes, prices)
        }

    def _works(self, items: Sequence[Item]) -> Iterator[Job]:
        for item in items:
            if isinstance(item, Control):
                continue
            if isinstance(item, View):
                self.made[item.value] = frozenset().union(*(self._of(name) for name in item.of))
                continue
            reads = self._values(sorted(reads_of(item)))
            held = sum(self._bytes(name) for name in reads_of(item) if name in self.constants)
            targets = [name for name in targets_of(item) if name in self.mapped.homes]
            self.made.update({name: frozenset({name}) for name in targets})
            seconds = tuple(self._takes(item, d) for d in range(len(self.devices)))
            yield Job(item.name, seconds, tuple(reads), tuple(self._values(targets)), held)

    def _takes(self, item: Item, device: int) -> float:
        if isinstance(item, Branches):
            if device != HOST:
                return math.inf
            return max(math.fsum(self._takes(i, device) for i in arm) for arm in item.arms)
        if isinstance(item, View | Control):
            return 0.0
        return self.seconds[device][item.name]

    def _of(self, name: str) -> frozenset[str]:
        """What a value is made of: itself, or what it is a view of; constants are everywhere."""
        return frozenset() if name in self.constants else self.made.get(name, frozenset({name}))

    def _values(self, names: Sequence[str]) -> list[int]:
        bases = [base for name in names for base in sorted(self._of(name))]
        return [self.numbers.setdefault(base, len(self.numbers)) for base in dict.fromkeys(bases)]

    def _bytes(self, name: str) -> float:
        home = self.mapped.homes.get(name)
        if home is None:
            return 0.0
        return float(math.prod(extent(d, self.sizes) for d in home.layout.shape) * home.dtype.size)

    def _links(self) -> dict[tuple[int, int], Route]:
        found: dict[tuple[int, int], Route] = {}
        buses: dict[frozenset[int], int] = {}
        for a, source in enumerate(self.devices):
            for b, target in enumerate(self.devices):
                link = self.machine.link(source.name, target.name) if a != b else None
                if link is not None:
                    bus = buses.setdefault(frozenset((a, b)), len(buses))
                    found[a, b] = Route(bus, link.latency, link.bytes)
        return found
