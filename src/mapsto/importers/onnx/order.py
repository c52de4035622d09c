"""Nodes in an order in which each comes after what it reads.

The standard asks files for such an order. Some tools append nodes (conversions of the graph's inputs) at the end all
the same, and runtimes take such files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def label_of(node: Any, place: int) -> str:
    """What a node is called: its name, or its operator and where it stands in the file."""
    return str(node.name) or f"{node.op_type}_{place}"


def in_order(nodes: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """(place in the file, node), as they stand there, but that what a node reads comes before it. Nodes that read one
    another in a circle come as they stand: what the first of them reads, nothing before it defines.
    """
    makers: dict[str, int] = {}
    for at, node in enumerate(nodes):
        for name in filter(None, node.output):
            makers.setdefault(name, at)
    needs = [_needs(node, makers) for node in nodes]
    if all(need < at for at, found in enumerate(needs) for need in found):
        yield from enumerate(nodes)
        return
    met: set[int] = set()
    for first in range(len(nodes)):
        path = [first] if first not in met else []
        met.update(path)
        while path:
            need = next((n for n in needs[path[-1]] if n not in met), None)
            if need is not None:
                met.add(need)
                path.append(need)
                continue
            at = path.pop()
            yield at, nodes[at]


def _needs(node: Any, makers: Mapping[str, int]) -> list[int]:
    """The makers of what a node reads, by itself or in graphs of its own."""
    found = {makers[name] for name in node.input if name in makers}
    graphs = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    while graphs:
        inner = graphs.pop()
        for each in inner.node:
            found.update(makers[name] for name in each.input if name in makers)
            graphs.extend(a.g for a in each.attribute if a.HasField("g"))
        found.update(makers[entry.name] for entry in inner.output if entry.name in makers)
    return sorted(found)
