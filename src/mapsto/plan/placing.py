"""A mapped graph as a problem of placement: what each of its works would take on each of several devices, and the
values that pass between them.

Works are those that were joined for the first device; each other device is asked what the same works take there, with
operands that lie as the first one has them. A region (a branch, a loop) is one work of the host, which reads its
condition; its dearest arm counts.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mapsto.errors import ArgumentError
from mapsto.machine.cost import Parts, parts, price, working_joules
from mapsto.machine.spec import DeviceSpec, Link, Power
from mapsto.placement.problem import HOST, Job, PlacementProblem, Route
from mapsto.plan.asked import Asked, Quote
from mapsto.plan.chain import CHAIN
from mapsto.plan.forecast import forecast
from mapsto.plan.items import Branches, Control, Item, View, reads_of, targets_of, tasks
from mapsto.plan.mapped import Mapped
from mapsto.plan.patterns import Sizes, extent
from mapsto.plan.prices import Prices
from mapsto.plan.rules.base import Refusal
from mapsto.plan.task import SLICED, Task

_PRODUCTS = ("contraction", CHAIN, SLICED)  # kinds of tasks whose times contractions decide


@dataclass(frozen=True)
class Priced:
    """What a device says of a work. seconds, joules: inf where it does not take it; joules are those that come on top
    of what the device takes doing nothing. reason: why it does not.
    """

    seconds: float
    joules: float
    parts: Parts = Parts()
    reason: str = ""


@dataclass(frozen=True)
class Correction:
    """What a device's predictions are multiplied by, by kind of work, as measured."""

    contraction: float = 1.0
    rows: float = 1.0


@dataclass(frozen=True)
class HandOver:
    """What it takes a device to go on with what another one made, as measured. begins: seconds until it does. copies:
    bytes a second that it copies itself, into its memory and out of it, and does nothing else meanwhile.
    """

    begins: float = 0.0
    copies: float = math.inf


@dataclass(frozen=True)
class Considered:
    """A work: its name in the plan, its ops, its nodes of the graph (their first outputs) and of the source model, what
    each device says of it, and whether it is a contraction, which are corrected by themselves.
    """

    name: str
    ops: tuple[str, ...]
    nodes: tuple[str, ...]
    sources: tuple[str, ...]
    priced: tuple[Priced, ...]
    is_contraction: bool = False


class WorksToPlace:
    """The works of a mapped graph (`considered`), and problems of placement over them."""

    def __init__(
        self, mapped: Mapped, devices: Sequence[Asked], links: Sequence[Link], pins: Sequence[tuple[str, str]] = (),
        corrections: Sequence[Correction] = (), names: Sequence[str] = (), powers: Sequence[Power | None] = (),
        units: Sequence[int] = (), handing: Sequence[HandOver] = (),
    ) -> None:  # fmt: skip
        """devices: those of a machine that are to be used, the one that `mapped` was decided for first. pins: (pattern,
        device); a work that has a name like it (`*`, `?`), itself or of one of its nodes, runs there. corrections: of
        each device; none: predictions as they are. names: what devices are called in links, pins, limits and the
        problem; none: as they call themselves. powers: figures of power of each device; none: their own. units: of each
        device, how many may take part; none: all. handing: of each device; with it, all are linked to the host, whose
        memory they copy from and to.

        Raises ArgumentError for a pin that cannot be kept, saying why.
        """
        assert mapped.basis is not None, "a plan that is replayed has no costs"
        self.mapped, self.devices, self.links = mapped, devices, links
        self.names = tuple(names) or tuple(asked.name for asked in devices)
        self.sizes = Sizes(dict(mapped.basis.sizes))
        self.constants = {*mapped.graph.constants, *(n for task in tasks(mapped.items) for n in task.constants)}
        self.made: dict[str, frozenset[str]] = {v.name: frozenset({v.name}) for v in mapped.graph.inputs}
        self.numbers: dict[str, int] = {}
        self.powers = tuple(powers) or tuple(asked.spec.power for asked in devices)
        self.handing = tuple(handing)
        every = corrections or [Correction() for _ in devices]
        some = units or [asked.spec.units for asked in devices]
        self._said = [self._prices(*each) for each in zip(devices, every, self.powers, some, strict=True)]
        self._jobs: list[Job] = []
        self.considered: list[Considered] = []
        for item in mapped.items:
            self._add(item)
        self._outputs = [n for name in mapped.graph.outputs for n in self._values([mapped.places.get(name, name)])]
        self._pin(pins)

    def problem(self, objective: str, memory: Mapping[str, float]) -> PlacementProblem:
        """memory: bytes that may be taken, by device. Figures are seconds. For `energy` they are joules: of each work
        and transfer, and of all devices while it goes on, as if nothing else did: no less than what a run takes.
        """
        values = [self._bytes(name) for name in self.numbers]
        limits = tuple(memory.get(name, math.inf) for name in self.names) if memory else ()
        links = self._routes()
        begins = tuple(each.begins for each in self.handing)
        works = tuple(self._jobs)
        if objective == "energy":
            idle = self.idle
            links = {
                ends: replace(link, latency=link.latency * idle, bandwidth=link.bandwidth / idle if idle else math.inf)
                for ends, link in links.items()
            }
            begins = tuple(seconds * idle for seconds in begins)
            works = tuple(_in_joules(job, work, idle) for job, work in zip(works, self.considered, strict=True))
        outputs = tuple(dict.fromkeys(self._outputs))
        return PlacementProblem(self.names, works, tuple(values), outputs, links, objective, limits, begins)

    @property
    def idle(self) -> float:
        """Watts of all devices doing nothing."""
        return math.fsum(power.idle for power in self.powers if power is not None)

    def _prices(
        self, asked: Asked, correction: Correction, power: Power | None, units: int
    ) -> dict[str, Priced]:
        """What a device says of each task, by its name."""
        found = {}
        for task, quotes in forecast(self.mapped.items, self.mapped.homes, Prices(asked, self.sizes)):
            times = correction.contraction if task.kind in _PRODUCTS else correction.rows
            found[task.name] = _best(quotes, replace(asked.spec, power=power), times, units)
        return found

    def _add(self, item: Item) -> None:
        if isinstance(item, Control):
            return
        if isinstance(item, View):
            self.made[item.value] = frozenset().union(*(self._of(name) for name in item.of))
            return
        reads = self._values(sorted(reads_of(item)))
        held = sum(self._bytes(name) for name in reads_of(item) if name in self.constants)
        targets = [name for name in targets_of(item) if name in self.mapped.homes]
        self.made.update({name: frozenset({name}) for name in targets})
        priced = tuple(self._takes(item, d) for d in range(len(self.devices)))
        inside = list(tasks([item]))
        own = item.first_nodes if isinstance(item, Task) else tuple(v.name for v in item.node.outputs[:1])
        ops = tuple(dict.fromkeys(node.op for task in inside for node in task.nodes))
        sources = tuple(dict.fromkeys(s for task in inside for s in task.sources))
        is_contraction = isinstance(item, Task) and item.kind in _PRODUCTS
        self.considered.append(Considered(item.name, ops, own, sources, priced, is_contraction))
        seconds = tuple(p.seconds for p in priced)
        self._jobs.append(Job(item.name, seconds, tuple(reads), tuple(self._values(targets)), held))

    def _takes(self, item: Item, device: int) -> Priced:
        if isinstance(item, Branches):
            if device != HOST:
                return Priced(math.inf, math.inf, reason="a branch or a loop is run by the host")
            arms = [_together([self._takes(i, device) for i in arm]) for arm in item.arms]
            return max(arms, key=lambda arm: arm.seconds)
        if isinstance(item, View | Control):
            return Priced(0.0, 0.0)
        return self._said[device][item.name]

    def _pin(self, pins: Sequence[tuple[str, str]]) -> None:
        for pattern, device in pins:
            if device not in self.names:
                there = ", ".join(self.names)
                raise ArgumentError(f"pin {pattern}={device}: there is no device {device!r}; there are: {there}")
            at = self.names.index(device)
            held = [k for k, c in enumerate(self.considered) if _matches(c, pattern)]
            if not held:
                raise ArgumentError(f"pin {pattern}={device}: no work and no node has a name like {pattern!r}")
            for k in held:
                if not math.isfinite(self._jobs[k].seconds[at]):
                    why = self.considered[k].priced[at].reason or "another pin has it elsewhere"
                    work = self.considered[k].name
                    raise ArgumentError(f"pin {pattern}={device}: work {work} cannot run there: {why}")
                kept = tuple(s if d == at else math.inf for d, s in enumerate(self._jobs[k].seconds))
                self._jobs[k] = replace(self._jobs[k], seconds=kept)

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

    def _routes(self) -> dict[tuple[int, int], Route]:
        """Both directions between two devices are one bus, if no link names another."""
        if self.handing:
            return self._copies()
        found: dict[tuple[int, int], Route] = {}
        buses: dict[str | frozenset[int], int] = {}
        numbers = {name: d for d, name in enumerate(self.names)}
        for link in self.links:
            if link.source in numbers and link.target in numbers:
                a, b = numbers[link.source], numbers[link.target]
                bus = buses.setdefault(link.bus or frozenset((a, b)), len(buses))
                found[a, b] = Route(bus, link.latency, link.bytes)
        return found

    def _copies(self) -> dict[tuple[int, int], Route]:
        """Between two that are not the host: by way of its memory."""
        found: dict[tuple[int, int], Route] = {}
        for a, one in enumerate(self.handing):
            for b, other in enumerate(self.handing):
                if a != b:
                    by, seconds = a if b == HOST else b, 1 / one.copies + 1 / other.copies
                    found[a, b] = Route(by, 0.0, 1 / seconds if seconds else math.inf, by)
        return found


def _best(quotes: Sequence[Quote | Refusal], spec: DeviceSpec, times: float, units: int) -> Priced:
    """The first quote, which is the cheapest, by so many units, if it takes `times` as long as predicted; else why
    there is none.
    """
    quote = next((q for q in quotes if isinstance(q, Quote)), None)
    if quote is None:
        reasons = "; ".join(dict.fromkeys(q.why for q in quotes if isinstance(q, Refusal)))
        return Priced(math.inf, math.inf, reason=reasons or "it makes no offer")
    joules = sum(working_joules(t, spec, times) for t in quote.tallies)
    made_of = sum((parts(t, spec) for t in quote.tallies), Parts())
    seconds = math.fsum(price(t, spec, units).seconds for t in quote.tallies)
    return Priced(seconds * times, joules, made_of)


def _in_joules(job: Job, work: Considered, idle: float) -> Job:
    """The figures of a job, where it may run, as energy. idle: watts of all devices meanwhile."""
    joules = (p.joules + s * idle if math.isfinite(s) else s for s, p in zip(job.seconds, work.priced, strict=True))
    return replace(job, seconds=tuple(joules))


def _together(all_of: Sequence[Priced]) -> Priced:
    seconds, joules = (math.fsum(getattr(p, what) for p in all_of) for what in ("seconds", "joules"))
    return Priced(seconds, joules, sum((p.parts for p in all_of), Parts()))


def _matches(work: Considered, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in (work.name, *work.sources))
