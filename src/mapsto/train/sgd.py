"""Gradient descent as a graph: forward, backward and update in one step, the parameters updated in place.

    v <- momentum * v + dloss/dp        (without momentum, v is the gradient alone)
    p <- p - learning_rate * v

The rate is an input of the step, so that a schedule compiles nothing again. Momentum as in Sutskever et al., "On the
importance of initialization and momentum in deep learning" (ICML 2013), with the rate taken outside of v, as PyTorch
has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.graph import Graph, Value
from mapsto.ops import composite
from mapsto.ops.builder import Builder
from mapsto.passes import DeadCode, gradient
from mapsto.passes.retrace import copy_into
from mapsto.train.losses import Loss


@dataclass(frozen=True)
class StepGraph:
    """One training step. Inputs: the model's, the label, the parameters, `rate`, and the velocities: (parameter, its
    velocity) each. Outputs: `loss`, then what takes over the memory of parameters and velocities.
    """

    graph: Graph
    rate: str
    velocities: tuple[tuple[str, str], ...]


def with_loss(graph: Graph, output: str, loss: Loss, label: str) -> Graph:
    """The graph with the loss of one of its outputs as its only output."""
    if label in graph.values():
        raise ShapeError(f"the model has a value named {label!r} already; give `label=` another name")
    builder = Builder(graph.name)
    value = copy_into(builder, graph)[output]
    with builder.source("loss"):
        result = loss(builder, value, label)
    return DeadCode()(builder.finish([result], names=["loss"]))


def step_graph(graph: Graph, parameters: Sequence[str], momentum: float = 0.0) -> StepGraph:
    """The step of gradient descent on some inputs of a graph whose only output is the loss."""
    (loss,) = graph.outputs
    there = gradient(graph, loss, parameters)
    builder = Builder(graph.name)
    values = copy_into(builder, there)
    rate = builder.input("learning_rate", DType.F32, ())
    results, updates, velocities = [values[loss]], [], []
    for name in parameters:
        p, direction = values[name], values[f"{name}.gradient"]
        with builder.source(f"update {name}"):
            if momentum:
                v = builder.input(f"{name}.velocity", p.dtype, p.shape)
                kept = builder.one("mul", [v, composite.scalar(builder, momentum, v)])
                direction = builder.one("add", [kept, direction])
                velocities.append((name, v.name))
                updates.append((v.name, f"{v.name}.updated"))
                results.append(direction)
            updates.append((name, f"{name}.updated"))
            results.append(_moved(builder, p, direction, rate))
    names = ["loss", *(updated for _, updated in updates)]
    return StepGraph(builder.finish(results, updates, names=names), rate.name, tuple(velocities))


def _moved(builder: Builder, p: Value, direction: Value, rate: Value) -> Value:
    """p - rate * direction"""
    step = composite.cast(builder, rate, p.dtype)
    return builder.one("sub", [p, builder.one("mul", [direction, step])])


def trainable(graph: Graph, minimum: int = 2) -> tuple[str, ...]:
    """The float constants that are read as weights: those of at least `minimum` elements, in the order of their use."""
    used = dict.fromkeys(name for node in graph.walk() for name in node.inputs if name in graph.constants)
    arrays = {name: graph.constants[name] for name in used}
    return tuple(n for n, array in arrays.items() if array.size >= minimum and from_numpy(array.dtype).is_float)
