"""How torch's tensors lie: inputs that are dense in another order of their axes, and results that are views of what is
in memory anyway.

A value that is moved data (reshapes, transposes, slices) of another one is a view of it where each of its axes has one
stride there. Between the two an axis may have several: reshape(transpose(reshape(x))) may be a view though what is in
the middle is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mapsto.ir.expr import Dim
from mapsto.ir.graph import Node, Value
from mapsto.ops.builder import Builder

_MOVES = frozenset({"reshape", "transpose", "slice"})
_MOST_MOVES = 16

# Runs of an axis, outermost first: how many elements, how far apart.
_Runs = list[tuple[int, int]]


@dataclass(frozen=True)
class Look:
    """A view of a row-major tensor: its shape, and strides and offset in elements; strides None: in the same order."""

    shape: tuple[Dim, ...]
    strides: tuple[int, ...] | None = None
    offset: int = 0


def order_of(tensor: Any) -> tuple[int, ...] | None:
    """The axes of a dense tensor, outermost first, where it is not row-major; None where it is, where it is not dense,
    or where that is not known.
    """
    sizes, strides = tuple(tensor.shape), tuple(tensor.stride())
    if not all(type(n) is int for n in (*sizes, *strides)) or 0 in sizes:
        return None
    order = sorted(range(len(sizes)), key=lambda d: (-strides[d], -sizes[d], d))
    dense = row_major([sizes[d] for d in order])
    if any(sizes[d] != 1 and strides[d] != stride for d, stride in zip(order, dense, strict=True)):
        return None
    moved = [d for d in order if sizes[d] != 1]
    return None if moved == sorted(moved) else tuple(order)


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements."""
    return tuple(math.prod(shape[d + 1 :]) for d in range(len(shape)))


def looked_at(b: Builder, value: Value) -> tuple[Value, Look]:
    """What a value is a view of (itself, where of nothing else), as far back as moves go, and how."""
    chain: list[Node] = []
    base = value
    while (node := b.producer(base)) is not None and node.op in _MOVES and len(chain) < _MOST_MOVES:
        chain.append(node)
        base = b.lookup(node.inputs[0])
    if all(node.op == "reshape" for node in chain):
        return base, Look(value.shape)
    for count in range(len(chain), 0, -1):
        base = b.lookup(chain[count - 1].inputs[0])
        look = _look(base, list(reversed(chain[:count])))
        if look is not None:
            return base, look
    return value, Look(value.shape)


def _look(base: Value, moves: Sequence[Node]) -> Look | None:
    shapes = [base.shape, *(node.output.shape for node in moves)]
    if not all(isinstance(d, int) and d > 0 for shape in shapes for d in shape):
        return None
    first: tuple[int, ...] = base.shape  # type: ignore[assignment]
    axes: list[_Runs] = [[(n, s)] for n, s in zip(first, row_major(first), strict=True)]
    offset = 0
    for node in moves:
        if node.op == "transpose":
            axes = [axes[p] for p in node.attrs["perm"]]  # type: ignore[union-attr, index]
            continue
        if node.op == "slice":
            cut = _sliced(axes, node)
            if cut is None:
                return None
            axes, further = cut
            offset += further
            continue
        split = _split([run for runs in axes for run in runs], node.output.shape)  # type: ignore[arg-type]
        if split is None:
            return None
        axes = split
    joined = [_joined(runs) for runs in axes]
    if any(len(runs) > 1 for runs in joined):
        return None
    return Look(moves[-1].output.shape, tuple(runs[0][1] if runs else 1 for runs in joined), offset)


def _sliced(axes: Sequence[_Runs], node: Node) -> tuple[list[_Runs], int] | None:
    """The axes of a slice, and where it begins."""
    made, offset = [], 0
    starts, steps, shape = node.attrs["starts"], node.attrs["steps"], node.output.shape
    for runs, start, step, extent in zip(axes, starts, steps, shape, strict=True):  # type: ignore[arg-type]
        whole = math.prod(n for n, _ in runs)
        if start == 0 and step == 1 and extent == whole:
            made.append(runs)
            continue
        one = _joined(runs)
        if len(one) > 1 or not isinstance(start, int) or not isinstance(step, int) or step < 1:
            return None
        assert isinstance(extent, int)
        stride = one[0][1] if one else 0
        offset += start * stride
        made.append([(extent, stride * step)])
    return made, offset


def _split(runs: Sequence[tuple[int, int]], shape: Sequence[int]) -> list[_Runs] | None:
    """The runs of all axes in order, as those of the axes of another shape; None where one would be cut unevenly."""
    rest, axes = list(reversed(_joined(runs))), []
    for extent in shape:
        axis: _Runs = []
        while extent > 1:
            count, stride = rest.pop()
            if extent % count == 0:
                axis.append((count, stride))
                extent //= count
            elif count % extent == 0:
                axis.append((extent, stride * (count // extent)))
                rest.append((count // extent, stride))
                extent = 1
            else:
                return None
        axes.append(axis)
    return axes


def _joined(runs: Sequence[tuple[int, int]]) -> _Runs:
    """Runs without those of one element; neighbours that lie in one go are one."""
    made: _Runs = []
    for count, stride in runs:
        if count == 1:
            continue
        if made and made[-1][1] == count * stride:
            made[-1] = (made[-1][0] * count, stride)
        else:
            made.append((count, stride))
    return made
