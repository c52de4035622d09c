"""Contractions by products at points: convolutions of 3x3 taps, and correlations of images at 3x3 shifts."""

from __future__ import annotations

from mapsto.devices.contraction.core import Core
from mapsto.devices.maker import KernelCall
from mapsto.devices.making.code import TaskCode
from mapsto.devices.making.correlations import correlation_calls, correlation_reach, correlation_share
from mapsto.devices.making.winograd import winograd_calls, winograd_reach, winograd_share
from mapsto.plan.contraction_tally import WinogradShare
from mapsto.plan.task import Task


def point_calls(task: Task, code: TaskCode, core: Core) -> list[KernelCall] | None:
    """The calls that compute a contraction task so; None where it cannot be."""
    calls = winograd_calls(task, code, core)
    return correlation_calls(task, code, core) if calls is None else calls


def point_shares(task: Task, code: TaskCode, core: Core) -> list[WinogradShare] | None:
    """What it takes for each phase; None where it cannot be done by them."""
    reached = winograd_reach(task, code, core)
    if reached is not None:
        pairs = zip(task.phases, reached, strict=True)
        return [winograd_share(task, c, each, code, core) for c, each in pairs]
    found = correlation_reach(task, code, core)
    return None if found is None else [correlation_share(found, core)]
