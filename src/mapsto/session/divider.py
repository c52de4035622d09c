"""Divisions of one graph, made as they are needed: the first, those that suit better what parts turned out to take, and
those for devices that have become slower or faster.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np

from mapsto.budget import metering
from mapsto.devices.backend import Backend
from mapsto.devices.named import backend_named
from mapsto.placement.early import awaited
from mapsto.placement.model import latency
from mapsto.placement.place import place
from mapsto.placement.problem import HOST, PlacementProblem
from mapsto.placement.simple import alone
from mapsto.plan.division_text import division_text
from mapsto.plan.guesses import guesses
from mapsto.plan.placing import Correction
from mapsto.runtime.divisions import DividedPart, Division, Whole
from mapsto.runtime.program import Port
from mapsto.session.collecting import collecting_rarely
from mapsto.session.division import division_of
from mapsto.session.learned import LearnedTimes
from mapsto.session.parts import cut
from mapsto.session.placed import AskedOf, PlacedGraph, moving_less
from mapsto.session.planned import planned
from mapsto.session.trial import Trials
from mapsto.session.turns import Turns

_ANEW = 1.1  # times as fast a division must be expected to be to take the place of another one
_BETTER = 1.04  # or to be tried beside one that was
_KEPT = 4  # divisions
_TRIALS = 4  # divisions that are compiled and tried, at most
_FARTHEST = 8.0  # times as long as predicted, or as short: what is farther off was disturbed


@contextmanager
def opened(names: Sequence[str], cache: bool) -> Iterator[dict[str, Backend]]:
    """Devices by their names."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(backend_named(name, cache, None)) for name in names}


@dataclass(frozen=True)
class Trial:
    """A division, what it was placed as, and seconds of the objective, as far as is known."""

    division: Division
    found: PlacedGraph
    seconds: float


class Divider:
    """Divisions of one graph, for devices as fast as they are said to be; the last few are kept.

    known: how many times as long works take as predicted, as their parts did, beside the device as a whole.
    busy: device: how many times as long its parts take as by themselves, while others are at work as well.
    """

    def __init__(self, found: PlacedGraph, how: AskedOf, names: Sequence[str], threads: int, cache: bool) -> None:
        self.base, self.how, self.names, self.threads, self.cache = found, how, names, threads, cache
        self.seats = found.placement.seats
        self.kept: dict[tuple[int, ...], Division] = {}
        self.known = LearnedTimes(found.works)
        self.busy = [1.0] * len(names)
        self.ends: dict[tuple[int, ...], frozenset[int]] = {}
        self.turns = Turns()
        self.guard = threading.Lock()

    def learn(self, speed: Mapping[str, float], took: Sequence[tuple[DividedPart, float]]) -> None:
        """Parts of the present division take so many times what was predicted for them."""
        of_value = {
            name: (self.names.index(part.device), times / speed[part.device])
            for part, times in took
            for name in part.makes
        }
        pairs = enumerate(self.base.works)
        seen = [(w, *of_value[own]) for w, work in pairs if (own := next((n for n in work.nodes if n in of_value), ""))]
        with self.guard:
            self.known.see(seen)

    def ready(self, speed: Mapping[str, float]) -> Division | None:
        """The best of the divisions whose code is there, where devices take so many times what they did at first; None:
        it is no better than the present one.
        """
        with self.guard:
            problem = self._problem(speed)
            if problem is None:
                return None
            best = min(self.kept, key=lambda seats: self._takes(problem, seats))
            if self._takes(problem, best) * _ANEW >= self._takes(problem, self.seats):
                return None
            self.seats = best
            return replace(self.kept[best], predicted=self._predicted(self.kept[best], best))

    def best(self, speed: Mapping[str, float]) -> Division | None:
        """Makes the best division; None: it is no better. It is kept, and not taken for the present one yet."""
        with self._making() as backends:
            problem = self._problem(speed)
            if problem is None:
                return None
            placement = moving_less(problem, place(problem, self.how.placer))
            if placement.seats in self.kept or placement.seconds * _ANEW >= self._takes(problem, self.seats):
                return None
            found = replace(self.base, problem=problem, placement=placement)
            return self.division(found, backends)

    def _takes(self, problem: PlacementProblem, seats: tuple[int, ...]) -> float:
        """Seconds of the objective; what is alone at work is slowed by no other device."""
        return latency(problem, seats) / (self.busy[seats[0]] if len({*seats}) == 1 else 1.0)

    def _problem(self, speed: Mapping[str, float]) -> PlacementProblem | None:
        """The first one, by what is known of devices and works now; None: something can run nowhere any more."""
        problem = self.base.problem
        jobs = tuple(
            replace(job, seconds=tuple(s * self._times(w, d, speed) if s else s for d, s in enumerate(job.seconds)))
            for w, job in enumerate(problem.works)
        )
        return None if any(min(job.seconds) == math.inf for job in jobs) else replace(problem, works=jobs)

    def prepare(self) -> None:
        """Makes the division that is all on the host, as far as it can be: for when another device is slow."""
        found = self._on_host()
        if found is not None and found.placement.seats not in self.kept:
            with self._making() as backends:
                self.division(found, backends)

    @contextmanager
    def _making(self) -> Iterator[dict[str, Backend]]:
        with (
            self.turns.making(), collecting_rarely(), metering(), np.errstate(all="ignore"),
            opened(self.names, self.cache) as backends,
        ):  # fmt: skip
            yield backends

    def _times(self, work: int, device: int, speed: Mapping[str, float]) -> float:
        return self.known.of(work, device) * self.busy[device] * speed[self.names[device]]

    def division(self, found: PlacedGraph, backends: Mapping[str, Backend]) -> Division:
        seats = found.placement.seats
        made = self.kept.get(seats)
        if made is None:
            ends = self.ends[seats] = frozenset(w for w in awaited(found.problem, seats) if found.works[w].nodes)
            by_node = {n: d for w, d in zip(found.works, seats, strict=True) for n in w.nodes}
            last = {found.works[w].nodes[-1] for w in ends}
            made = division_of(cut(found.graph, by_node, ends=last), backends, self.threads, self.cache)
        plan = planned(replace(found, ends=self.ends[seats]), self.how, made.parts)
        joules = plan.total.seconds if plan.total is not None and self.how.objective == "energy" else None
        with self.guard:
            made = self.kept[seats] = replace(
                made, predicted=self._predicted(made, seats), plan_text=division_text(plan), joules=joules
            )
            known = (seats, self.seats, self.base.placement.seats)  # the first one: devices may be as they were again
            old = [each for each in self.kept if each not in known and set(each) != {HOST}]
            for each in old[: max(len(self.kept) - _KEPT, 0)]:
                del self.kept[each], self.ends[each]
        return made

    # ---- by what parts take, before the first run --------------------------------------------------------------------

    def tried(self, whole: Whole, backends: Mapping[str, Backend]) -> Trial | None:
        """All on the host, and then what is placed by what is known of works after that, as long as it promises to be
        better: the best of those, by what they took. None: nothing can be tried.
        """
        seen: dict[tuple[int, ...], PlacedGraph] = {}
        took: dict[tuple[int, ...], float] = {}
        found, problem = self._on_host() or self.base, None
        trials, is_stream = Trials(whole, guesses(self.base.graph), self.names), self.how.objective == "throughput"
        for _ in range(_TRIALS):
            seats = found.placement.seats
            division = self.division(found, backends)
            seconds = trials.part_seconds(division)
            if seconds is None:
                break
            self._see(division, seats, seconds)
            seen[seats] = found
            runs = trials.runs(division, is_stream)
            took[seats] = runs.seconds
            self._see_busy(division, seconds, runs.parts)
            problem = self._problem(dict.fromkeys(self.names, 1.0))
            if problem is None:
                break
            placement = moving_less(problem, place(problem, self.how.placer))
            if placement.seats in self.kept or placement.seconds * _BETTER >= min(took.values()):
                break
            found = replace(self.base, problem=problem, placement=placement)
        if problem is None:
            return None
        again = trials.once_more([self.kept[each] for each in took], [*took.values()], is_stream)
        took = dict(zip(took, again, strict=True))
        least = min(took, key=lambda each: took[each])
        best = self._known_now(seen[least], problem, took[least])
        self.seats = least
        return replace(best, division=self.division(best.found, backends))

    def corrections(self) -> tuple[Correction, ...]:
        """Of each device, by what is known of works."""
        return self.known.corrections(self.how.corrections)

    def _on_host(self) -> PlacedGraph | None:
        """All that can be; None: it cannot."""
        problem = self.base.problem
        seats = tuple(alone(problem, HOST))
        seconds = latency(problem, seats)
        if seconds == math.inf:
            return None
        method = f"all on {problem.devices[HOST]}"
        bound = min(self.base.placement.bound, seconds)
        placement = replace(self.base.placement, seats=seats, seconds=seconds, bound=bound, method=method)
        return replace(self.base, placement=placement)

    def _known_now(self, found: PlacedGraph, problem: PlacementProblem, seconds: float) -> Trial:
        """A placement with its figures as they are known now."""
        at, as_at_first = found.placement, dict.fromkeys(self.names, 1.0)
        placement = replace(at, seconds=seconds, bound=min(at.bound, seconds), method=f"{at.method}; tried")
        works = tuple(
            replace(work, priced=tuple(
                replace(p, seconds=p.seconds * self._times(w, d, as_at_first)) for d, p in enumerate(work.priced)
            ))
            for w, work in enumerate(self.base.works)
        )  # fmt: skip
        return Trial(self.kept[at.seats], replace(found, problem=problem, placement=placement, works=works), seconds)

    def _see(self, division: Division, seats: Sequence[int], seconds: Sequence[float]) -> None:
        """Parts took so many seconds, each by itself."""
        part_of = {v: k for k, part in enumerate(division.parts) for v in part.makes}
        expected, beside = self._predicted(division, seats, is_busy=False), self._beside(division)
        seen = []
        for w, (work, seat) in enumerate(zip(self.base.works, seats, strict=True)):
            k = next((part_of[n] for n in work.nodes if n in part_of), None)
            if k is not None and expected[k] > beside[k]:
                times = (seconds[k] - beside[k]) / (expected[k] - beside[k])
                seen.append((w, seat, min(max(times, 1 / _FARTHEST), _FARTHEST)))
        self.known.see(seen)

    def _see_busy(self, division: Division, alone: Sequence[float], at_once: Sequence[float]) -> None:
        """Parts took so many seconds by themselves, and so many while all devices were at work (empty: unknown)."""
        for d, name in enumerate(self.names):
            pairs = [(a, b) for part, a, b in zip(division.parts, alone, at_once, strict=False) if part.device == name]
            total = math.fsum(a for a, _ in pairs)
            if total > 0:
                times = math.fsum(b for _, b in pairs) / total
                self.busy[d] = min(max(times, 1 / _FARTHEST), _FARTHEST)

    def _beside(self, division: Division) -> list[float]:
        """What parts take beside their works: a device begins, and copies what it reads and yields."""
        if not self.how.handing:
            return [0.0] * len(division.parts)
        handing = dict(zip(self.names, self.how.handing, strict=True))
        between = handing[self.names[HOST]].begins  # mostly what it takes until the other thread knows
        found = []
        for part in division.parts:
            own, program = handing[part.device], part.executable.program
            moved = sum(_bytes(port) for port in (*program.inputs, *program.outputs))
            found.append(max(own.begins - between, 0.0) + moved / own.copies)
        return found

    def _predicted(self, made: Division, seats: Sequence[int], is_busy: bool = True) -> tuple[float, ...]:
        """Seconds of each part, by devices as fast as they were at first, and what is known of works. is_busy: while
        all devices that have a part are at work.
        """
        slowed = is_busy and len({*seats}) > 1
        part_of = {v: k for k, part in enumerate(made.parts) for v in part.makes}
        found = self._beside(made)
        for w, (work, seat) in enumerate(zip(self.base.works, seats, strict=True)):
            if (k := next((part_of[n] for n in work.nodes if n in part_of), None)) is not None:
                times = self.known.of(w, seat) * (self.busy[seat] if slowed else 1.0)
                found[k] += work.priced[seat].seconds * times
        return tuple(found)


def _bytes(port: Port) -> int:
    """0 where sizes are open."""
    if not all(isinstance(dim, int) for dim in port.shape):
        return 0
    return math.prod(int(str(dim)) for dim in port.shape) * port.dtype.size
