"""A maker that makes nothing: what would be planned for a device that is not there."""

from __future__ import annotations

from collections.abc import Mapping

from mapsto.devices.maker import Made
from mapsto.errors import ParseError
from mapsto.plan.home import Home
from mapsto.plan.plan import Offer
from mapsto.plan.task import Task
from mapsto.plan.traits import Traits

TEMPLATE = "described"
# Of a device of which nothing else is said: vectors of 16 lanes, and a template for contractions that fill half of one.
TRAITS = Traits(block=16, least_blocked=8, least_columns=4, least_channels=16, least_of_a_group=16)


class DescribedMaker:
    """`name`: of the device, as plans have it. `traits`: what it would ask for."""

    def __init__(self, name: str, traits: Traits = TRAITS) -> None:
        self.name = name
        self.traits = traits

    def make(self, task: Task, homes: Mapping[str, Home], offer: Offer | None = None) -> Made:
        """No calls: the work stands in the plan as something that the device is to do. See `Maker.make`."""
        taken = Offer(TEMPLATE)
        if offer is not None and offer != taken:
            raise ParseError(f"work {task.name}: {self.name} is only described; it is made as {TEMPLATE} alone")
        return Made(taken, (), because=(f"{self.name} is only described: no code is made",))
