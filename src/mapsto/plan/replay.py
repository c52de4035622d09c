"""Whether a plan may be replayed, and doing so: it is of this graph, laid for this device.

A plan of something else would be made into slow or wrong code without a word. One of another version of mapsto is
replayed where passes still make the same graph of the model (docs/reliability.md).
"""

from __future__ import annotations

from dataclasses import MISSING, fields, replace

from mapsto.errors import ParseError
from mapsto.ir.graph import Graph
from mapsto.plan.derive import derive
from mapsto.plan.home import as_it_comes
from mapsto.plan.initial import setting_of
from mapsto.plan.items import tasks
from mapsto.plan.mapped import Mapped
from mapsto.plan.plan import Plan
from mapsto.plan.text import traits_text
from mapsto.plan.traits import Traits
from mapsto.plan.verify import verify


def _as_asked(said: Traits | None, traits: Traits) -> bool:
    """Whether a plan was made for what a maker asks for. What a maker need not say (how far rows are best apart, how
    many are a block) is in where the plan's values lie, and in its schedules.
    """
    unsaid = {f.name: getattr(traits, f.name) for f in fields(traits) if f.default is not MISSING}
    return said is not None and replace(said, **unsaid) == traits


def check_origin(plan: Plan, origin: tuple[str, str], device: str, traits: Traits) -> None:
    """Raises ParseError, naming line and key, for a plan of another device or graph, or one laid for a maker that asks
    for something else. origin: the graph's digest, and this version of mapsto.
    """
    digest, version = origin
    made = "" if plan.version == version else f" (made by mapsto {plan.version}; this is {version})"
    if plan.device != device:
        raise _fault(plan.lines.get("plan"), f"for: {plan.device}, but code is made for {device}; make a plan for that")
    if not plan.items and not plan.digest:
        return  # pins alone say by names what they are of
    if not plan.digest:
        raise _fault(None, "there is no line `graph DIGEST by mapsto VERSION`, which says what the plan is of")
    line = plan.lines.get("graph")
    if plan.items and not _as_asked(plan.traits, traits):
        asked = "nothing" if plan.traits is None else traits_text(plan.traits)
        raise _fault(plan.lines.get("traits"), f"traits: {asked}, but {device} asks for {traits_text(traits)}{made}")
    if plan.digest != digest:
        raise _fault(line, f"graph: {plan.digest}, but this one, in these shapes, is {digest}{made}; make a plan of it")


def replay(plan: Plan, graph: Graph) -> Mapped:
    """What a plan says of its graph; nothing is decided. Raises ParseError, naming the line, where it does not fit."""
    if plan.pins.apart or plan.pins.inner or plan.pins.sizes:
        raise _fault(
            min(plan.pins.lines.values(), default=None),
            "pins are for a plan that is yet to be made: leave out either them or the works",
        )
    if plan.traits is None:
        raise _fault(None, "there is no line `traits ...`, which says what its maker asked for")
    setting = setting_of(graph, plan.traits)
    derived = derive(plan, graph, setting)
    items = derived.items
    homes = dict(plan.homes)
    homes.update({name: as_it_comes(setting.values[name]) for name in setting.constants})
    homes.update({name: as_it_comes(task.made[name]) for task in tasks(items) for name in task.constants})
    mapped = Mapped(graph, plan.traits, items, homes, plan.places)
    verify(mapped, derived.inside, derived.seen, plan.lines)
    return mapped


def _fault(line: int | None, what: str) -> ParseError:
    return ParseError(f"plan, line {line}: {what}" if line else f"plan: {what}")
