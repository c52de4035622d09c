"""Constants laid anew for the vectors that read them.

A depthwise convolution reads w[c, 0, i, j]. Where its result holds the channels innermost, a vector holds neighbouring
c, and these must be neighbours in w as well: w is turned to w[0, i, j, c], once, when the plan is made.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mapsto.ir.expr import Dim, symbols
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Load, Scalar, Stmt, transform, walk
from mapsto.plan.group import Group
from mapsto.plan.homes import Home, Homes, flat
from mapsto.plan.layout import plain


def relay_constants(groups: list[Group], homes: Homes, constants: dict[str, np.ndarray]) -> None:
    """Turns the constants of statement groups so that the dim along their vectors is innermost."""
    for group in flat(groups):
        dim = _vector_dim(group, homes) if group.kind == "rows" else None
        if dim is not None:
            group.stmts = [_relaid(stmt, dim, homes, constants) for stmt in group.stmts]


def _vector_dim(group: Group, homes: Homes) -> int | None:
    """The dim that the group's results hold innermost, in blocks."""
    layouts = [homes.homes[t].layout for t in group.targets() if t in homes.homes]
    found = {layout.block[0] for layout in layouts if layout.block is not None}
    return found.pop() if len(found) == 1 and len({len(s.iters) for s in group.stmts}) == 1 else None


def _relaid(stmt: Stmt, dim: int, homes: Homes, constants: dict[str, np.ndarray]) -> Stmt:
    if stmt.index is not None or dim >= len(stmt.iters):
        return stmt
    name = stmt.iters[dim].name
    turned = {n.tensor for n in walk(stmt.value) if isinstance(n, Load) and _axis(n, name, constants) is not None}
    if not turned:
        return stmt

    def leaf(node: Scalar) -> Scalar | None:
        axis = _axis(node, name, constants) if isinstance(node, Load) else None
        if axis is None or not isinstance(node, Load):
            return None
        index = (*node.index[:axis], *node.index[axis + 1 :], node.index[axis])
        return Load(_turn(node.tensor, axis, homes, constants), index, node.dtype)

    return replace(stmt, value=transform(stmt.value, leaf))


def _axis(load: Load, name: str, constants: dict[str, np.ndarray]) -> int | None:
    """The dim of a constant that alone moves with the iterator, if it is not the last one already."""
    if load.tensor not in constants:
        return None
    moving = [d for d, e in enumerate(load.index) if name in symbols(e)]
    return moving[0] if len(moving) == 1 and moving[0] != len(load.index) - 1 else None


def _turn(tensor: str, axis: int, homes: Homes, constants: dict[str, np.ndarray]) -> str:
    """The constant with one dim moved to the end, under a name of its own."""
    name = f"{tensor}.turned{axis}"
    if name not in constants:
        constants[name] = np.ascontiguousarray(np.moveaxis(constants[tensor], axis, -1))
        shape: tuple[Dim, ...] = constants[name].shape
        homes.values[name] = Value(name, homes.values[tensor].dtype, shape)
        homes.homes[name] = Home(name, plain(shape), f"{tensor} turned: dim {axis} is along the vectors")
    return name
