"""What a routine is to the planner: function calls over plain row-major tensors, and the scratch that they need."""

from __future__ import annotations

from dataclasses import dataclass

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.loop.ast import Function


@dataclass(frozen=True)
class Scratch:
    """A plain row-major tensor that only the routine's own calls touch; it need not be cleared."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class RoutineCall:
    """One call: `function` over [0, extent), split at will between threads.

    operands: the value (a node's input or output) or scratch tensor behind each of the function's params, in order.
    scratch: the tensors that this call is the first to use. No written operand may share memory with another operand.
    """

    function: Function
    extent: Dim
    operands: tuple[str, ...]
    scratch: tuple[Scratch, ...] = ()


@dataclass(frozen=True)
class RoutineCode:
    """The calls of a node, one after the other. A call that reads constants alone can be run at compile time."""

    functions: tuple[RoutineCall, ...]
