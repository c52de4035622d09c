"""Which dim each value lies innermost by: one problem over the whole graph, from what each task costs where its values
lie so or so.

Values that are tied lie alike (`votes.Seat`), so a seat is a variable; a task is a table over the seats that it
touches: itself, with the copies that it would need, or nothing where it is a view then. What the votes say is the
incumbent. `solve` finds the least sum, or says how much less it could be.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mapsto.ir.graph import Value
from mapsto.plan.home import Home, Inner
from mapsto.plan.initial import Setting
from mapsto.plan.items import Item, tasks
from mapsto.plan.prices import Prices
from mapsto.plan.settle import settled_alone
from mapsto.plan.slices import Slice, slice_concats
from mapsto.plan.task import Task
from mapsto.plan.views import view_source
from mapsto.plan.votes import Wishes
from mapsto.solve.best import solve
from mapsto.solve.problem import Problem, Table

# Cells of one task's table. A task that touches more seats is priced with the others where they are.
_MOST_CELLS = 16
# The share of the whole that another choice than the votes' must save (panels, of the tasks that touch them): below, it
# is within what prices are good for.
LEAST_GAIN = 0.01


@dataclass(frozen=True)
class Seated:
    """`choice`: of each seat (by number), a place in its inners. Seconds of all tasks that a choice touches: as chosen,
    at least, and as voted. `losses`: by seat and inner, seconds that the whole loses with that one (`exact`: else at
    least).
    """

    choice: Mapping[int, int]
    seconds: float
    bound: float
    voted: float
    method: str
    exact: bool
    losses: Mapping[int, tuple[float, ...]]


@dataclass(frozen=True)
class Free:
    """A graph whose values are to be seated, and the tables of its tasks. known: homes of what comes in. outputs: of
    the graph and of nested ones.
    """

    items: Sequence[Item]
    wished: Wishes
    setting: Setting
    known: Mapping[str, Home]
    outputs: frozenset[str]
    values: Mapping[str, Value]
    prices: Prices

    @cached_property
    def seat_of(self) -> dict[str, int]:
        return {name: at for at, s in enumerate(self.wished.seats) if len(s.inners) > 1 for name in s.values}

    @cached_property
    def makers(self) -> dict[str, Task]:
        return {name: task for task in tasks(self.items) for name in task.targets}

    def tables(self) -> Iterator[Table]:
        """Of the tasks that touch an open seat."""
        for task in tasks(self.items):
            before = self._moved(task)
            names = dict.fromkeys(
                [*(n for t in before for n in sorted(t.reads)), *sorted(task.reads), *task.targets]
            )
            seats, cells = [], 1
            for at in dict.fromkeys(self.seat_of[n] for n in names if n in self.seat_of):
                cells *= len(self.wished.seats[at].inners)
                if cells <= _MOST_CELLS:
                    seats.append(at)
            if seats and task.kind != "routine":
                yield self._table(task, before, seats)

    def _moved(self, task: Task) -> list[Task]:
        """Tasks that only move what this one reads, by way of which it may see something else as it lies."""
        found: list[Task] = []
        waiting = sorted(task.reads)
        while waiting:
            maker = self.makers.get(waiting.pop())
            if maker is not None and maker not in found and (load := view_source(maker)) is not None:
                found.append(maker)
                waiting.append(load.tensor)
        return found[::-1]

    def _table(self, task: Task, before: list[Task], seats: list[int]) -> Table:
        counts = [len(self.wished.seats[at].inners) for at in seats]
        costs = np.zeros(counts)
        for cell in itertools.product(*map(range, counts)):
            costs[cell] = self._seconds(task, before, self.wished.seated(dict(zip(seats, cell, strict=True))))
        return Table(tuple(map(_name, seats)), costs)

    def _seconds(self, task: Task, before: list[Task], wished: Wishes) -> float:
        slices: Mapping[str, Slice] = {}
        if task.is_concat:
            makers = [self.makers[n] for n in sorted(task.reads) if n in self.makers]
            changed, slices, _ = slice_concats([*makers, task], self.values, wished, self.setting.traits.block)
            last = changed[-1]
            assert isinstance(last, Task)
            task = last
        taken, homes = settled_alone(
            task, before, self.known, self.setting, wished, slices, self.outputs, self.values
        )
        return math.fsum(self.prices.seconds(each, homes) for each in taken)


def seat(free: Free) -> Seated:
    """The dims of all seats, by what works cost."""
    wished = free.wished
    open_seats = [at for at, s in enumerate(wished.seats) if len(s.inners) > 1]
    problem = Problem({_name(at): len(wished.seats[at].inners) for at in open_seats}, tuple(free.tables()))
    incumbent = {_name(at): wished.seats[at].voted for at in open_seats}
    voted = problem.cost(incumbent)
    found = solve(problem, incumbent)
    panels = {_name(at) for at in open_seats if _is_panels(wished.seats[at].inners[found.choice[_name(at)]])}
    choice = _worth(problem, incumbent, found.choice, panels)
    cost = problem.cost(choice)
    more = found.cost - cost  # losses count from the least sum
    losses = {at: tuple(loss + more for loss in found.losses[_name(at)]) for at in open_seats}
    return Seated(
        {at: choice[_name(at)] for at in open_seats}, cost, found.bound, voted, found.method, found.exact, losses
    )


def _worth(
    problem: Problem, incumbent: Mapping[str, int], found: Mapping[str, int], panels: Set[str]
) -> dict[str, int]:
    """What is found, where that saves enough of the whole; and panels, each of which may save a pass over memory, where
    they save enough of the tasks that touch them. panels: the seats that are found to be such.
    """
    other = {**found, **{name: incumbent[name] for name in panels}}
    choice = other if problem.cost(other) <= problem.cost(incumbent) * (1 - LEAST_GAIN) else dict(incumbent)
    for name in sorted(panels):
        tables = [table for table in problem.tables if name in table.variables]
        before, after = (
            math.fsum(float(t.costs[tuple(at[v] for v in t.variables)]) for t in tables)
            for at in (choice, {**choice, name: found[name]})
        )
        if after <= before * (1 - LEAST_GAIN):
            choice[name] = found[name]
    return choice


def _is_panels(inner: Inner | None) -> bool:
    return inner is not None and inner.panels


def _name(at: int) -> str:
    return f"s{at}"
