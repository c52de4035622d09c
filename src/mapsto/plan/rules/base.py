"""What a rule of fusion is: a pure function of two tasks and of who reads what, with a reason where it does not apply.

Three questions, in this order, so that most pairs cost nothing:
- `allowed`: may the two meet, by who else reads what the first makes, and by their own sizes? ("" or why not)
- `join`: the task that does both. Right whenever it is allowed; Refusal where the forms do not fit each other.
- `pays`: is the joined task better than the two? ("" or why not)

A recipe is replayed by `join` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from mapsto.ir.expr import Dim
from mapsto.ir.graph import Value
from mapsto.machine.spec import DeviceSpec
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

    def value(self, name: str) -> Value:
        """A value's type."""

    @property
    def spec(self) -> DeviceSpec:
        """Figures of the device that the tasks are for."""

    def size(self, e: Dim) -> int:
        """An extent as a number: a guess where it is open."""

    def saved(self, joined: Task) -> float:
        """Seconds that the two take longer than the one that does both, everything lying row-major."""


Allowed = Callable[[Task, Task, str, Around], str]
Join = Callable[[Task, Task, str], Task | Refusal]
Pays = Callable[[Task, Task, str, Task, Around], str]


@dataclass(frozen=True)
class Rule:
    """`name`: as recipes have it. `reads`, `takes`: kinds of the reader and of the source that it looks at."""

    name: str
    reads: str
    takes: str
    allowed: Allowed
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
