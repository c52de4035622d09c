"""Tasks into what a maker makes of them: calls of the generic lowering, of a template, of routines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from mapsto.devices.maker import KernelCall, Made, NearKernel, Rival
from mapsto.devices.making.code import Shared, TaskCode
from mapsto.devices.making.handwritten import routine_calls
from mapsto.devices.making.sums import contraction_stmts
from mapsto.devices.making.template_names import BLOCKS, LOOPS, NOTHING, ROUTINE, SLICES, TILES, WINOGRAD
from mapsto.devices.making.usual import usual_case
from mapsto.errors import ParseError
from mapsto.ir.expr import mul
from mapsto.plan.chain import CHAIN
from mapsto.plan.home import Home
from mapsto.plan.plan import Offer
from mapsto.plan.task import SLICED, Task
from mapsto.runtime.arrays import ConstantArray

# Between the schedules of one task's kernels.
_NEXT = " | "

Tiles = Callable[[Task, TaskCode], list[KernelCall] | None]
"""A device's template for contractions: the calls, or None where it does not apply."""


@dataclass(frozen=True)
class Templates:
    """What a device makes contractions by. winograd: None where it does none so. tuned: the template that was measured
    to be faster for a task, where one was. chain, slices: of chains, and of what is done slice by slice (which raise
    ValueError where they do not apply).
    """

    tiles: Tiles
    winograd: Tiles | None = None
    tuned: Callable[[Task, TaskCode], str | None] | None = None
    chain: Callable[[Task, TaskCode], list[KernelCall]] | None = None
    slices: Callable[[Task, TaskCode], list[KernelCall]] | None = None


def make_task(
    task: Task,
    homes: Mapping[str, Home],
    offer: Offer | None,
    shared: Shared,
    constants: Mapping[str, np.ndarray],
    templates: Templates | None = None,
) -> Made:
    """What a maker makes of a task; see `Maker.make`. constants: of the graph. templates: None where a device
    has none, and a contraction is made as loops.
    """
    given = None if offer is None or offer.schedule is None else [s for s in offer.schedule.split(_NEXT) if s]
    code = TaskCode.of(shared, task, homes, constants, given)
    schedules = code.schedules
    if given is None:
        offer = _tuned(task, code, templates, offer)
    try:
        template, calls = _calls_of(task, code, templates, None if offer is None else offer.template)
    except ValueError as error:
        if offer is None:
            raise
        raise ParseError(f"work {task.name}: as {offer.template}: {error}") from error
    if offer is not None and (offer.template != template or given not in (None, schedules.taken)):
        raise ParseError(f"work {task.name}: no device offers {offer.template} with this schedule for it")
    because = tuple(dict.fromkeys(schedules.because))
    taken = Offer(template, _NEXT.join(schedules.taken))
    beaten = tuple(Rival(Offer(template, _NEXT.join(parts)), at, ratio) for at, parts, ratio in schedules.beaten())
    made: dict[str, ConstantArray] = {**task.constants, **code.made_constants}
    return Made(taken, tuple(calls), dict(code.homes.maps[0]), made, because, beaten)


def near_kernels(
    task: Task,
    homes: Mapping[str, Home],
    template: str,
    shared: Shared,
    constants: Mapping[str, np.ndarray],
    templates: Templates,
) -> list[NearKernel]:
    """See `TunableMaker.near`."""
    near: list[NearKernel] = []
    code = TaskCode.of(shared, task, homes, constants, None, near)
    made, _ = _calls_of(task, code, templates, template)
    return near if made == template else []


def _tuned(task: Task, code: TaskCode, templates: Templates | None, offer: Offer | None) -> Offer | None:
    """The offer, of the template that was tuned for the task where there is another one."""
    if templates is None or templates.tuned is None or task.kind != "contraction" or not code.shared.tuning:
        return offer
    asked = TILES if offer is None else offer.template
    found = templates.tuned(task, code) if asked in (TILES, WINOGRAD) else None
    if found not in (TILES, WINOGRAD) or found == asked:
        return offer
    code.schedules.explain(f"tuned: {found} was measured to be faster than {asked} here")
    return Offer(found, None)


def _calls_of(
    task: Task, code: TaskCode, templates: Templates | None, template: str | None
) -> tuple[str, list[KernelCall]]:
    """The template (the one that is asked for, where one is) and the calls that compute a task; none where nothing
    that it makes has an element.
    """
    if all(0 in code.homes[name].layout.shape for name in task.targets if name in code.homes):
        return NOTHING, []
    usual = None if task.kind == "routine" else usual_case(task, code)
    if usual is None:
        return _one_case(task, code, templates, template)
    first, others = _one_case(task, code, templates, template)
    own = usual.code(code, sorted(task.reads | set(task.targets)))
    better, calls = _one_case(usual.task(task), own, templates, template)
    code.adopt(own)
    return next((name for name in (WINOGRAD, TILES) if name in (first, better)), first), [
        *(replace(c, extent=mul(c.extent, usual.holds), task=task) for c in calls),
        *(replace(c, extent=mul(c.extent, 1 - usual.holds)) for c in others),
    ]


def _one_case(
    task: Task, code: TaskCode, templates: Templates | None, template: str | None
) -> tuple[str, list[KernelCall]]:
    if task.kind == "routine":
        return ROUTINE, routine_calls(task, code)
    if task.kind == CHAIN:
        if templates is None or templates.chain is None:
            raise ValueError("there is no template for chains")
        return BLOCKS, templates.chain(task, code)
    if task.kind == SLICED:
        if templates is None or templates.slices is None:
            raise ValueError("there is no template for works that are done slice by slice")
        return SLICES, templates.slices(task, code)
    if task.kind != "contraction":
        return LOOPS, [code.rows_call(task.stmts)]
    if templates is not None and templates.winograd is not None and template == WINOGRAD:
        calls = templates.winograd(task, code)
        if calls is not None:
            return WINOGRAD, calls
    if templates is not None and template != LOOPS:
        calls = templates.tiles(task, code)
        if calls is not None:
            return TILES, calls
        code.schedules.explain("the template cannot reach an operand by strides: lowered as plain loops")
    return LOOPS, [code.rows_call(contraction_stmts(task, code))]
