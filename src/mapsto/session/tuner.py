"""Tries other schedules of a model's kernels, in the model, on its operands, and says which are faster.

    the plan as it is  ──►  its kernels by their forms, and for each the schedules that are near     (near)
    rounds: of every kernel the next one, all in one program, timed step by step beside the old one  (screen)
    the best of each together, beside the old one again, with fresh times                            (confirm)
    the whole model with those that are left, beside the old one                                     (decide)

What a round changes is in steps of its own, so one program tries as many schedules as there are kernels, each where it
will be used: caches hold what they will hold then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mapsto.devices.backend import TunableBackend
from mapsto.devices.maker import Made, NearKernel
from mapsto.machine.tuning import NEAR_COST, TunedKernel, Tuning
from mapsto.plan.items import tasks
from mapsto.plan.mapped import Mapped
from mapsto.plan.task import Task
from mapsto.plan.works import Offer
from mapsto.runtime.executable import Executable
from mapsto.session.compile import executable_of, templates_of
from mapsto.session.pairs import TimedPair, is_faster, share_of

LEAST = 0.03  # of a kernel's time: what a schedule must save
_SCREENED = 0.75  # of the pairs: what a schedule must win to be looked at again
_WORTH = 0.005  # of a run: kernels that take less are left as they are
_MOST = 24  # schedules of one kernel
_TURN = 0.006  # seconds of one turn of the timing: many short ones, most of which nothing disturbs
_FEWEST, _PAIRS = 12, 60  # pairs of turns
_PAIRS_OF_RUNS = 600  # of the whole model, which is faster by a small part


@dataclass(frozen=True)
class TriedProgram:
    """A program of the model. made: its tasks, with the schedules that they have in it."""

    executable: Executable
    made: Mapping[str, Made]


class KernelTimer(Protocol):
    """Times two variants of a model by turns, for about so many seconds."""

    def steps(self, old: TriedProgram, new: TriedProgram, seconds: float) -> Mapping[str, Sequence[TimedPair]]:
        """Pairs of times of each task, by name."""

    def whole(self, old: TriedProgram, new: TriedProgram, seconds: float) -> Sequence[TimedPair]:
        """Pairs of times of whole runs."""


@dataclass
class FormGroup:
    """Kernels of one form: the tasks that they are in, what they take of a run, the schedules that are left to try, and
    the best that was found.
    """

    key: str
    tasks: tuple[str, ...]
    before: Offer
    left: list[TunedKernel]
    seconds: float = 0.0
    tried: int = 0
    best: TunedKernel | None = None
    confirmed: float = 1.0


@dataclass(frozen=True)
class TunedForm:
    """A form that is faster by another schedule. works: of the plan. share: of its time before."""

    key: str
    works: tuple[str, ...]
    before: str
    after: str
    share: float


@dataclass(frozen=True)
class TunerResult:
    """What came of it. tuning: what is to be kept, None where nothing is, and then why. forms: those that are faster by
    themselves. whole: pairs of runs before and after.
    """

    tuning: Tuning | None
    forms: tuple[TunedForm, ...]
    looked_at: int
    tried: int
    whole: Sequence[TimedPair]
    because: str


@dataclass
class Tuner:
    """Tunes one graph. deadline: by `clock`. tell: is told (share of the time that is over, what goes on)."""

    mapped: Mapped
    constants: Mapping[str, np.ndarray]
    backend: TunableBackend
    threads: int
    timer: KernelTimer
    deadline: float
    tell: Callable[[str], None]
    metered: Callable[[], AbstractContextManager[None]]
    clock: Callable[[], float] = time.monotonic
    pace: float = 1.0  # seconds that timing a round takes
    longest: float = field(default=0.0, init=False)  # that a round took

    def tuned(self) -> TunerResult:
        """See the module."""
        began = self.clock()
        self.tell("compiling as costs choose")
        old = self.variant(self.backend.tuning, None)
        self.longest = self.clock() - began
        groups = self._groups(old)
        if not groups:
            return TunerResult(None, (), 0, 0, (), "no kernel has another schedule that is predicted to be near")
        self._screen(old, groups)
        tried = sum(group.tried for group in groups)

        def nothing(because: str, whole: Sequence[TimedPair] = (), forms: tuple[TunedForm, ...] = ()) -> TunerResult:
            return TunerResult(None, forms, len(groups), tried, whole, because)

        if not tried:
            return nothing("the time was over before another schedule could be timed; give it more")
        kept = self._confirm(old, [group for group in groups if group.best is not None])
        if not kept:
            return nothing(f"no other schedule was faster by {LEAST:.0%} of its kernel's time")
        new = self.variant(self._tuning(kept), old, kept)
        self.tell("the whole model, before and after")
        whole = self.timer.whole(old, new, self._measuring(4 * self.pace))
        forms = tuple(_form(group) for group in kept)
        if not is_faster(whole, 0.0):
            return nothing("the whole model was not faster by what was faster by itself", whole, forms)
        return TunerResult(self._tuning(kept), forms, len(groups), tried, whole, "")

    # -- programs ------------------------------------------------------------------------------------------------------

    def variant(self, tuning: Tuning, old: TriedProgram | None, changed: Sequence[FormGroup] = ()) -> TriedProgram:
        """The model with these tuned kernels; what is not in a form that was changed is as in `old`."""
        names = {name for group in changed for name in group.tasks}
        offers = templates_of(self.mapped)
        with self.metered():
            maker = self.backend.tuned_maker(self.constants, tuning)
            made = {} if old is None else dict(old.made)
            for task in tasks(self.mapped.items):
                if old is None or task.name in names:
                    made[task.name] = maker.make(task, self.mapped.homes, offers.get(task.name))
            return TriedProgram(executable_of(self.mapped, made, self.constants, self.backend, self.threads), made)

    def _tuning(self, groups: Sequence[FormGroup]) -> Tuning:
        return self.backend.tuning.with_kernels({g.key: g.best for g in groups if g.best is not None})

    # -- what there is to try ------------------------------------------------------------------------------------------

    def _groups(self, old: TriedProgram) -> list[FormGroup]:
        """Forms by what they take of a run, with the schedules that are near."""
        self.tell("timing its kernels")
        times = {name: _least(pairs) for name, pairs in self.timer.steps(old, old, self._measuring(self.pace)).items()}
        total = sum(times.values())
        groups: dict[str, FormGroup] = {}
        with self.metered():
            maker = self.backend.tuned_maker(self.constants, self.backend.tuning)
            for task in tasks(self.mapped.items):
                if times.get(task.name, 0.0) < _WORTH * total:
                    continue
                for template, ratio in self._templates(task, old.made[task.name]):
                    for near in maker.near(task, self.mapped.homes, template):
                        _add(groups, task.name, near, ratio, template == old.made[task.name].offer.template)
        for group in groups.values():
            group.seconds = sum(times[name] for name in group.tasks)
            group.left = group.left[:_MOST]
        return sorted((g for g in groups.values() if g.left), key=lambda g: -g.seconds)

    def _templates(self, task: Task, made: Made) -> Iterator[tuple[str, float]]:
        """The template that a task has, and others that are predicted near; how often its cost."""
        yield made.offer.template, 1.0
        choice = self.mapped.choices.get(task.name)
        if choice is None or len(task.phases) != 1 or len(made.calls) != 1:
            return
        cost = choice.quote.cost.seconds
        costs = {choice.quote.template: cost}
        costs |= {b.of: cost + b.loss for b in choice.beaten if b.how == "as" and not b.schedule}
        own = costs.get(made.offer.template, cost)
        for template, seconds in costs.items():
            if template != made.offer.template and own > 0 and seconds <= NEAR_COST * own:
                yield template, seconds / own

    # -- timing --------------------------------------------------------------------------------------------------------

    def _screen(self, old: TriedProgram, groups: Sequence[FormGroup]) -> None:
        """Every schedule once, the most promising of every form first, until all are tried or the time is over."""
        number = 0
        while self.clock() + self.longest + self._reserve() < self.deadline:
            chosen = _disjoint([group for group in groups if group.left])
            if not chosen:
                return
            began, number = self.clock(), number + 1
            self.tell(f"round {number}: {len(chosen)} kernels in other schedules")
            candidates = {group.key: group.left.pop(0) for group in chosen}
            new = self.variant(self.backend.tuning.with_kernels(candidates), old, chosen)
            times = self.timer.steps(old, new, self._measuring(self.pace))
            for group in chosen:
                group.tried += 1
                pairs = _added([times.get(name, ()) for name in group.tasks])
                won = sum(after < before for before, after in pairs)
                share, candidate = share_of(pairs), candidates[group.key]
                if share <= 1.0 - LEAST and won >= _SCREENED * len(pairs):
                    if group.best is None or share < group.best.share:
                        group.best = TunedKernel(candidate.template, candidate.schedule, share)
            self.longest = max(self.clock() - began, self.longest / 2)

    def _confirm(self, old: TriedProgram, groups: Sequence[FormGroup]) -> list[FormGroup]:
        """Those that are faster again, in one program, by times that did not choose them."""
        chosen = _disjoint(groups)
        if not chosen:
            return []
        self.tell(f"{len(chosen)} kernels that seem faster, once more")
        new = self.variant(self._tuning(chosen), old, chosen)
        times = self.timer.steps(old, new, self._measuring(2 * self.pace))
        kept = []
        for group in chosen:
            pairs = _added([times.get(name, ()) for name in group.tasks])
            if group.best is not None and is_faster(pairs, LEAST):
                group.confirmed = share_of(pairs)
                before = self.backend.tuning.kernels.get(group.key)
                share = float(f"{group.confirmed * (1.0 if before is None else before.share):.3g}")
                group.best = TunedKernel(group.best.template, group.best.schedule, share)
                kept.append(group)
        return kept

    def _reserve(self) -> float:
        """Seconds that confirming and deciding take."""
        return 2 * self.longest + 5 * self.pace

    def _measuring(self, seconds: float) -> float:
        return max(min(seconds, self.deadline - self.clock()), 0.0)


def _add(groups: dict[str, FormGroup], task: str, near: NearKernel, ratio: float, own: bool) -> None:
    """A kernel of a task. own: as the task is made, else by a template that is predicted at `ratio` of its cost."""
    group = groups.get(near.key)
    if group is None:
        if not own:
            return  # what is of another form has nothing that it could take the place of
        group = groups[near.key] = FormGroup(near.key, (), Offer(near.template, near.schedule), [])
    if task not in group.tasks:
        group.tasks = (*group.tasks, task)
    known = {(group.before.template, group.before.schedule), *((e.template, e.schedule) for e in group.left)}
    more = (TunedKernel(near.template, text, ratio * times) for text, times in near.others)
    new = [e for e in more if e.share <= NEAR_COST and (e.template, e.schedule) not in known]
    group.left = sorted((*group.left, *new), key=lambda each: each.share)


def _form(group: FormGroup) -> TunedForm:
    assert group.best is not None
    before = f"{group.before.template}: {group.before.schedule}"
    after = f"{group.best.template}: {group.best.schedule}"
    return TunedForm(group.key, group.tasks, before, after, float(f"{group.confirmed:.3g}"))


def _disjoint(groups: Sequence[FormGroup]) -> list[FormGroup]:
    """As many as have no task in common, the first ones first: a task's time is that of all its kernels."""
    found: list[FormGroup] = []
    taken: set[str] = set()
    for group in groups:
        if not taken.intersection(group.tasks):
            found.append(group)
            taken.update(group.tasks)
    return found


def _added(pairs: Sequence[Sequence[TimedPair]]) -> list[TimedPair]:
    """Times of several tasks in the same turns, added up."""
    return [(sum(old for old, _ in turn), sum(new for _, new in turn)) for turn in zip(*pairs, strict=False)]


def _least(pairs: Sequence[TimedPair]) -> float:
    return min((min(pair) for pair in pairs), default=0.0)


class AlternatingTimer:
    """Runs on real operands. A turn is a run that is not counted, as caches hold what the other one left, and some that
    are; old and new take turns at being first.
    """

    def __init__(self, inputs: Sequence[np.ndarray]) -> None:
        self._inputs = inputs

    def steps(self, old: TriedProgram, new: TriedProgram, seconds: float) -> Mapping[str, Sequence[TimedPair]]:
        """See `KernelTimer`."""
        runs = self._runs(old)
        found: dict[str, list[TimedPair]] = {}
        for first in _turns(seconds):
            ordered = (old, new) if first else (new, old)
            times = [self._of_tasks(variant.executable, runs) for variant in ordered]
            before, after = times if first else times[::-1]
            for name, spent in before.items():
                if spent > 0 and after.get(name, 0.0) > 0:
                    found.setdefault(name, []).append((spent, after[name]))
        return found

    def whole(self, old: TriedProgram, new: TriedProgram, seconds: float) -> Sequence[TimedPair]:
        """See `KernelTimer`."""
        runs, found = self._runs(old), []
        for first in _turns(seconds, _PAIRS_OF_RUNS):
            ordered = (old, new) if first else (new, old)
            times = [self._of_run(variant.executable, runs) for variant in ordered]
            found.append((times[0], times[1]) if first else (times[1], times[0]))
        return found

    def _runs(self, variant: TriedProgram) -> int:
        """How many take a turn's time."""
        self._of_run(variant.executable, 1)
        return int(min(max(_TURN / max(self._of_run(variant.executable, 1), 1e-9), 1), 1000))

    def _of_run(self, executable: Executable, runs: int) -> float:
        executable(*self._inputs)
        began = time.perf_counter()
        for _ in range(runs):
            executable(*self._inputs)
        return (time.perf_counter() - began) / runs

    def _of_tasks(self, executable: Executable, runs: int) -> dict[str, float]:
        found: dict[str, float] = {}
        for step in executable.profile(*self._inputs, runs=runs):
            name = step.label.partition(" ")[0]
            found[name] = found.get(name, 0.0) + step.nanoseconds * step.calls * 1e-9 / runs
        return found


def _turns(seconds: float, most: int = _PAIRS) -> Iterator[bool]:
    """Turns for so long: whether the old one is first."""
    began, count = time.perf_counter(), 0
    while count < _FEWEST or (count < most and time.perf_counter() - began < seconds):
        yield count % 2 == 0
        count += 1
