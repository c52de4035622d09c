"""Structure of a graph: unique names, values and sizes defined before they are used, provenance, updates.

What an op's shape rule says of its outputs is checked by `mapsto.ops.verify`, as this room knows no ops.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mapsto.errors import VerifyError
from mapsto.ir.expr import Dim, Expr, symbols
from mapsto.ir.graph import Graph, Node, Value, binds, dims_in
from mapsto.ir.text import lines, value_text

# Lines shown before and after the fault.
CONTEXT = 3


def fault(graph: Graph, node: Node | None, message: str) -> VerifyError:
    """An error that shows the lines around a node, with a pointer under it (under the head where there is none)."""
    shown = list(lines(graph))
    at = next((i for i, (_, owner) in enumerate(shown) if owner is node and node is not None), 0)
    first, last = max(0, at - CONTEXT), min(len(shown), at + CONTEXT + 1)
    text = []
    for i in range(first, last):
        line = shown[i][0]
        text.append(f"  {line if len(line) <= 200 else line[:197] + '...'}")
        if i == at:
            indent = len(line) - len(line.lstrip())
            text.append("  " + " " * indent + "^" * min(len(line) - indent, 60) + f" {message}")
    where = f"graph {graph.name!r}" + (f", {node.op} -> {', '.join(v.name for v in node.outputs)}" if node else "")
    source = f" (from {', '.join(node.provenance)})" if node is not None and node.provenance else ""
    return VerifyError(f"{where}{source}: {message}\n" + "\n".join(text))


@dataclass
class _Scope:
    """What is defined so far: values by name, size symbols, all names ever given."""

    root: Graph
    values: dict[str, Value] = field(default_factory=dict)
    sizes: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def nested(self) -> _Scope:
        return _Scope(self.root, dict(self.values), set(self.sizes), self.names)

    def define(self, value: Value, node: Node | None) -> None:
        if value.name in self.names:
            raise fault(self.root, node, f"the name {value.name!r} is defined twice")
        if not value.name:
            raise fault(self.root, node, "a value without a name")
        self.names.add(value.name)
        self.values[value.name] = value


def verify(graph: Graph, provenance: bool = True) -> None:
    """Raises VerifyError, pointing at the line, for a graph whose structure is wrong.

    provenance: every node must say which source nodes it comes from.
    """
    _verify(graph, _Scope(graph), provenance)


def _verify(graph: Graph, scope: _Scope, provenance: bool) -> None:
    for value in graph.inputs:
        scope.define(value, None)
        for dim in value.shape:  # a symbol is defined by the input dim that is it alone
            if isinstance(dim, Expr) and str(dim) in symbols(dim):
                scope.sizes.add(str(dim))
    for value in graph.inputs:
        _check_dims(value.shape, scope, None, f"input {value_text(value)}")
    own = graph.values()
    for name in graph.constants:
        scope.define(own[name], None)
    for node in graph.nodes:
        _verify_node(node, scope, provenance)
    for name in graph.outputs:
        if name not in scope.values:
            raise fault(scope.root, None, f"graph {graph.name!r} yields {name!r}, which nothing defines")
    _verify_updates(graph, scope)


def _verify_node(node: Node, scope: _Scope, provenance: bool) -> None:
    for name in node.inputs:
        if name and name not in scope.values:
            raise fault(scope.root, node, f"{name!r} is used before it is defined")
    if provenance and not node.provenance:
        raise fault(scope.root, node, "no provenance: a node says which source nodes it comes from")
    for key, attr in node.attrs.items():
        _check_dims(dims_in([attr]), scope, node, f"attribute {key}")
    for inner in node.graphs:
        _verify(inner, scope.nested(), provenance)
    for name in binds(node):
        _bind(name, node, scope)
    for value in node.outputs:
        scope.define(value, node)
        _check_dims(value.shape, scope, node, value_text(value))


def _bind(name: str, node: Node, scope: _Scope) -> None:
    if not name or name in scope.sizes:
        raise fault(scope.root, node, f"the size {name!r} is bound twice" if name else f"{node.op} without a symbol")
    scope.sizes.add(name)


def _check_dims(dims: Iterable[Dim], scope: _Scope, node: Node | None, what: str) -> None:
    for dim in dims:
        if isinstance(dim, int) and dim < 0 and not what.startswith("attribute"):
            raise fault(scope.root, node, f"{what}: the extent {dim} is negative")
        missing = symbols(dim) - scope.sizes
        if missing:
            raise fault(scope.root, node, f"{what}: the size {', '.join(sorted(missing))} is not defined here")


def _verify_updates(graph: Graph, scope: _Scope) -> None:
    inputs = {v.name: v for v in graph.inputs}
    taken: set[str] = set()
    for source, result in graph.updates:
        if source not in inputs or result not in graph.outputs:
            raise fault(scope.root, None, f"the update {source!r} -> {result!r} must pair an input with an output")
        if source in taken:
            raise fault(scope.root, None, f"the memory of {source!r} is given to two outputs")
        taken.add(source)
        before, after = inputs[source], scope.values[result]
        if before.dtype is not after.dtype or before.shape != after.shape:
            raise fault(scope.root, None, f"the update {value_text(before)} -> {value_text(after)} changes the type")
