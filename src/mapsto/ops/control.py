"""Control: bind_dim gives a size its value at run time, `if` runs one of two graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import Array, DType
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ir.region import Region
from mapsto.ops.registry import Inference, Nesting, OpSpec, RunNested, Shape, register
from mapsto.ops.shapes import BOOLS, describe, require_dtype


def require_one(inference: Inference) -> None:
    """Raises ShapeError where operand 0 has not one element."""
    value = inference.value(0)
    if any(d != 1 for d in value.shape):
        raise ShapeError(f"{describe(inference)}: one element is needed")


def _infer_bind(inference: Inference) -> list[tuple[DType, Shape]]:
    require_one(inference)
    if not inference.value(0).dtype.is_integer:
        raise ShapeError(f"{describe(inference)}: a size comes from an integer")
    return []


def _bind(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    """The interpreter gives the symbol its value; there is no output."""
    return []


# bind_dim(symbol: str, what: str): from here on the size symbol is the element of the operand. what: the node and input
# that it comes from, where the model says it, for the error of a run that finds it below zero.
register(OpSpec("bind_dim", "control", _infer_bind, _bind, foldable=False))


def yields(graph: Graph, inference: Inference) -> list[Value]:
    """What a nested graph yields; a value of an enclosing graph may be yielded as it is."""
    own = graph.values()
    found = []
    for name in graph.outputs:
        value = own.get(name) or (inference.lookup(name) if inference.lookup else None)
        if value is None:
            raise ShapeError(f"{inference.op}: graph {graph.name!r} yields {name!r}, which nothing defines")
        found.append(value)
    return found


def _infer_if(inference: Inference) -> list[tuple[DType, Shape]]:
    require_dtype(inference, 0, BOOLS)
    require_one(inference)
    if len(inference.graphs) != 2:
        raise ShapeError(f"{describe(inference)}: `if` has two branches, not {len(inference.graphs)}")
    first, second = (yields(graph, inference) for graph in inference.graphs)
    if len(first) != len(second):
        raise ShapeError(f"{describe(inference)}: the branches yield {len(first)} and {len(second)} values")
    for a, b in zip(first, second, strict=True):
        if a.dtype is not b.dtype or a.shape != b.shape:
            raise ShapeError(
                f"{describe(inference)}: the branches yield {a} and {b}; their types must agree. "
                "Fixing the model's input shapes may make them do so"
            )
    return [(v.dtype, v.shape) for v in first]


def _branches(node: Node) -> tuple[Region, ...]:
    """Output i is what the graph that runs yields i-th."""
    return tuple(Region(graph, results=tuple(range(len(graph.outputs)))) for graph in node.graphs)


def _run_if(inputs: Sequence[Any], attrs: Mapping[str, Any], run: RunNested) -> list[Array]:
    return run(0 if inputs[0].reshape(()) else 1, [])


def _taken(contents: Sequence[Array | None]) -> int | None:
    condition = contents[0].reshape(-1)[0] if contents[0] is not None else None
    return int(not condition) if isinstance(condition, int) else None


# if(condition; then, else): yields what the chosen graph yields.
register(OpSpec("if", "control", _infer_if, foldable=False, nesting=Nesting(_branches, _run_if, _taken)))
