"""OpenCL as a maker: tasks into kernels in OpenCL C, by the contraction template, generic lowering and routines."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from mapsto.devices.maker import Made
from mapsto.devices.making.code import Shared
from mapsto.devices.making.contractions import template_calls
from mapsto.devices.making.quotes import Quoting
from mapsto.devices.making.tasks import Templates, make_task
from mapsto.devices.making.tile_quotes import TileTemplate
from mapsto.devices.making.winograd import winograd_calls
from mapsto.devices.opencl.functions import Functions
from mapsto.devices.opencl.traits import TRAITS
from mapsto.errors import UnsupportedError
from mapsto.machine.spec import DeviceSpec, Machine
from mapsto.machine.text import digest
from mapsto.plan.home import Home
from mapsto.plan.plan import Offer
from mapsto.plan.task import Task


class OpenClMaker:
    """Makes the tasks of one program. constants: of its graph. functions: take what is made. spec: the device's."""

    def __init__(self, name: str, constants: Mapping[str, np.ndarray], functions: Functions, spec: DeviceSpec) -> None:
        self.name = name
        self.traits = TRAITS
        self.spec = spec
        self.machine = digest(Machine((spec,)))
        self.constants = constants
        self._shared = Shared(functions)
        core = functions.core
        self._templates = Templates(partial(template_calls, core=core), partial(winograd_calls, core=core))
        self.offers = Quoting(self._shared, constants, spec, TileTemplate(core)).offers

    def make(self, task: Task, homes: Mapping[str, Home], offer: Offer | None = None) -> Made:
        """Code for a task; see `Maker.make`. Raises UnsupportedError, naming its nodes, where the device has no code
        for it.
        """
        try:
            return make_task(task, homes, offer, self._shared, self.constants, self._templates)
        except UnsupportedError as error:
            nodes = ", ".join(task.sources or task.first_nodes)
            raise UnsupportedError(f"{self.name} cannot compute {nodes}: {error}") from error
