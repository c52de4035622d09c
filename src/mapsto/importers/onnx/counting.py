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

FunctionKey = tuple[str, str, str]
# Characters of a text that take as long as a name.
_TEXT = 256


def charge_nodes(model: Any, where: str) -> None:
    """Charges the nodes of a model. Raises BudgetError, and ModelError for a function that calls itself."""
    counting = _Counting({(f.domain, f.name, f.overload): f for f in model.functions}, where)
    found = counting.nodes(model.graph.node)
    current().charge("inlined", found.inlined, f"{where}: the bodies of its functions")
    current().charge("bodies", found.parts, f"{where}: the bodies of its functions")
    current().charge("nodes", found.own + found.inlined, where)


@dataclass
class _Count:
    """Nodes as they stand, those of nested graphs included; nodes that called functions add; what their bodies name."""

    own: int = 0
    inlined: int = 0
    parts: int = 0


@dataclass
class _Counting:
    functions: dict[FunctionKey, Any]
    where: str
    known: dict[FunctionKey, tuple[int, int]] = field(default_factory=dict)
    within: list[FunctionKey] = field(default_factory=list)

    def nodes(self, nodes: Iterable[Any]) -> _Count:
        count = _Count()
        for node in nodes:
            count.own += 1
            key = (node.domain, node.op_type, node.overload)
            if key in self.functions and find_row(node.domain, node.op_type) is None:
                inlined, parts = self.body(key)
                count.inlined += inlined
                count.parts += parts
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    below = self.nodes(attribute.g.node)
                    count.own += below.own
                    count.inlined += below.inlined
                    count.parts += below.parts
        return count

    def body(self, key: FunctionKey) -> tuple[int, int]:
        """(nodes, parts) that a call of a function adds."""
        if key not in self.known:
            if key in self.within:
                raise ModelError(f"{self.where}: the function {key[1]!r} calls itself")
            current().check("depth", len(self.within) + 1, f"{self.where}: functions that call functions")
            self.within.append(key)
            function = self.functions[key]
            count = self.nodes(function.node)
            self.known[key] = count.own + count.inlined, count.parts + _parts(function)
            self.within.pop()
        return self.known[key]


def _parts(body: Any) -> int:
    """What each call of a function walks over besides its nodes: names and numbers, long texts by their length."""
    count = _names(body.input) + _names(body.output)
    count += len(getattr(body, "initializer", ())) + len(getattr(body, "opset_import", ()))
    count += len(getattr(body, "attribute", ())) + len(getattr(body, "attribute_proto", ()))
    for node in body.node:
        count += _names(node.input) + _names(node.output) + _names((node.name,))
        for a in node.attribute:
            count += 1 + len(a.s) // _TEXT + len(a.ints) + len(a.floats) + _names(a.strings)
            if a.HasField("g"):
                count += _parts(a.g)
    return count


def _names(names: Iterable[Any]) -> int:
    return sum(1 + len(n if isinstance(n, (str, bytes)) else n.name) // _TEXT for n in names)
