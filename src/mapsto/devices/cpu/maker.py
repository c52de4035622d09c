"""The CPU as a maker: tasks into native code of one instruction set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from mapsto.devices.cpu.functions import Functions
from mapsto.devices.cpu.isa import Isa
from mapsto.devices.cpu.traits import TRAITS
from mapsto.devices.maker import Made, NearKernel
from mapsto.devices.making.chains import chain_calls
from mapsto.devices.making.code import Shared, Unwritten
from mapsto.devices.making.contractions import template_calls
from mapsto.devices.making.points import point_calls
from mapsto.devices.making.quotes import Quoting
from mapsto.devices.making.sliced import slice_calls
from mapsto.devices.making.tasks import Templates, make_task, near_kernels
from mapsto.devices.making.tile_quotes import TileTemplate
from mapsto.devices.making.winograd import tuned_template
from mapsto.machine.spec import Machine
from mapsto.machine.text import digest
from mapsto.machine.tuning import NO_TUNING, Tuning, tuned_digest
from mapsto.plan.home import Home
from mapsto.plan.plan import Offer
from mapsto.plan.task import Task


class CpuMaker:
    """Makes the tasks of one program. constants: of its graph. submit: is given (name, LLVM IR, optimizer) of each
    function as soon as it is known. machine: whose host's figures decide. tuning: what was measured of single kernels
    on it. submit_later: see `Functions`.
    """

    def __init__(
        self,
        isa: Isa,
        constants: Mapping[str, np.ndarray],
        submit: Callable[[str, str, str], None],
        machine: Machine,
        tuning: Tuning = NO_TUNING,
        submit_later: Callable[[str, Unwritten, str], None] | None = None,
    ) -> None:
        self.name = isa.name
        self.traits = TRAITS
        self.spec = machine.host
        self.machine = tuned_digest(digest(machine), tuning)
        self.constants = constants
        self._shared = Shared(Functions(isa, submit, submit_later), tuning)
        core = isa.core
        self._templates = Templates(
            partial(template_calls, core=core), partial(point_calls, core=core), partial(tuned_template, core=core),
            partial(chain_calls, core=core), partial(slice_calls, core=core),
        )
        self.offers = Quoting(self._shared, constants, self.spec, TileTemplate(core)).offers

    def make(self, task: Task, homes: Mapping[str, Home], offer: Offer | None = None) -> Made:
        """Code for a task; see `Maker.make`."""
        return make_task(task, homes, offer, self._shared, self.constants, self._templates)

    def near(self, task: Task, homes: Mapping[str, Home], template: str) -> Sequence[NearKernel]:
        """Other schedules of a task's kernels; see `TunableMaker.near`."""
        return near_kernels(task, homes, template, self._shared, self.constants, self._templates)
