"""Constants laid anew for the vectors that read them.

A depthwise convolution reads w[c, 0, i, j]. Where its result holds the channels innermost, a vector holds neighbouring
c, and these must be neighbours in w as well: w is turned to w[0, i, j, c], once, when the plan is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from mapsto.ir.expr import symbols
from mapsto.kernel.ast import Load, Scalar, Stmt, transform
from mapsto.kernel.compose import loads_of
from mapsto.plan.home import Home


class HomeStore(Protocol):
    """Where homes and constants are looked up, and those that are turned are put."""

    @property
    def homes(self) -> Mapping[str, Home]: ...

    @property
    def constants(self) -> Mapping[str, np.ndarray]: ...

    def add_constant(self, name: str, array: np.ndarray) -> None: ...


def relaid(stmts: Sequence[Stmt], store: HomeStore) -> list[Stmt]:
    """The statements reading constants in which the dim along their vectors is innermost."""
    dim = _vector_dim(stmts, store.homes)
    return list(stmts) if dim is None else [_relaid(stmt, dim, store) for stmt in stmts]


def _vector_dim(stmts: Sequence[Stmt], homes: Mapping[str, Home]) -> int | None:
    """The dim that the results hold innermost, in blocks."""
    layouts = [homes[s.target].layout for s in stmts if s.target in homes]
    found = {layout.block.dim for layout in layouts if layout.block is not None}
    return found.pop() if len(found) == 1 and len({len(s.iters) for s in stmts}) == 1 else None


def _relaid(stmt: Stmt, dim: int, store: HomeStore) -> Stmt:
    if stmt.index is not None or dim >= len(stmt.iters):
        return stmt
    name = stmt.iters[dim].name
    if all(_axis(load, name, store.constants) is None for load in loads_of(stmt)):
        return stmt

    def leaf(node: Scalar) -> Scalar | None:
        axis = _axis(node, name, store.constants) if isinstance(node, Load) else None
        if axis is None or not isinstance(node, Load):
            return None
        index = (*node.index[:axis], *node.index[axis + 1 :], node.index[axis])
        return Load(_turn(node.tensor, axis, store), index, node.dtype)

    return replace(stmt, value=transform(stmt.value, leaf))


def _axis(load: Load, name: str, constants: Mapping[str, np.ndarray]) -> int | None:
    """The dim of a constant that alone moves with the iterator, if it is not the last one already."""
    if load.tensor not in constants:
        return None
    moving = [d for d, e in enumerate(load.index) if name in symbols(e)]
    return moving[0] if len(moving) == 1 and moving[0] != len(load.index) - 1 else None


def _turn(tensor: str, axis: int, store: HomeStore) -> str:
    """The constant with one dim moved to the end, under a name of its own."""
    name = f"{tensor}.turned{axis}"
    if name not in store.constants:
        store.add_constant(name, np.ascontiguousarray(np.moveaxis(store.constants[tensor], axis, -1)))
    return name
