"""Merges contractions that read one value with constant weights: one larger product, and slices of its result.

    x W1, x W2 == (x [W1 W2])[:, :n1], (x [W1 W2])[:, n1:]

Off by default: it pays where the single products are too narrow to fill the machine, which a cost model must say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapsto.ir.graph import Graph, Node, Value
from mapsto.passes.retrace import Site, retrace


@dataclass(frozen=True)
class MergeParallel:
    name: str = "merge-parallel"

    def __call__(self, graph: Graph) -> Graph:
        groups = {node.output.name: group for group in _groups(graph) for node in group}
        if not groups:
            return graph
        merged: dict[str, Value] = {}
        return retrace(graph, lambda site: _rewrite(site, groups, merged, graph.constants))


def _groups(graph: Graph) -> list[list[Node]]:
    """Nodes of the top level with the same operand and attributes, whose weights (and bias) are constants."""
    found: dict[Any, list[Node]] = {}
    for node in graph.nodes:
        key = _key(node, graph.constants)
        if key is not None:
            found.setdefault(key, []).append(node)
    return [group for group in found.values() if len(group) > 1]


def _key(node: Node, constants: Mapping[str, np.ndarray]) -> Any:
    if node.op not in ("matmul", "conv") or any(n not in constants for n in node.inputs[1:]):
        return None
    weights = constants[node.inputs[1]]
    if node.op == "matmul":
        return (
            ("matmul", node.inputs[0], weights.shape[0]) if weights.ndim == 2 and len(node.output.shape) > 0 else None
        )
    if node.attrs["group"] != 1:
        return None
    return (
        "conv",
        node.inputs[0],
        weights.shape[1:],
        len(node.inputs),
        tuple(sorted((k, str(v)) for k, v in node.attrs.items())),
    )


def _rewrite(
    site: Site, groups: Mapping[str, list[Node]], merged: dict[str, Value], constants: Mapping[str, np.ndarray]
) -> Sequence[Value] | None:
    group = groups.get(site.node.output.name) if len(site.node.outputs) == 1 else None
    if group is None:
        return None
    lead = group[0].output.name
    if lead not in merged:
        merged[lead] = _merged(site, group, constants)
    whole, rank = merged[lead], site.node.output.rank
    axis = rank - 1 if site.node.op == "matmul" else 1
    start = 0
    for node in group:
        if node.output.name == site.node.output.name:
            break
        extent = node.output.shape[axis]
        assert isinstance(extent, int)
        start += extent
    starts = tuple(start if k == axis else 0 for k in range(rank))
    shape = tuple(site.node.output.shape[axis] if k == axis else d for k, d in enumerate(whole.shape))
    return (site.builder.one("slice", [whole], starts=starts, steps=(1,) * rank, shape=shape),)


def _merged(site: Site, group: list[Node], constants: Mapping[str, np.ndarray]) -> Value:
    b, op = site.builder, site.node.op
    operands = [site.input()]
    for i in range(1, len(site.node.inputs)):
        parts = [constants[node.inputs[i]] for node in group]
        operands.append(b.constant(np.concatenate(parts, axis=1 if op == "matmul" else 0), site.node.inputs[i]))
    with b.source(*(source for node in group for source in node.provenance)):
        return b.one(op, operands, **site.attrs)
