"""What a device is to the plan: a maker of works.

A maker is asked for the code of one task at a time, with the homes of what it reads and writes, and knows no other
task. With no schedule given it chooses one and says it; with one given (a plan is replayed) it chooses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mapsto.ir.expr import Dim
from mapsto.plan.home import Home
from mapsto.plan.plan import Offer
from mapsto.plan.task import Task
from mapsto.plan.traits import Traits


@dataclass(frozen=True)
class Call:
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
class Made:
    """What a maker makes of a task. `offer`: template and schedule in full. `homes`: of what it needs besides (scratch,
    packed constants). `constants`: among those. `because`: why this schedule.
    """

    offer: Offer
    calls: tuple[Call, ...]
    homes: Mapping[str, Home] = field(default_factory=dict)
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    because: tuple[str, ...] = ()


class Maker(Protocol):
    """A device."""

    @property
    def name(self) -> str:
        """As plans have it."""

    @property
    def traits(self) -> Traits:
        """How it wants values laid and contractions formed. The same for all makers of that name."""

    def make(self, task: Task, homes: Mapping[str, Home], offer: Offer | None) -> Made:
        """Code for a task. `offer`: the one to take; None: the maker's own choice. Raises ParseError for an offer that
        it cannot read.
        """
