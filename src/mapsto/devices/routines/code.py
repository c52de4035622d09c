"""What a routine is to the planner: function calls over plain row-major tensors, and the scratch that they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mapsto.devices.contraction.template import ContractionForm, TilePlan
from mapsto.devices.contraction.tile import Tiling
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.kernel.ast import Stmt
from mapsto.loop.ast import Function


@dataclass(frozen=True)
class Vectors:
    """What a device's vectors can do. lanes: f32 elements of one. fused: whether it multiplies and adds in one
    instruction; without one the sums of products round twice. tiled: the contraction template's choices for a form,
    among the tilings that are allowed.
    """

    lanes: int
    fused: bool
    tiled: Callable[[ContractionForm, Callable[[Tiling], bool]], TilePlan]


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
class RoutineKernel:
    """Statements that any maker lowers, which fill `scratch`: an operand as the routine's functions read it."""

    stmts: tuple[Stmt, ...]
    scratch: Scratch


@dataclass(frozen=True)
class RoutineCode:
    """The parts of a node, one after the other. One that reads constants alone can be run at compile time."""

    parts: tuple[RoutineCall | RoutineKernel, ...]
