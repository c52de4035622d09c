"""Vector constants kept in memory: code that would otherwise hold a register for each through every loop around it.

A code generator moves the loading of a constant out of all loops. Formulas with a dozen constants, beside a multiplying
loop that needs every register for its accumulators, then push accumulators to the stack (the steps of an LSTM for six
rows took 1.2 ms instead of 0.9). A load from a local array stays where it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args

from mapsto.ir.dtypes import DType
from mapsto.loop import ast as loop

_VALUES = get_args(loop.Value)


@dataclass
class ConstantPool:
    """Local arrays, one for each vector type, that hold the constants met so far. `fresh` gives unused names."""

    fresh: Callable[[str], str]
    places: dict[loop.Type, dict[float, int]] = field(default_factory=dict)
    names: dict[loop.Type, str] = field(default_factory=dict)

    def rewrite(self, node: Any) -> Any:
        """A value or statement (the statements in a block left as they are) that loads its constants."""
        if isinstance(node, loop.Const):
            return self._constant(node)
        fields = ((f.name, getattr(node, f.name)) for f in dataclasses.fields(node))
        changes = {name: self.rewrite(old) for name, old in fields if isinstance(old, _VALUES)}
        return dataclasses.replace(node, **changes) if changes else node

    def _constant(self, constant: loop.Const) -> loop.Value:
        kind = constant.type
        if kind.lanes == 1 or kind.element is DType.BOOL or constant.value == 0:  # zero costs no load
            return constant
        if kind not in self.names:
            self.names[kind] = self.fresh(f"constants_{kind.element.value}")
        table = self.places.setdefault(kind, {})
        place = table.setdefault(constant.value, len(table))
        return loop.Load(self.names[kind], place * kind.lanes, kind)

    def prologue(self) -> list[loop.Statement]:
        """Fills the arrays: the first statements of the function."""
        made: list[loop.Statement] = []
        for kind, table in self.places.items():
            made.append(loop.Alloc(self.names[kind], kind.element, len(table) * kind.lanes))
            for value, place in table.items():
                made.append(loop.Store(self.names[kind], place * kind.lanes, loop.Const(value, kind)))
        return made
