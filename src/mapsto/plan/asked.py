"""What deciding asks of a device: how it wants values to lie, and what each way of doing a task would cost.

A quote is in closed form (operations, bytes, launches): no schedule is made for it. A maker (`devices.maker.Maker`) is
asked; nothing here knows which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from mapsto.machine.cost import Cost, Tally, price
from mapsto.machine.spec import DeviceSpec
from mapsto.plan.home import Home
from mapsto.plan.rules.base import Refusal
from mapsto.plan.task import Task
from mapsto.plan.traits import Traits


@dataclass(frozen=True)
class Quote:
    """What a template would take for a task. `tallies`: one a kernel; `cost`: their sum, on all units of the device."""

    template: str
    cost: Cost
    tallies: tuple[Tally, ...] = ()

    def slower(self, at: int, ratio: float, spec: DeviceSpec) -> float:
        """Seconds that it would take more if what units compute for kernel number `at` (not what memory gives) took
        `ratio` times as long.
        """
        tally = self.tallies[at]
        return price(_stretched(tally, ratio), spec, spec.units).seconds - price(tally, spec, spec.units).seconds


def quoted(template: str, tallies: Sequence[Tally], spec: DeviceSpec) -> Quote:
    """The quote for these kernels, one after the other."""
    return Quote(template, sum((price(tally, spec, spec.units) for tally in tallies), Cost()), tuple(tallies))


def _stretched(tally: Tally, ratio: float) -> Tally:
    def times(counts: Mapping[str, float]) -> dict[str, float]:
        return {key: count * ratio for key, count in counts.items()}

    if tally.products:
        return replace(tally, products={key: count * ratio for key, count in tally.products.items()})
    return replace(
        tally,
        elements=times(tally.elements),
        moves=times(tally.moves),
        scalar=tally.scalar * ratio,
        loops=tally.loops * ratio,
        chain=tally.chain * ratio,
    )


class Asked(Protocol):
    """A device, as deciding sees it."""

    @property
    def name(self) -> str:
        """As plans have it."""

    @property
    def spec(self) -> DeviceSpec:
        """Its figures."""

    @property
    def machine(self) -> str:
        """A digest of the machine's figures: plans that were decided by the same ones are the same."""

    @property
    def traits(self) -> Traits:
        """How it wants values to lie."""

    @property
    def constants(self) -> Mapping[str, np.ndarray]:
        """Of the graph that is planned: what is made of them is made when compiling."""

    def offers(
        self,
        task: Task,
        homes: Mapping[str, Home],
        sizes: Mapping[str, int],
        distances: Mapping[str, float] | None = None,
    ) -> Sequence[Quote | Refusal]:
        """The ways in which it could do a task whose operands and results lie so, and refusals. The first quote is the
        one to take: the cheapest, but for what counts of such kernels are good for.

        homes: of all that is in memory; what else the task makes stays inside of it. sizes: a guess for each open one.
        distances: bytes touched since each operand was touched last (None: what this task touches).
        """
