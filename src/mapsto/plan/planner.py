"""The planner as a whole: groups, then homes; under the decisions of a plan to replay where there is one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mapsto.ir.graph import Graph, Value
from mapsto.plan.group import Group, group_graph
from mapsto.plan.homes import Homes, assign, flat
from mapsto.plan.names import Names, names_in
from mapsto.plan.outputs import settle_outputs
from mapsto.plan.parts import take_apart
from mapsto.plan.plan import Plan
from mapsto.plan.relaid import relay_constants


@dataclass
class Planned:
    """A graph with its decisions taken: what code is made from.

    kept: values that are in memory. outputs: for each output of the graph, the value whose buffer holds it.
    """

    graph: Graph
    groups: list[Group]
    homes: Homes
    kept: set[str]
    constants: dict[str, np.ndarray]
    outputs: tuple[str, ...]


def plan_graph(graph: Graph, pinned: Plan | None = None) -> Planned:
    """Groups in order and homes of all values. `pinned`: nodes are grouped only as this plan has them, and lie
    innermost what it says.
    """
    values: dict[str, Value] = dict(graph.values())
    constants = all_constants(graph)
    names = Names(names_in(graph))
    groups = group_graph(graph, values, constants, names, pinned=pinned)
    inputs = {v.name for v in graph.inputs}
    groups, homes = assign(groups, values, inputs, set(graph.outputs), set(constants), names.fresh, pinned)
    groups = take_apart(groups, homes, names.fresh)
    groups, places = settle_outputs(graph, groups, homes, frozenset(constants), names.fresh)
    relay_constants(groups, homes, constants)
    for number, group in enumerate(flat(groups)):
        group.name = f"g{number}"
    return Planned(graph, groups, homes, set(graph.outputs) | set(homes.homes), constants, places)


def all_constants(graph: Graph) -> dict[str, np.ndarray]:
    """Constants of a graph and of the graphs nested in it."""
    found = dict(graph.constants)
    for node in graph.nodes:
        for inner in node.graphs:
            found.update(all_constants(inner))
    return found
