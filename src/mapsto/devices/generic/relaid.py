"""Constants laid anew for the loops that read them.

A depthwise convolution reads w[c, 0, i, j]. Where its result holds the channels innermost, a vector holds neighbouring
c, and these must be neighbours in w as well: w is turned to w[0, i, j, c], once, when the plan is made. Halves that are
read as f32 many times over are kept as f32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import symbols
from mapsto.kernel.ast import Cast, Load, Scalar, Stmt, transform
from mapsto.kernel.compose import loads_of
from mapsto.plan.home import Home
from mapsto.plan.layout import Layout

# Points of a result for each element of a constant, from which on its conversion in every round costs more than bytes.
_OFTEN = 8


class HomeStore(Protocol):
    """Where homes and constants are looked up, and those that are turned are put."""

    @property
    def homes(self) -> Mapping[str, Home]: ...

    @property
    def constants(self) -> Mapping[str, np.ndarray]: ...

    def add_constant(self, name: str, array: np.ndarray) -> None: ...


def relaid(stmts: Sequence[Stmt], store: HomeStore) -> list[Stmt]:
    """The statements reading constants in which the dim along their vectors is innermost, and halves as f32."""
    dim = _vector_dim(stmts, store.homes)
    return [_relaid(stmt, dim, store) for stmt in stmts]


def _vector_dim(stmts: Sequence[Stmt], homes: Mapping[str, Home]) -> int | None:
    """The dim that the results hold innermost, in blocks or in one piece, and that is not their last."""
    layouts = [homes[s.target].layout for s in stmts if s.target in homes]
    found = {dim for layout in layouts if (dim := _innermost(layout)) is not None}
    return found.pop() if len(found) == 1 and len({len(s.iters) for s in stmts}) == 1 else None


def _innermost(layout: Layout) -> int | None:
    if layout.block is not None:
        return layout.block.dim
    last = layout.axes[-1] if layout.axes else None
    return last.dim if last is not None and last.stride == 1 and last.dim != len(layout.shape) - 1 else None


def _relaid(stmt: Stmt, dim: int | None, store: HomeStore) -> Stmt:
    turns = dim is not None and stmt.index is None and dim < len(stmt.iters)
    name = stmt.iters[dim].name if turns and dim is not None else ""
    constants = [load for load in loads_of(stmt) if load.tensor in store.constants]
    if not any(load.dtype.is_half or _axis(load, name) is not None for load in constants):
        return stmt

    def leaf(node: Scalar) -> Scalar | None:
        load = node.arg if isinstance(node, Cast) and node.dtype is DType.F32 else node
        if not isinstance(load, Load) or load.tensor not in store.constants:
            return None
        dtype = load.dtype
        if load is not node:
            if not dtype.is_half or not _is_read_often(stmt, store.constants[load.tensor]):
                return None
            dtype = DType.F32
        axis = _axis(load, name)
        if axis is None and dtype is load.dtype:
            return None
        index = load.index if axis is None else (*load.index[:axis], *load.index[axis + 1 :], load.index[axis])
        return Load(_anew(load.tensor, axis, dtype, store), index, dtype)

    return replace(stmt, value=transform(stmt.value, leaf))


def _is_read_often(stmt: Stmt, constant: np.ndarray) -> bool:
    """Whether a result has several points for each element of a constant (an extent that is not known: many)."""
    points = math.prod(i.extent for i in stmt.iters if isinstance(i.extent, int))
    return any(not isinstance(i.extent, int) for i in stmt.iters) or points >= _OFTEN * constant.size


def _axis(load: Load, name: str) -> int | None:
    """The dim of a constant that alone moves with the iterator, if it is not the last one already."""
    moving = [d for d, e in enumerate(load.index) if name in symbols(e)]
    return moving[0] if len(moving) == 1 and moving[0] != len(load.index) - 1 else None


def _anew(tensor: str, axis: int | None, dtype: DType, store: HomeStore) -> str:
    """The constant with one dim moved to the end, in a type that holds it, under a name of its own."""
    array = store.constants[tensor]
    widened = array.dtype != dtype.numpy
    name = tensor + ("" if axis is None else f".turned{axis}") + (f".{dtype.value}" if widened else "")
    if name not in store.constants:
        turned = array if axis is None else np.moveaxis(array, axis, -1)
        store.add_constant(name, np.ascontiguousarray(turned.astype(dtype.numpy) if widened else turned))
    return name
