"""What is a function of a byte, computed on the accumulators of a contraction, as a table of 256 bytes.

    q = u8(...);  r = f32(q) * s;  y = u8(r * sigmoid(r) / t)      ->      y = table[q]

The table is what the loops that it takes the place of would compute, by the interpreter of the loop language, which
agrees with them to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.kernel.ast import Load, Op, Stmt, walk
from mapsto.kernel.compose import is_pointwise, loads_of
from mapsto.loop import ast as loop
from mapsto.loop.ast import Function, Param
from mapsto.loop.interpret import interpret

BYTES = 256

_WORTH = 12  # operations, that a table takes the place of
_FUNCTIONS = frozenset({"exp", "log", "tanh", "erf", "sigmoid", "pow", "sqrt"})
_OF_A_FUNCTION = 10  # operations


@dataclass(frozen=True)
class ByTables:
    """Statements in order; of those that are looked up, by target: the byte that they are a function of, and the
    statements between, themselves last.
    """

    stmts: tuple[Stmt, ...]
    looked_up: dict[str, tuple[str, tuple[Stmt, ...]]]


def by_tables(stmts: Sequence[Stmt], kept: Collection[str]) -> ByTables:
    """kept: targets that are stored, besides the last one."""
    roots: dict[str, str] = {}
    chains: dict[str, tuple[Stmt, ...]] = {}
    found: dict[str, tuple[str, tuple[Stmt, ...]]] = {}
    for stmt in stmts:
        root, chain = _function_of(stmt, roots, chains)
        if stmt.dtype is DType.U8 and root and _operations(chain) >= _WORTH:
            found[stmt.target] = root, chain
        if root:
            roots[stmt.target], chains[stmt.target] = root, chain
        elif stmt.dtype is DType.U8:
            roots[stmt.target], chains[stmt.target] = stmt.target, ()
    needed = {stmts[-1].target, *kept} if stmts else set()
    done: list[Stmt] = []
    for stmt in reversed(stmts):
        if stmt.target in needed:
            done.append(stmt)
            needed |= {found[stmt.target][0]} if stmt.target in found else {load.tensor for load in loads_of(stmt)}
    return ByTables(tuple(reversed(done)), found)


def _function_of(
    stmt: Stmt, roots: dict[str, str], chains: dict[str, tuple[Stmt, ...]]
) -> tuple[str, tuple[Stmt, ...]]:
    """The only byte that a statement is a function of ("": none), and the statements from there on."""
    loads = loads_of(stmt)
    known = {roots.get(load.tensor, "") for load in loads}
    if len(known) != 1 or "" in known or not is_pointwise(stmt) or not all(_is_here(load, stmt) for load in loads):
        return "", ()
    before = [each for load in loads for each in chains[load.tensor]]
    return known.pop(), (*{each.target: each for each in before}.values(), stmt)


def _is_here(load: Load, stmt: Stmt) -> bool:
    """Whether it is of the statement's own point."""
    if len(load.index) != len(stmt.iters):
        return False
    places = zip(load.index, stmt.iters, strict=True)
    return all(at == sym(i.name) or (at == 0 and i.extent == 1) for at, i in places)


def _operations(stmts: Sequence[Stmt]) -> int:
    nodes = [node for stmt in stmts for node in walk(stmt.value) if not isinstance(node, Load)]
    return sum(_OF_A_FUNCTION if isinstance(node, Op) and node.fn in _FUNCTIONS else 1 for node in nodes)


def table_of(emit: Callable[[loop.Value], tuple[list[loop.Statement], loop.Value]]) -> tuple[int, ...]:
    """What statements make of each byte."""
    t = loop.Type(DType.U8, BYTES)
    statements, result = emit(loop.Var("byte", t))
    body = (loop.Let("byte", loop.Load("bytes", 0, t)), *statements, loop.Store("made", 0, result))
    function = Function("table", (Param("bytes", DType.U8), Param("made", DType.U8, True)), (), body)
    made = np.zeros(BYTES, np.uint8)
    interpret(function, [np.arange(BYTES, dtype=np.uint8), made], (), 0, 1)
    return tuple(made.tolist())
