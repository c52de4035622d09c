"""What a rule of fusion is: a pure function of two tasks and of who reads what, with a reason where it does not apply.

Three questions, in this order, so that most pairs cost nothing:
- `allowed`: may the two meet, by who else reads what the first makes, and by their own sizes? ("" or why not)
- `join`: the task that does both. Right whenever it is allowed; Refusal where the forms do not fit each other.
- `pays`: is the joined task better than the two? ("" or why not)

A recipe is replayed by `join` alone.

A `SiblingRule` is of tasks that read the same value, and not each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from mapsto.ir.expr import Dim
from mapsto.ir.graph import Value
from mapsto.machine.spec import DeviceSpec
from mapsto.plan.home import Home
from mapsto.plan.task import Task


@dataclass(frozen=True)
class Refusal:
    """Why a rule does not apply."""

    why: str


class Around(Protocol):
    """What the rest of the graph says of a source and its reader."""

    def alone(self, value: str) -> bool:
        """Whether the reader at hand is all that reads a value, and the value does not leave the graph."""

    def goes_out(self, value: str) -> bool:
        """Whether a value leaves the graph."""

    def between(self) -> bool:
        """Whether somebody who comes before the reader reads what the source makes."""

    def passes_on(self) -> bool:
        """Whether what the reader makes would be computed where it is read, for a sum, and not be in memory."""

    def columns(self, value: str) -> int | None:
        """Which dim of a value holds the columns of the contraction that makes it; None where none does."""

    def value(self, name: str) -> Value:
        """A value's type."""

    @property
    def spec(self) -> DeviceSpec:
        """Figures of the device that the tasks are for."""

    def size(self, e: Dim) -> int:
        """An extent as a number: a guess where it is open."""

    def saved(self, joined: Task) -> float:
        """Seconds that the two take longer than the one that does both, everything lying row-major."""


Allows = Callable[[Task, Task, str, Around], str]
Join = Callable[[Task, Task, str], Task | Refusal]
Pays = Callable[[Task, Task, str, Task, Around], str]


@dataclass(frozen=True)
class Rule:
    """`name`: as recipes have it. `reads`, `takes`: kinds of the reader and of the source that it looks at."""

    name: str
    reads: str
    takes: str
    allowed: Allows
    join: Join
    pays: Pays

    def apply(self, source: Task, reader: Task, value: str, around: Around) -> Task | Refusal:
        """The joined task, where the rule applies to `reader` reading `value` of `source`."""
        if why := self.allowed(source, reader, value, around):
            return Refusal(why)
        joined = self.join(source, reader, value)
        if isinstance(joined, Refusal):
            return joined
        why = self.pays(source, reader, value, joined, around)
        return Refusal(why) if why else replace(joined, parts=(source, reader))


class Beside(Protocol):
    """What the rest of the graph, and the device, say of tasks that may be siblings."""

    def goes_out(self, value: str) -> bool:
        """Whether a value leaves the graph."""

    def pinned(self, value: str) -> bool:
        """Whether a user says how a value lies."""

    def readers(self, value: str) -> Sequence[Task | None]:
        """All that reads a value; None for what is no task."""

    def value(self, name: str) -> Value:
        """A value's type."""

    def seconds(self, task: Task, homes: Mapping[str, Home]) -> float:
        """What a task takes where this lies so, and all else that it reads is row-major."""


Constants = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class SiblingRule:
    """`name`: as recipes have it. The questions, from the cheapest on ("" or why not):
    - `fits`: are two tasks alike but for their constants?
    - `suits`: may what a task makes be a part of something wider, by who reads it?
    - `meets`: may tasks that fit each other in pairs be one, in this order?
    - `join`: the task that does all of them; right for whatever fits, else a Refusal. A recipe is replayed by it alone.
      Given are the graph's constants, and a prefix that no name in the graph begins with.
    - `pays`: is the joined task better than all of them?
    - `part`: what one of the joined made, by its name, as a slice of what the joined task makes: a task that only
      moves.
    """

    name: str
    fits: Callable[[Task, Task, Constants], str]
    suits: Callable[[Task, Beside], str]
    meets: Callable[[Sequence[Task], Beside], str]
    join: Callable[[Sequence[Task], Constants, str], Task | Refusal]
    pays: Callable[[Sequence[Task], Task, Beside], str]
    part: Callable[[Sequence[Task], Task, str, str], Task | Refusal]
