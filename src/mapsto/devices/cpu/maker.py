"""The CPU as a maker: tasks into native code of one instruction set."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping

import numpy as np

from mapsto.devices.cpu.code import Code, Schedules, Shared
from mapsto.devices.cpu.isa import Isa
from mapsto.devices.cpu.tasks import calls_of
from mapsto.devices.maker import Made
from mapsto.errors import ParseError
from mapsto.plan.home import Home
from mapsto.plan.plan import Offer
from mapsto.plan.task import Task

# Between the schedules of one task's kernels.
_NEXT = " | "


class CpuMaker:
    """Makes the tasks of one program. constants: of its graph. submit: is given (name, LLVM IR, optimizer) of each
    function as soon as it is known.
    """

    def __init__(
        self, isa: Isa, constants: Mapping[str, np.ndarray], submit: Callable[[str, str, str], None]
    ) -> None:
        self.name = isa.name
        self._constants = constants
        self._shared = Shared(isa, submit)

    def make(self, task: Task, homes: Mapping[str, Home], offer: Offer | None = None) -> Made:
        """Code for a task; see `Maker.make`."""
        given = None if offer is None else [s for s in offer.schedule.split(_NEXT) if s]
        schedules = Schedules(given)
        code = Code(
            self._shared,
            task,
            ChainMap({}, homes),  # type: ignore[arg-type]  # only its first map is written to
            ChainMap({}, task.values),
            ChainMap({}, dict(task.constants), self._constants),  # type: ignore[arg-type]
            schedules,
        )
        try:
            template, calls = calls_of(task, code, None if offer is None else offer.template)
        except ValueError as error:
            if offer is None:
                raise
            raise ParseError(f"work {task.name}: as {offer.template}: {error}") from error
        if offer is not None and (offer.template != template or schedules.taken != given):
            raise ParseError(f"work {task.name}: no device offers {offer.template} with this schedule for it")
        because = tuple(dict.fromkeys(schedules.because))
        made = Offer(template, _NEXT.join(schedules.taken))
        return Made(made, tuple(calls), dict(code.homes.maps[0]), {**task.constants, **code.constants.maps[0]}, because)
