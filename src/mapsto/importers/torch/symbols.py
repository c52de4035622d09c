"""Torch's symbolic sizes as dims: integers of sympy, which an exported graph's values carry in their shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mapsto.ir.expr import Dim, floordiv, maximum, minimum, mod, sym

_FUNCTIONS: dict[str, Callable[[Dim, Dim], Dim]] = {
    "FloorDiv": floordiv,
    "CleanDiv": floordiv,
    "Mod": mod,
    "PythonMod": mod,
    "Max": maximum,
    "Min": minimum,
}


class TracedSizes:
    """What the symbols of one traced program are: dims, by their own names."""

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self.names = dict(names or {})  # better names for symbols
        self.known: dict[str, Dim] = {}

    def dim(self, size: Any) -> Dim | None:
        """A size as a dim; None where it hangs on a symbol that is not known, or is no polynomial."""
        if isinstance(size, int):
            return size
        return self._expression(size.node.expr)

    def symbol(self, size: Any) -> str | None:
        """The symbol that a size is, and nothing else; None where it is something else."""
        expression = getattr(getattr(size, "node", None), "expr", None)
        return str(expression) if expression is not None and expression.is_Symbol else None

    def define(self, symbol: str, fallback: str) -> Dim:
        """A symbol that an input's extent defines."""
        self.known[symbol] = made = sym(self.names.get(symbol, fallback))
        return made

    def _expression(self, e: Any) -> Dim | None:
        if e.is_Integer:
            return int(e)
        if e.is_Symbol:
            return self.known.get(str(e))
        parts = [self._expression(arg) for arg in e.args]
        known = [part for part in parts if part is not None]
        if not parts or len(known) != len(parts):
            return None
        if e.is_Add:
            return _folded(known, lambda a, b: a + b)
        if e.is_Mul:
            return _folded(known, lambda a, b: a * b)
        if e.is_Pow and isinstance(known[1], int) and known[1] >= 0:
            return _folded([known[0]] * known[1], lambda a, b: a * b) if known[1] else 1
        function = _FUNCTIONS.get(type(e).__name__)
        return None if function is None or len(known) < 2 else _folded(known, function)


def _folded(dims: list[Dim], step: Callable[[Dim, Dim], Dim]) -> Dim:
    total = dims[0]
    for dim in dims[1:]:
        total = step(total, dim)
    return total
