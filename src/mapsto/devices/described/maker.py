"""A maker that makes nothing: what would be planned for a device that is not there."""

from __future__ import annotations

from collections.abc import Mapping

from mapsto.devices.maker import Made
from mapsto.errors import ParseError
from mapsto.plan.home import Home
from mapsto.plan.plan import Offer
from mapsto.plan.task import Task

TEMPLATE = "described"


class DescribedMaker:
    """`name`: of the device, as plans have it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def make(self, task: Task, homes: Mapping[str, Home], offer: Offer | None = None) -> Made:
        """No calls: the work stands in the plan as something that the device is to do. See `Maker.make`."""
        taken = Offer(TEMPLATE)
        if offer is not None and offer != taken:
            raise ParseError(f"work {task.name}: {self.name} is only described; it is made as {TEMPLATE} alone")
        return Made(taken, (), because=(f"{self.name} is only described: no code is made",))
