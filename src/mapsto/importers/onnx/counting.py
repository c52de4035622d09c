"""How many nodes a model comes to with its branches and with its functions put in place of their calls, before any is
built.

A function that calls another one twice doubles it: 60 of them are 2^60 nodes. Each body is counted once, whoever calls
it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mapsto.budget import current
from mapsto.errors import ModelError
from mapsto.importers.onnx.table import find_row

Key = tuple[str, str, str]


def charge_nodes(model: Any, where: str) -> None:
    """Charges the nodes of a model. Raises BudgetError, and ModelError for a function that calls itself."""
    counting = _Counting({(f.domain, f.name, f.overload): f for f in model.functions}, where)
    own, inlined = counting.nodes(model.graph.node)
    current().charge("inlined", inlined, f"{where}: the bodies of its functions")
    current().charge("nodes", own + inlined, where)


@dataclass
class _Counting:
    functions: dict[Key, Any]
    where: str
    known: dict[Key, int] = field(default_factory=dict)
    within: list[Key] = field(default_factory=list)

    def nodes(self, nodes: Iterable[Any]) -> tuple[int, int]:
        """(nodes as they stand, those of nested graphs included; nodes that called functions add)."""
        own = inlined = 0
        for node in nodes:
            own += 1
            key = (node.domain, node.op_type, node.overload)
            if key in self.functions and find_row(node.domain, node.op_type) is None:
                inlined += self.body(key)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    below, more = self.nodes(attribute.g.node)
                    own, inlined = own + below, inlined + more
        return own, inlined

    def body(self, key: Key) -> int:
        if key not in self.known:
            if key in self.within:
                raise ModelError(f"{self.where}: the function {key[1]!r} calls itself")
            current().check("depth", len(self.within) + 1, f"{self.where}: functions that call functions")
            self.within.append(key)
            self.known[key] = sum(self.nodes(self.functions[key].node))
            self.within.pop()
        return self.known[key]
