"""Graphs as text, and the items that the planner makes of them."""

from __future__ import annotations

from mapsto.devices.cpu.traits import TRAITS
from mapsto.ir.graph import Graph, Value
from mapsto.ir.text import parse_graph
from mapsto.plan.fuse import fuse
from mapsto.plan.initial import initial_task, setting_of
from mapsto.plan.items import tasks
from mapsto.plan.task import Task


def initial(text: str) -> tuple[Graph, dict[str, Task]]:
    """A graph, and each node as a task by itself, by its first output."""
    graph = parse_graph(text)
    setting = setting_of(graph, TRAITS)
    return graph, {node.outputs[0].name: initial_task(node, setting, frozenset()) for node in graph.nodes}


def fused(text: str) -> list[Task]:
    """The tasks of a graph, with everything joined that rules join."""
    graph = parse_graph(text)
    return list(tasks(fuse(graph, setting_of(graph, TRAITS))))


def recipes(text: str) -> list[str]:
    return [str(task.recipe) for task in fused(text)]


class Alone:
    """Nobody but the reader reads anything."""

    def __init__(self, graph: Graph, elsewhere: tuple[str, ...] = (), between: bool = False) -> None:
        self.graph = graph
        self.elsewhere = elsewhere
        self.is_between = between

    def alone(self, value: str) -> bool:
        return value not in self.elsewhere

    def goes_out(self, value: str) -> bool:
        return value in self.graph.outputs

    def between(self) -> bool:
        return self.is_between

    def value(self, name: str) -> Value:
        return self.graph.values()[name]
