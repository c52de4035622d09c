"""The whole verifier: a graph's structure, and that each node's outputs are what its op's shape rule says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import mapsto.ops  # noqa: F401  (registers the ops)
from mapsto.errors import MapstoError, VerifyError
from mapsto.ir.expr import Dim
from mapsto.ir.expr_proofs import known_at_least
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ir.region import faults
from mapsto.ir.verify import fault, verify
from mapsto.ops.registry import Inference, op


def verify_graph(graph: Graph, provenance: bool = True) -> None:
    """Raises VerifyError, with the lines around the fault, where the structure or a node's types are wrong."""
    verify(graph, provenance)
    _verify_types(graph, graph, {})


def _verify_types(graph: Graph, root: Graph, around: Mapping[str, Value]) -> None:
    values = {**around, **graph.values()}
    constants = graph.constants
    for node in graph.nodes:
        for inner in node.graphs:
            _verify_types(inner, root, values)
        _verify_node(node, root, values, constants)


def _verify_node(
    node: Node, root: Graph, values: Mapping[str, Value], constants: Mapping[str, np.ndarray[Any, Any]]
) -> None:
    inputs = tuple(values[name] if name else None for name in node.inputs)

    def content(i: int) -> np.ndarray[Any, Any] | None:
        array = constants.get(node.inputs[i]) if i < len(node.inputs) else None
        return None if array is None or not from_integers(array) else array.astype(object)

    try:
        spec = op(node.op)
        nesting = spec.nesting.regions(node) if spec.nesting is not None else ()
        for wrong in faults(node, nesting):
            raise fault(root, node, wrong)
        inferred = spec.infer(Inference(node.op, inputs, node.attrs, node.graphs, content, lookup=values.__getitem__))
    except VerifyError:
        raise
    except (MapstoError, ValueError, IndexError, KeyError, TypeError) as error:
        detail = f"attribute {error} is missing" if isinstance(error, KeyError) else str(error)
        raise fault(root, node, f"the shape rule refuses this node: {detail}") from error
    if len(inferred) != len(node.outputs):
        raise fault(root, node, f"{len(node.outputs)} outputs, the shape rule gives {len(inferred)}")
    for value, (dtype, shape) in zip(node.outputs, inferred, strict=True):
        if value.dtype is not dtype:
            raise fault(root, node, f"{value.name} is {value.dtype.value}, the shape rule says {dtype.value}")
        if value.rank != len(shape) or any(_differ(a, b) for a, b in zip(value.shape, shape, strict=False)):
            said = ", ".join(str(d) for d in shape)
            raise fault(
                root, node, f"{value.name} is [{', '.join(map(str, value.shape))}], the shape rule says [{said}]"
            )


def from_integers(array: np.ndarray[Any, Any]) -> bool:
    return array.dtype.kind in "iub" and array.size <= 256


def _differ(a: Dim, b: Dim) -> bool:
    """Whether two extents are certainly not the same; equal ones that nothing proves are the business of `require`
    nodes.
    """
    if a == b:
        return False
    difference = a - b
    return isinstance(difference, int) or known_at_least(difference, 1) or known_at_least(-difference, 1)
