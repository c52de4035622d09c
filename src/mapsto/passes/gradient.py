"""Reverse-mode differentiation of a graph.

For y = f(x) the gradient of the loss with respect to x is the sum, over the nodes that read x, of what their gradient
rules give (Griewank and Walther, Evaluating Derivatives, chapter 3). The rules stand beside the ops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mapsto.errors import ShapeError, UnsupportedError
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ops.builder import Builder
from mapsto.ops.registry import op
from mapsto.passes.retrace import copy_into

# What the rules cannot go through, as it gives no numbers to differentiate.
_WITHOUT_OUTPUTS = ("bind_dim", "require", "bounds_check")


def gradient(graph: Graph, loss: str, wrt: Sequence[str]) -> Graph:
    """The graph with further outputs `NAME.gradient`, one for each name in `wrt`: the derivative of `loss` by it, in
    its shape.

    loss: a float value of one element. wrt: inputs, or constants, which become inputs after those there are (see
    `as_inputs`).
    Raises ShapeError for a wrong loss or name, UnsupportedError where an op on the way has no gradient.
    """
    builder, values = _forward(as_inputs(graph, wrt))
    found = _backward(builder, _named(values, loss), [_named(values, name) for name in wrt])
    outputs = [*(values[name] for name in graph.outputs), *found]
    return builder.finish(outputs, graph.updates, names=[*graph.outputs, *(f"{name}.gradient" for name in wrt)])


def as_inputs(graph: Graph, names: Sequence[str]) -> Graph:
    """Constants as further inputs, so that they can change. Their present elements are `graph.constants[name]`."""
    known = {value.name for value in graph.inputs}
    chosen = [name for name in names if name not in known]
    missing = [name for name in chosen if name not in graph.constants]
    if missing:
        raise ShapeError(f"graph {graph.name!r} has no input or constant named {', '.join(missing)}")
    arrays = {name: graph.constants[name] for name in chosen}
    added = tuple(Value(name, from_numpy(array.dtype), array.shape) for name, array in arrays.items())
    rest = {name: array for name, array in graph.constants.items() if name not in arrays}
    return replace(graph, inputs=(*graph.inputs, *added), constants=rest, settled=False)


def _forward(graph: Graph) -> tuple[Builder, dict[str, Value]]:
    """The graph in a builder that goes on from its end, with the new values by their old names."""
    builder = Builder(graph.name)
    return builder, copy_into(builder, graph)


def _named(values: dict[str, Value], name: str) -> Value:
    if name not in values:
        raise ShapeError(f"there is no value named {name!r}")
    return values[name]


def _backward(builder: Builder, loss: Value, wrt: Sequence[Value]) -> list[Value]:
    """Gradients of the loss with respect to some values, by walking the nodes backwards."""
    if not loss.dtype.is_float or any(d != 1 for d in loss.shape):
        raise ShapeError(f"a loss is one float, not {loss}")
    wrong = [value for value in wrt if not value.dtype.is_float]
    if wrong:
        raise ShapeError(f"{wrong[0]} is no float: nothing can be differentiated by it")
    forward = list(builder.nodes)
    depends = _dependents(forward, {value.name for value in wrt})
    with builder.source("loss"):
        sums = {loss.name: builder.one("full", [], shape=loss.shape, value=1.0, dtype=loss.dtype)}
    for node in reversed(forward):
        incoming = [sums.get(value.name) for value in node.outputs]
        if any(g is not None for g in incoming) and any(n in depends for n in node.inputs):
            _add_gradients(builder, node, incoming, depends, sums)
    return [_result(builder, value, sums) for value in wrt]


def _dependents(nodes: Sequence[Node], start: set[str]) -> set[str]:
    """Values that depend on those in `start`."""
    found = set(start)
    for node in nodes:
        if any(name in found for name in node.inputs):
            found.update(value.name for value in node.outputs if value.dtype.is_float)
    return found


def _add_gradients(
    builder: Builder, node: Node, incoming: Sequence[Value | None], depends: set[str], sums: dict[str, Value]
) -> None:
    """Adds what one node passes on to the gradients of its operands."""
    if node.op in _WITHOUT_OUTPUTS:
        return
    rule = op(node.op).gradient
    if rule is None:
        where = f" (from {', '.join(node.provenance)})" if node.provenance else ""
        raise UnsupportedError(f"{node.op} -> {node.outputs[0].name}{where}: the op has no gradient yet")
    with builder.source(*node.provenance):
        passed = rule(builder, node, incoming)
        for name, value in zip(node.inputs, passed, strict=True):
            if value is None or name not in depends:
                continue
            sums[name] = value if name not in sums else builder.one("add", [sums[name], value])


def _result(builder: Builder, value: Value, sums: dict[str, Value]) -> Value:
    """The gradient of a value; zeros where the loss does not depend on it."""
    if value.name in sums:
        return sums[value.name]
    dtype: DType = value.dtype
    with builder.source(f"gradient {value.name}"):
        return builder.one("full", [], shape=value.shape, value=0.0, dtype=dtype)
