"""A maker that makes nothing: what would be planned for a device that is not there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mapsto.devices.contraction.core import Core
from mapsto.devices.generic.processor import Processor
from mapsto.devices.maker import Made
from mapsto.devices.making.code import Shared, TaskCode
from mapsto.devices.making.quotes import Quoting
from mapsto.errors import ParseError
from mapsto.ir.dtypes import DType
from mapsto.loop.ast import Function
from mapsto.machine.spec import DeviceSpec, Machine
from mapsto.machine.text import digest
from mapsto.plan.contraction import Contraction
from mapsto.plan.contraction_tally import Extents, TemplateShare
from mapsto.plan.home import Home
from mapsto.plan.plan import Offer
from mapsto.plan.task import Task
from mapsto.plan.traits import Traits

TEMPLATE = "described"
# Of a device of which nothing else is said: vectors of 16 lanes, and a template for contractions that fill half of one.
TRAITS = Traits(16, least_blocked=8, least_columns=4, least_channels=16, least_of_a_group=16, most_waiting=8)


class DescribedMaker:
    """spec: the device, by the name that plans have for it. `traits`: what it would ask for."""

    def __init__(
        self, spec: DeviceSpec, constants: Mapping[str, np.ndarray] | None = None, traits: Traits = TRAITS
    ) -> None:
        self.name = spec.name
        self.spec = spec
        self.traits = traits
        self.machine = digest(Machine((spec,)))
        self.constants = constants or {}
        self.offers = Quoting(Shared(_Nothing()), self.constants, spec, _AtThePeak()).offers

    def make(self, task: Task, homes: Mapping[str, Home], offer: Offer | None = None) -> Made:
        """No calls: the work stands in the plan as something that the device is to do. See `Maker.make`."""
        taken = Offer(TEMPLATE)
        if offer is not None and offer.schedule is not None and offer != taken:
            raise ParseError(f"work {task.name}: {self.name} is only described; it is made as {TEMPLATE} alone")
        return Made(taken, (), because=(f"{self.name} is only described: no code is made",))


class _AtThePeak:
    """A template of which nothing is known: it reaches everything, and its device's peak."""

    def reaches(self, task: Task, code: TaskCode) -> bool:
        return True

    def reads_directly(self, c: Contraction, code: TaskCode) -> bool:
        return True

    def reach(self, extents: Extents, a: DType, b: DType, total: DType, out: DType) -> TemplateShare:
        return TemplateShare(1.0)


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
