"""The plan of a compiled graph: what was decided, as data."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mapsto.devices.cpu.code import Call
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Value
from mapsto.plan.group import Group
from mapsto.plan.homes import flat
from mapsto.plan.plan import GroupDecision, HomeDecision, Plan
from mapsto.plan.planner import Planned
from mapsto.runtime.program import Program, step_text


def plan_of(
    planned: Planned,
    calls: Mapping[int, list[Call]],
    program: Program,
    isa: str,
    arena: tuple[int, int] | None,
    origin: tuple[str, str],
) -> Plan:
    """Every decision of a compiled graph. `arena`: (bytes, lower bound) where all sizes are known before a run.
    `origin`: the graph's digest, and the version of mapsto.
    """
    groups = tuple(_group(group, calls.get(id(group), [])) for group in flat(planned.groups))
    homes = tuple(
        HomeDecision(
            name,
            _type(planned.homes.values[name]),
            home.buffer,
            str(home.layout),
            planned.homes.inner.get(name),
            home.reason,
        )
        for name, home in planned.homes.homes.items()
        if name not in planned.constants
    )
    steps = tuple(_one_line(step_text(program, step)) for step in program.steps)
    size, bound = arena if arena is not None else (None, None)
    return Plan(planned.graph.name, isa, groups, homes, steps, size, bound, *origin)


def _group(group: Group, calls: list[Call]) -> GroupDecision:
    return GroupDecision(
        group.name,
        group.kind,
        tuple(dict.fromkeys(n.outputs[0].name for n in group.nodes if n.outputs)),
        tuple(n.op for n in group.nodes),
        group.provenance,
        "; ".join(dict.fromkeys(c.schedule for c in calls)),
        _cost(group),
        tuple(dict.fromkeys(group.reasons)),
        tuple(dict.fromkeys(c.function for c in calls)),
    )


def _one_line(text: str) -> str:
    """Without characters that would end the line: a model may call a value anything."""
    return re.sub(r"[\x00-\x1f\x7f]", lambda found: found[0].encode("unicode_escape").decode(), text).strip()


def _cost(group: Group) -> str:
    """Multiplications of a contraction, as an expression over the sizes."""
    if not group.phases:
        return ""
    total: Dim = 0
    for phase in group.phases:
        total = total + phase.multiplications()
    return f"{total} multiply-adds"


def _type(value: Value) -> str:
    return f"{value.dtype.value}[{', '.join(map(str, value.shape))}]"
