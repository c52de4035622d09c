"""The contraction template in closed form, as quotes count it."""

from __future__ import annotations

from dataclasses import dataclass

from mapsto.devices.contraction.core import Core
from mapsto.devices.contraction.reach import reach
from mapsto.devices.making.code import TaskCode
from mapsto.devices.making.contractions import template_reach
from mapsto.devices.making.packed import direct_b
from mapsto.devices.making.points import point_shares
from mapsto.ir.dtypes import DType
from mapsto.plan.contraction import Contraction
from mapsto.plan.contraction_tally import Extents, TemplateShare, WinogradShare
from mapsto.plan.task import Task


@dataclass(frozen=True)
class TileTemplate:
    """A `making.quotes.Template`."""

    core: Core

    def reaches(self, task: Task, code: TaskCode) -> bool:
        """See `Template`."""
        return template_reach(task, code) is not None

    def reads_directly(self, c: Contraction, code: TaskCode) -> bool:
        """See `Template`."""
        return direct_b(c, code) is not None

    def reach(self, extents: Extents, a: DType, b: DType, total: DType, out: DType) -> TemplateShare:
        """See `Template`."""
        return reach(self.core, extents, a, b, total, out)

    def winograd(self, task: Task, code: TaskCode) -> list[WinogradShare] | None:
        """See `Template`."""
        return point_shares(task, code, self.core)
