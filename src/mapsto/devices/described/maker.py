"""A maker that makes nothing: what would be planned for a device that is not there."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from mapsto.devices.contraction.core import Core
from mapsto.devices.generic.processor import Processor
from mapsto.devices.maker import Made
from mapsto.devices.making.code import Shared, TaskCode, Unwritten
from mapsto.devices.making.quotes import Quoting
from mapsto.errors import ParseError
from mapsto.ir.dtypes import DType
from mapsto.loop.ast import Function
from mapsto.machine.machine_file import Support
from mapsto.machine.spec import DeviceSpec, Machine
from mapsto.machine.text import digest
from mapsto.plan.asked import Quote
from mapsto.plan.contraction import Contraction
from mapsto.plan.contraction_tally import Extents, TemplateShare
from mapsto.plan.home import Home
from mapsto.plan.plan import Offer
from mapsto.plan.rules.base import Refusal
from mapsto.plan.task import Task
from mapsto.plan.traits import Traits

TEMPLATE = "described"
EVERYTHING = Support()
# Of a device of which nothing else is said: vectors of 16 lanes, and a template for contractions that fill half of one.
TRAITS = Traits(16, least_blocked=8, least_columns=4, least_channels=16, least_of_a_group=16, most_waiting=8)


class DescribedMaker:
    """spec: the device, by the name that plans have for it. `traits`: what it would ask for."""

    def __init__(
        self, spec: DeviceSpec, constants: Mapping[str, np.ndarray] | None = None, traits: Traits = TRAITS,
        support: Support = EVERYTHING, tile: tuple[int, int] = (1, 1),
    ) -> None:  # fmt: skip
        self.name = spec.name
        self.support = support
        self.spec = spec
        self.traits = traits
        self.machine = digest(Machine((spec,)))
        self.constants = constants or {}
        self._quoting = Quoting(Shared(_Nothing()), self.constants, spec, _InTiles(*tile))

    def offers(
        self,
        task: Task,
        homes: Mapping[str, Home],
        sizes: Mapping[str, int],
        distances: Mapping[str, float] | None = None,
    ) -> tuple[Quote | Refusal, ...]:
        """See `plan.asked.Asked`. A work that the device does not take is refused, with the reason."""
        why = self._refuses(task, homes)
        return (Refusal(why),) if why else self._quoting.offers(task, homes, sizes, distances)

    def _refuses(self, task: Task, homes: Mapping[str, Home]) -> str:
        support = self.support
        if support.ops is not None and (other := sorted({n.op for n in task.nodes} - support.ops)):
            return f"{self.name} does not take {', '.join(other)}"
        touched = [homes[name] for name in sorted((*task.reads, *task.targets)) if name in homes]
        types = {home.dtype for home in touched}
        if support.types is not None and (wrong := sorted(t.value for t in types - support.types)):
            return f"{self.name} does not take {', '.join(wrong)}"
        if support.fixed and any(not isinstance(d, int) for home in touched for d in home.layout.shape):
            return f"{self.name} takes fixed sizes alone"
        return ""

    def make(self, task: Task, homes: Mapping[str, Home], offer: Offer | None = None) -> Made:
        """No calls: the work stands in the plan as something that the device is to do. See `Maker.make`."""
        taken = Offer(TEMPLATE)
        if offer is not None and offer.schedule is not None and offer != taken:
            raise ParseError(f"work {task.name}: {self.name} is only described; it is made as {TEMPLATE} alone")
        return Made(taken, (), because=(f"{self.name} is only described: no code is made",))


class _InTiles:
    """A template of which nothing is known but its tiles: it reaches everything, and its device's peak in full ones."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns

    def reaches(self, task: Task, code: TaskCode) -> bool:
        return True

    def reads_directly(self, c: Contraction, code: TaskCode) -> bool:
        return True

    def reach(self, extents: Extents, a: DType, b: DType, total: DType, out: DType) -> TemplateShare:
        rows = math.prod(extents.rows)
        down, across = -(-rows // self.rows), -(-extents.columns // self.columns)
        filled = rows * extents.columns / max(down * self.rows * across * self.columns, 1)
        return TemplateShare(filled or 1.0, shares=float(max(extents.batch * down * across, 1)))

    def winograd(self, task: Task, code: TaskCode) -> None:
        return None


class _Nothing:
    """A `making.code.MadeFor` that no function is made for."""

    fused = True

    @property
    def processor(self) -> Processor:
        raise AssertionError("a device that is only described has no loops")

    @property
    def core(self) -> Core:
        raise AssertionError("a device that is only described has no tiles")

    def add(self, function: Function, optimizer: str) -> str:
        raise AssertionError("a device that is only described has no functions")

    def add_later(self, source: Unwritten, optimizer: str) -> str:
        raise AssertionError("a device that is only described has no functions")
