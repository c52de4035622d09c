"""Graphs and how they are divided, for the tests of models on several devices."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, settings
from onnx import helper
from tests import opencl
from tests.importers.models import model, node, port

from mapsto.devices.cpu.workers import Workers
from mapsto.ir.graph import Graph
from mapsto.runtime.divided import DividedExecutable
from mapsto.session.compile import prepared
from mapsto.session.division import divided

COUNT = int(os.environ.get("MAPSTO_RANDOM_CUTS", "60"))
common = settings(
    max_examples=COUNT,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def on_both(graph: Graph, seats: Mapping[str, int], workers: Workers) -> DividedExecutable:
    return divided(graph, seats, {"cpu": workers, "opencl": opencl.backend()}, 1)


def at_random(graph: Graph, seed: int) -> dict[str, int]:
    rng = np.random.default_rng(seed)
    return {node.outputs[0].name: int(rng.integers(2)) for node in graph.nodes if node.outputs}


def alternating(graph: Graph, stretch: int = 4) -> dict[str, int]:
    every = [node.outputs[0].name for node in graph.nodes if node.outputs]
    return {name: at // stretch % 2 for at, name in enumerate(every)}


def two_branches() -> Graph:
    """Open sizes, a branch of an `If`, a Loop, a size that data decides."""
    then, other = (_branch(op) for op in ("Exp", "Neg"))
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("If", ["c"], ["b"], then_branch=then, else_branch=other),
        node("Concat", ["r", "b"], ["j"], axis=0),
        node("NonZero", ["j"], ["where"]),
        node("Transpose", ["where"], ["places"], perm=[1, 0]),
        node("GatherND", ["j", "places"], ["picked"]),
        node("Mul", ["picked", "picked"], ["y"]),
        node("MatMul", ["j", "w"], ["z"]),
    ]
    inputs = [port("x", ["n", "m"]), port("c", [], np.bool_), port("w", ["m", 3])]
    return prepared(model(nodes, inputs, ["y", "z"]), None)


def _branch(op: str) -> object:
    return helper.make_graph([node(op, ["r"], ["o"])], op, [], [helper.make_empty_tensor_value_info("o")])


def diamond_model() -> onnx.ModelProto:
    nodes = [
        node("Relu", ["x"], ["a"]), node("Exp", ["a"], ["b"]), node("Tanh", ["a"], ["c"]),
        node("Softmax", ["b"], ["d"]), node("Softmax", ["c"], ["e"]), node("MatMul", ["d", "e"], ["y"]),
    ]  # fmt: skip
    return model(nodes, {"x": [16, 16]})


def diamond() -> Graph:
    return prepared(diamond_model(), None)


def split_diamond(workers: Workers) -> DividedExecutable:
    graph = diamond()
    by_op = {n.op: n.outputs[0].name for n in graph.nodes}
    seats = dict.fromkeys((n.outputs[0].name for n in graph.nodes if n.outputs), 0)
    return on_both(graph, seats | {by_op["tanh"]: 1}, workers)


def wanted(x: np.ndarray) -> np.ndarray:
    a = np.maximum(x, 0).astype(np.float64)

    def softmax(v: np.ndarray) -> np.ndarray:
        e = np.exp(v - v.max(-1, keepdims=True))
        return np.asarray(e / e.sum(-1, keepdims=True))

    return np.asarray(softmax(np.exp(a)) @ softmax(np.tanh(a)))


def side_by_side() -> Graph:
    """Two chains whose nodes stand by turns, and a sum of both."""
    nodes = [
        node("Tanh", ["x"], ["a0"]), node("Sqrt", ["x"], ["b0"]), node("Exp", ["a0"], ["a1"]),
        node("Neg", ["b0"], ["b1"]), node("Sin", ["a1"], ["a2"]), node("Abs", ["b1"], ["b2"]),
        node("Add", ["a2", "b2"], ["y"]),
    ]  # fmt: skip
    return prepared(model(nodes, {"x": [16, 16]}, ["y"]), None)


def chain_of(count: int) -> Graph:
    names = ["x", *(f"v{k}" for k in range(count - 1)), "y"]
    return prepared(model([node("Tanh", [a], [b]) for a, b in pairwise(names)], {"x": [8]}, ["y"]), None)


class Slowed:
    """An executable that takes as long as it is told, by a clock of its thread that only it moves."""

    def __init__(self, inner: Any, clock: dict[int, float], takes: Callable[[], float]) -> None:
        self.inner, self.program, self._clock, self._takes = inner, inner.program, clock, takes

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._clock[threading.get_ident()] += self._takes()
        return self.inner.run(inputs)  # type: ignore[no-any-return]
