"""pad(before, after, mode, value): a border of a constant, of the edge, of the mirrored inside, or of the other side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import Array, DType, filled, from_numpy
from mapsto.ir.expr import Dim, maximum, minimum, mod, sym
from mapsto.ir.expr_proofs import known_at_least
from mapsto.ir.expr_rewrite import simplify
from mapsto.ir.graph import Node, Value
from mapsto.kernel.ast import Const, Scalar, Stmt, Where, ranges_of
from mapsto.ops.derivatives import along, fixed
from mapsto.ops.making import Making
from mapsto.ops.movement import by_reference
from mapsto.ops.registry import Inference, Lowering, OpSpec, Shape, register
from mapsto.ops.shapes import describe, dim_max

MODES = ("constant", "reflect", "edge", "wrap")


def _infer(inference: Inference) -> list[tuple[DType, Shape]]:
    value, attrs = inference.value(0), inference.attrs
    before, after = attrs["before"], attrs["after"]
    if attrs["mode"] not in MODES:
        raise ShapeError(
            f"{describe(inference)}: there is no padding mode {attrs['mode']!r}; known: {', '.join(MODES)}"
        )
    if len(before) != value.rank or len(after) != value.rank:
        raise ShapeError(f"{describe(inference)}: padding says (before, after) for each of {value.rank} axes")
    for axis, (b, a, dim) in enumerate(zip(before, after, value.shape, strict=True)):
        inference.at_least(b, 0, f"padding before axis {axis} (a negative one is a slice)")
        inference.at_least(a, 0, f"padding after axis {axis} (a negative one is a slice)")
        if attrs["mode"] != "constant" and (b != 0 or a != 0):
            inference.at_least(dim, 1, f"{attrs['mode']} padding of axis {axis} needs an element")
    return [(value.dtype, tuple(b + d + a for b, d, a in zip(before, value.shape, after, strict=True)))]


def _reference(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    (x,) = inputs
    widths = list(zip(attrs["before"], attrs["after"], strict=True))
    if attrs["mode"] == "constant":
        result = filled(shapes[0], attrs["value"], from_numpy(x.dtype))
        result[tuple(slice(b, b + d) for (b, _), d in zip(widths, x.shape, strict=True))] = x
        return [result]
    for axis, (before, after) in enumerate(widths):
        if before or after:
            x = np.take(x, _source(attrs["mode"], np.arange(-before, x.shape[axis] + after), x.shape[axis]), axis=axis)
    return [x]


def _source(mode: str, position: Array, extent: int) -> Array:
    """Where the element at `position` (outside of 0..extent-1 in the border) comes from."""
    if mode == "edge":
        return np.asarray(np.clip(position, 0, extent - 1))
    if mode == "wrap":
        return np.asarray(np.mod(position, extent))
    if extent == 1:
        return np.zeros_like(position)
    folded = np.mod(position, 2 * (extent - 1))
    return np.asarray(np.minimum(folded, 2 * (extent - 1) - folded))


def _lower(low: Lowering) -> list[Stmt]:
    iters = low.iters(low.output.shape)
    ranges = ranges_of(iters)
    before, after, mode = low.attrs["before"], low.attrs["after"], low.attrs["mode"]
    conds: list[Dim] = []
    index: list[Dim] = []
    for i, dim, b, a in zip(iters, low.value(0).shape, before, after, strict=True):
        at = sym(i.name) - b
        if b == 0 and a == 0:
            index.append(at)
        elif mode == "constant":
            index.append(at)
            conds.extend(([at] if b != 0 else []) + ([dim - 1 - at] if a != 0 else []))
        else:
            index.append(simplify(_source_index(mode, at, dim, b, a), ranges))
    value: Scalar = low.load(0, index)
    if conds:
        value = Where(tuple(conds), value, Const(_typed(low.attrs["value"], value.dtype), value.dtype))
    return [low.stmt(iters, value)]


def _typed(value: float | int | bool, dtype: DType) -> float | int | bool:
    if dtype.is_float:
        return float(value)
    return bool(value) if dtype is DType.BOOL else int(value)


def _source_index(mode: str, at: Dim, dim: Dim, before: Dim, after: Dim) -> Dim:
    if mode == "edge":
        inside = maximum(at, 0) if before != 0 else at
        return minimum(inside, dim - 1) if after != 0 else inside
    if mode == "wrap":
        return mod(at, dim_max(dim, 1))
    if known_at_least(dim - 1 - before, 0) and known_at_least(dim - 1 - after, 0):
        # reflected once at most: |at| at the front, 2*(dim-1) - at at the back
        inside = maximum(at, -at) if before != 0 else at
        return minimum(inside, 2 * (dim - 1) - inside) if after != 0 else inside
    period = dim_max(2 * (dim - 1), 1)
    folded = mod(at, period)
    return maximum(minimum(folded, 2 * (dim - 1) - folded), 0)


def _gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    (g,) = incoming
    if g is None:
        return [None]
    shape = b.lookup(node.inputs[0]).shape
    mode, widths = str(node.attrs["mode"]), [cast(tuple[Dim, ...], node.attrs[k]) for k in ("before", "after")]
    if mode != "constant":
        for axis, extent in enumerate(shape):
            before, after = (fixed(each[axis], node) for each in widths)
            if before or after:
                n = fixed(extent, node)
                places = _source(mode, np.arange(-before, n + after), n)
                g = along(b, g, axis, np.eye(n)[places])
        return [g]
    return [b.one("slice", [g], starts=node.attrs["before"], steps=(1,) * g.rank, shape=shape)]


register(OpSpec("pad", "movement", _infer, _reference, _lower, by_reference(_reference), _gradient))
