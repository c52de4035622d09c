"""Graphs as text, and the items that the planner makes of them."""

from __future__ import annotations

import math
from dataclasses import replace

from mapsto.devices.cpu import isa as isas
from mapsto.devices.cpu.maker import CpuMaker
from mapsto.devices.cpu.traits import TRAITS
from mapsto.devices.cpu.typical import typical
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Graph, Value
from mapsto.ir.text import parse_graph
from mapsto.machine.spec import DeviceSpec, Level, Machine
from mapsto.plan.fuse import fuse
from mapsto.plan.guesses import guesses
from mapsto.plan.initial import constants_of, initial_task, setting_of
from mapsto.plan.items import tasks
from mapsto.plan.prices import Prices
from mapsto.plan.task import Task
from mapsto.plan.traits import Traits

# A processor of two cores with 16 lanes: the same wherever tests run.
SPEC = replace(
    typical(isas.AVX512, 2),
    levels=(
        Level("L1", 32768.0, 200e9, 100e9, 1, 200e9),
        Level("L2", 1048576.0, 100e9, 50e9, 1, 100e9),
        Level("L3", 33554432.0, 50e9, 25e9, 2, 100e9),
        Level("memory", math.inf, 10e9, 5e9, 2, 20e9),
    ),
)


def asked(graph: Graph, spec: DeviceSpec = SPEC) -> CpuMaker:
    """A maker for a graph, which is asked and makes nothing."""
    return CpuMaker(isas.AVX512, constants_of(graph), lambda name, text, optimizer: None, Machine((spec,)))


def priced(graph: Graph) -> Prices:
    return Prices(asked(graph), guesses(graph))


def initial(text: str) -> tuple[Graph, dict[str, Task]]:
    """A graph, and each node as a task by itself, by its first output."""
    graph = parse_graph(text)
    setting = setting_of(graph, TRAITS)
    return graph, {node.outputs[0].name: initial_task(node, setting, frozenset()) for node in graph.nodes}


def fused(text: str, traits: Traits = TRAITS) -> list[Task]:
    """The tasks of a graph, with everything joined that rules join."""
    graph = parse_graph(text)
    return list(tasks(fuse(graph, setting_of(graph, traits), priced(graph))))


def recipes(text: str, traits: Traits = TRAITS) -> list[str]:
    return [str(task.recipe) for task in fused(text, traits)]


class Alone:
    """Nobody but the reader reads anything."""

    def __init__(
        self, graph: Graph, elsewhere: tuple[str, ...] = (), between: bool = False, gain: float = -1e-5
    ) -> None:
        """gain: seconds that any two tasks save as one."""
        self.graph = graph
        self.gain = gain
        self.elsewhere = elsewhere
        self.is_between = between

    def alone(self, value: str) -> bool:
        return value not in self.elsewhere

    def goes_out(self, value: str) -> bool:
        return value in self.graph.outputs

    def between(self) -> bool:
        return self.is_between

    def passes_on(self) -> bool:
        return False

    def columns(self, value: str) -> int | None:
        return None

    def value(self, name: str) -> Value:
        return self.graph.values()[name]

    @property
    def spec(self) -> DeviceSpec:
        return SPEC

    def size(self, e: Dim) -> int:
        return e if isinstance(e, int) else 64

    def saved(self, joined: Task) -> float:
        return self.gain
