"""Another head: the last product of a model, with its bias, replaced by one with other outputs and fresh weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mapsto.errors import ShapeError
from mapsto.importers.learnable import Learnable
from mapsto.ir.graph import Graph, Node
from mapsto.ir.region import uses
from mapsto.passes.retrace import retrace

_SAME = ("cast", "copy", "detach")


@dataclass(frozen=True)
class _Head:
    """The inputs that hold a head's weights, and along which of their axes its outputs lie."""

    weight: str
    axis: int
    bias: str | None


def with_head(model: Learnable, output: str, classes: int, seed: int) -> Learnable:
    """The model whose output has another number of classes: the product that makes it, a dense layer or a convolution,
    and its bias get fresh weights, uniform within 1/sqrt(inputs of one output), as PyTorch's layers begin.

    Raises ShapeError where the output is made by something else, or the layer's weights are read elsewhere too.
    """
    head = _found(model.training, output, model.arrays)
    old, rng = model.arrays[head.weight], np.random.default_rng(seed)
    shape = (*old.shape[: head.axis], classes, *old.shape[head.axis + 1 :])
    bound = (old.size // old.shape[head.axis]) ** -0.5
    arrays = dict(model.arrays)
    arrays[head.weight] = rng.uniform(-bound, bound, shape).astype(old.dtype)
    if head.bias is not None:
        before = arrays[head.bias]
        wide = tuple(classes if d == old.shape[head.axis] else d for d in before.shape)
        arrays[head.bias] = rng.uniform(-bound, bound, wide).astype(before.dtype)
    graphs = [_with_shapes(graph, arrays) for graph in (model.inference, model.training)]
    return replace(model, inference=graphs[0], training=graphs[1], arrays=arrays)


def _with_shapes(graph: Graph, arrays: Mapping[str, np.ndarray]) -> Graph:
    """The graph with its weights of the arrays' shapes; all others follow."""
    inputs = tuple(replace(v, shape=arrays[v.name].shape) if v.name in arrays else v for v in graph.inputs)
    return retrace(replace(graph, inputs=inputs, settled=False))


def _found(graph: Graph, output: str, arrays: Mapping[str, np.ndarray]) -> _Head:
    node, bias = _maker(graph, output), None
    if node is not None and node.op == "add":
        names = [name for name in node.inputs if name in arrays]
        rest = [name for name in node.inputs if name not in arrays]
        if len(names) != 1 or len(rest) != 1:
            raise _no_head(output, node)
        (bias,), node = names, _maker(graph, rest[0])
    if node is None or node.op not in ("matmul", "conv") or len(node.inputs) < 2:
        raise _no_head(output, node)
    if node.op == "conv" and len(node.inputs) > 2:
        bias = node.inputs[2]
    weight, axis = _weight(graph, node)
    for name in (weight, *([bias] if bias is not None else [])):
        if name not in arrays:
            raise _no_head(output, node)
        if uses(graph).get(name, 0) != 1:
            raise ShapeError(f"classes: {name}, a weight of the layer that makes {output!r}, is read elsewhere as well")
    return _Head(weight, axis, bias)


def _maker(graph: Graph, name: str) -> Node | None:
    """What made a value, looking through what leaves numbers as they are."""
    node = graph.producers.get(name)
    while node is not None and node.op in _SAME:
        node = graph.producers.get(node.inputs[0])
    return node


def _weight(graph: Graph, node: Node) -> tuple[str, int]:
    """The name of a product's weights, and their axis of outputs."""
    if node.op == "conv":
        return node.inputs[1], 0
    turned, rank = graph.producers.get(node.inputs[1]), len(graph.values()[node.inputs[1]].shape)
    if turned is not None and turned.op == "transpose":
        perm = turned.attrs["perm"]
        assert isinstance(perm, tuple)
        return turned.inputs[0], int(perm[rank - 1])  # type: ignore[arg-type]
    return node.inputs[1], rank - 1


def _no_head(output: str, node: Node | None) -> ShapeError:
    made = "nothing that can be replaced" if node is None else f"`{node.op}`"
    return ShapeError(
        f"classes: the output {output!r} is made by {made}; it can be replaced where a dense layer or a convolution "
        "makes it"
    )
