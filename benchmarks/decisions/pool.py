"""Which decisions of a plan can be put to the proof, and which of them are.

A decision is what a plan says that it beat: another template or schedule of a work, a work's last join undone, another
dim innermost for values that lie alike. Of the ways that one decision beat, the one that loses least is its runner-up.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from mapsto.plan.plan import Plan
from mapsto.plan.task import Task
from mapsto.plan.works import Beaten, Work

KINDS = ("as", "apart", "inner")
MAPPED = ("apart", "inner")  # kinds that the plan decides, not a maker


@dataclass(frozen=True)
class Window:
    """Which predicted losses are looked at: from `least` to `most` of what the decision is about, and so many seconds
    that a clock can see them.
    """

    least: float = 0.03
    most: float = 0.5
    seconds: float = 0.5e-6

    def holds(self, loss: float, of: float) -> bool:
        return loss >= self.seconds and self.least * of <= loss <= self.most * of


@dataclass(frozen=True)
class Decision:
    """One decision of a model's plan, by its runner-up. `work`: the one that it is about ("": none, it is about
    `values`, which lie alike). predicted: seconds of the works that it is about.
    """

    model: str
    runner_up: Beaten
    predicted: float
    work: str = ""
    values: tuple[str, ...] = ()
    what: str = ""

    @property
    def kind(self) -> str:
        return self.runner_up.how

    @property
    def loss(self) -> float:
        return self.runner_up.loss

    @property
    def share(self) -> float:
        """What the runner-up is predicted to lose, of what the decision is about."""
        return self.loss / self.predicted

    @property
    def form(self) -> tuple[object, ...]:
        """Decisions of one model that are the same in all but names: they count once."""
        beaten = self.runner_up
        of = "" if beaten.how == "apart" else beaten.of
        return self.model, beaten.how, of, beaten.schedule, beaten.loss, self.predicted, self.what


def decisions(model: str, plan: Plan, tasks: Mapping[str, Task]) -> Iterator[Decision]:
    """All of a plan, in its order. tasks: of its works, by their names."""
    for work in plan.works:
        for how in ("as", "apart"):
            best = _least(b for b in work.beaten if b.how == how)
            if best is not None and work.predicted > 0:
                what = f"{'+'.join(dict.fromkeys(work.ops))} as {work.offer.template} {work.offer.schedule}"
                yield Decision(model, best, work.predicted, work=work.name, what=what)
    seats = None if plan.basis is None else plan.basis.seats
    beaten: dict[tuple[str, ...], list[Beaten]] = {}
    for values, way in () if seats is None else seats.beaten:
        beaten.setdefault(values, []).append(way)
    for values, ways in beaten.items():
        best, near = _least(ways), _near(values, plan.works, tasks)
        if best is not None and near > 0:
            yield Decision(model, best, near, values=values, what=f"{len(values)} values like {values[0]}")


def _least(ways: Iterable[Beaten]) -> Beaten | None:
    return min(ways, key=lambda way: way.loss, default=None)


def _near(values: Sequence[str], works: Sequence[Work], tasks: Mapping[str, Task]) -> float:
    """Seconds of all works that read or write one of these values."""
    found = set(values)
    near = (w for w in works if found & {*w.writes, *tasks[w.name].reads, *tasks[w.name].targets})
    return sum(work.predicted for work in near)


def looked_at(every: Iterable[Decision], window: Window) -> list[Decision]:
    """Those whose runner-up loses as much as `window` says, of equal ones the first."""
    found: dict[tuple[object, ...], Decision] = {}
    for decision in every:
        if window.holds(decision.loss, decision.predicted):
            found.setdefault(decision.form, decision)
    return list(found.values())


class Draw:
    """Draws from a pool without putting back: at first `mapped` of those that the plan decides (as many as there are),
    then of all. What could not be forced is given back with another in its place.
    """

    def __init__(self, pool: Sequence[Decision], count: int, mapped: int, seed: int) -> None:
        own = random.Random(seed)
        self._left = own.sample(list(pool), len(pool))
        self._kinds: list[Set[str]] = [set(MAPPED)] * min(mapped, count) + [set(KINDS)] * max(count - mapped, 0)

    def next(self) -> Decision | None:
        """The next one; None where as many as were wanted have been drawn, or none is left."""
        while self._kinds:
            kinds = self._kinds[0]
            found = next((d for d in self._left if d.kind in kinds), None)
            if found is not None:
                self._kinds.pop(0)
                self._left.remove(found)
                return found
            if kinds == set(KINDS):
                return None
            self._kinds[0] = set(KINDS)
        return None

    def again(self, decision: Decision) -> None:
        """This one could not be forced: one more is to be drawn in its place."""
        self._kinds.insert(0, set(MAPPED) if decision.kind in MAPPED else set(KINDS))
