"""What a device is to the plan: a maker of works.

A maker is asked for the code of one task at a time, with the homes of what it reads and writes, and knows no other
task. With no schedule given it chooses one and says it; with one given (a plan is replayed) it chooses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mapsto.ir.expr import Dim
from mapsto.plan.asked import Asked
from mapsto.plan.home import Home
from mapsto.plan.plan import Offer
from mapsto.plan.task import Task
from mapsto.runtime.arrays import ConstantArray


@dataclass(frozen=True)
class KernelCall:
    """One step's call: which function, on which values, with which sizes. `writes`: positions of the operands it
    stores to.

    `grain`: the least share of the extent that is worth a thread of its own. `work`: about how many operations the
    whole takes (sizes not known before a run: typical).
    """

    function: str
    operands: tuple[str, ...]
    writes: tuple[int, ...]
    dims: tuple[Dim, ...]
    extent: Dim
    task: Task
    grain: int = 1
    work: float = 0.0


@dataclass(frozen=True)
class Rival:
    """Another schedule of the template that was taken: its kernel number `at` would compute `ratio` times as long."""

    offer: Offer
    at: int
    ratio: float


@dataclass(frozen=True)
class NearKernel:
    """A kernel of a task: the digest of its form, its template and schedule, and other schedules of that template that
    are not much dearer, with about how often the cost of what costs choose.
    """

    key: str
    template: str
    schedule: str
    others: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Made:
    """What a maker makes of a task. `offer`: template and schedule in full. `homes`: of what it needs besides (scratch,
    packed constants). `constants`: among those. `because`: why this schedule. `beaten`: the next best ones.
    """

    offer: Offer
    calls: tuple[KernelCall, ...]
    homes: Mapping[str, Home] = field(default_factory=dict)
    constants: Mapping[str, ConstantArray] = field(default_factory=dict)
    because: tuple[str, ...] = ()
    beaten: tuple[Rival, ...] = ()


class Maker(Asked, Protocol):
    """A device: it is asked what ways it has and what they cost, and makes what is taken."""

    def make(self, task: Task, homes: Mapping[str, Home], offer: Offer | None) -> Made:
        """Code for a task. `offer`: the one to take, its schedule the maker's own choice where it has none (a template
        alone was taken); None: the maker's own choice altogether. Raises ParseError for an offer that it cannot read.
        """


class TunableMaker(Maker, Protocol):
    """One whose schedules may be tuned: it says which others there are."""

    def near(self, task: Task, homes: Mapping[str, Home], template: str) -> Sequence[NearKernel]:
        """The kernels that it makes a task of by a template, each with the schedules that are near; none where the
        template does not apply.
        """
