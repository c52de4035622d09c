"""Whether a plan may be replayed: it is of this graph, this instruction set and this version, and names its nodes.

A plan of something else would be taken for one that keeps everything apart, and made into slow code without a word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from mapsto.errors import ParseError
from mapsto.ir.graph import Graph
from mapsto.kernel.compose import is_movement
from mapsto.plan.group import Group
from mapsto.plan.plan import Plan

_DERIVED = re.compile(r"(_\d+|\.\w+)+\Z")  # what `Names.fresh` and the makers of scratch tensors append


def check_origin(plan: Plan, digest: str, isa: str, version: str) -> None:
    """Raises ParseError, naming line and key, for a plan of another instruction set, graph or version of mapsto."""
    if plan.isa != isa:
        raise _fault(plan.lines.get("plan"), f"for: {plan.isa}, but code is made for {isa}; make a plan for that")
    if not plan.digest:
        raise _fault(None, "there is no line `graph DIGEST by mapsto VERSION`, which says what the plan is of")
    line = plan.lines.get("graph")
    if plan.version != version:
        raise _fault(line, f"mapsto: made by version {plan.version}, this is {version}; make the plan anew")
    if plan.digest != digest:
        raise _fault(line, f"graph: {plan.digest}, but this one, in these shapes, is {digest}; make a plan of it")


def check_names(plan: Plan, graph: Graph, groups: Iterable[Group]) -> None:
    """Raises ParseError, naming line and node or value, where the plan names what is not there, names twice what is
    there once, or leaves out a node. `groups`: what became of the plan.
    """
    groups = list(groups)
    nodes = {value.name for node in graph.walk() for value in node.outputs}
    made = Counter(name for group in groups for name in {n.outputs[0].name for n in group.nodes if n.outputs})
    seen: Counter[str] = Counter()
    for decision in plan.groups:
        where = f"group {decision.name}"
        for name in decision.nodes:
            if name not in nodes:
                raise _fault(decision.line, f"{where}: no node yields {name!r}")
            seen[name] += 1
            # what only moves data may be part of each of its readers
            if decision.nodes.count(name) > 1 or seen[name] > max(1, made[name]):
                raise _fault(decision.line, f"{where}: {name!r} stands in the plan already")
    for group in groups:
        lost = [n.outputs[0].name for n in group.nodes if n.outputs and n.outputs[0].name not in seen]
        if lost and not (group.kind == "rows" and all(map(is_movement, group.stmts))):  # those may have been views
            raise _fault(None, f"no group has the node {lost[0]!r}")
    _check_homes(plan, graph, nodes)


def _check_homes(plan: Plan, graph: Graph, nodes: set[str]) -> None:
    values = nodes | set(graph.values())
    for inner in (g for node in graph.walk() for g in node.graphs):
        values |= set(inner.values())
    seen: set[str] = set()
    for home in plan.homes:
        if home.value in seen:
            raise _fault(home.line, f"home {home.value}: stands in the plan already")
        seen.add(home.value)
        if home.value not in values and _DERIVED.sub("", home.value) not in values:
            raise _fault(home.line, f"home {home.value}: the graph has no such value")


def _fault(line: int | None, what: str) -> ParseError:
    return ParseError(f"plan, line {line}: {what}" if line else f"plan: {what}")
