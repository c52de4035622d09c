"""Movement: reshape, transpose, expand, slice, concat, tile. Elements are not changed, only found elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapsto.errors import ShapeError, UnsupportedError
from mapsto.ir.dtypes import Array, DType
from mapsto.ir.expr import Call, Dim, ceildiv, floordiv, maximum, mod, product, sole_atom, sym
from mapsto.ir.expr_proofs import known_at_least
from mapsto.ir.expr_rewrite import simplify
from mapsto.ir.graph import Node, Value
from mapsto.kernel.ast import Stmt, ranges_of
from mapsto.ops.elementwise import sum_to
from mapsto.ops.making import Making
from mapsto.ops.registry import Inference, Lowering, OpSpec, Shape, register
from mapsto.ops.shapes import axis_of, describe, require_same_dtype, static

Grads = Sequence["Value | None"]


def by_reference(reference: Any) -> Any:
    """A content rule that moves dims as the reference moves elements."""

    def content(inputs: list[Array], attrs: Mapping[str, Any], shapes: Sequence[Shape]) -> Array:
        (result,) = reference(inputs, attrs, [static(shape) for shape in shapes])
        return np.asarray(result, dtype=object)

    return content


# ---- reshape(shape) --------------------------------------------------------------------------------------------------


def _infer_reshape(inference: Inference) -> list[tuple[DType, Shape]]:
    value, shape = inference.value(0), tuple(inference.attrs["shape"])
    before, after = product(value.shape), product(shape)
    if before != after:
        try:
            inference.same(before, after)
        except ShapeError:
            raise ShapeError(f"{describe(inference)}: {before} elements do not fill the shape {list(shape)}") from None
    return [(value.dtype, shape)]


def _reshape(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    return [inputs[0].reshape(shapes[0])]


def reshape_groups(source: Sequence[Dim], target: Sequence[Dim]) -> list[tuple[range, range]]:
    """Runs of axes with the same number of elements on both sides, as short as can be seen: each maps onto itself."""
    tail = 0
    while tail < min(len(source), len(target)) and source[-1 - tail] == target[-1 - tail]:
        tail += 1
    a, b = len(source) - tail, len(target) - tail
    places = {product(source[:i]): i for i in range(a, -1, -1)}
    groups: list[tuple[range, range]] = []
    i = j = 0
    for end in range(1, b + 1):
        at = places.get(product(target[:end]))
        if at is None or at <= i or end == b:
            continue
        groups.append((range(i, at), range(j, end)))
        i, j = at, end
    if i < a or j < b:
        groups.append((range(i, a), range(j, b)))
    groups.extend((range(a + k, a + k + 1), range(b + k, b + k + 1)) for k in range(tail))
    return groups


def reshape_index(source: Sequence[Dim], target: Sequence[Dim], index: Sequence[Dim]) -> list[Dim]:
    """The source index of a target index, group by group: merge the target's axes, split into the source's."""
    result: list[Dim] = []
    for own, others in reshape_groups(source, target):
        flat: Dim = 0
        for axis in others:
            flat = flat * target[axis] + index[axis]
        kept = [axis for axis in own if source[axis] != 1]
        stride = product(source[axis] for axis in own)
        for axis in own:
            if axis not in kept:
                result.append(0)
                continue
            stride = product(source[k] for k in own if k > axis)
            part = floordiv(flat, stride)
            result.append(part if axis == kept[0] else mod(part, source[axis]))
    return result


def _lower_reshape(low: Lowering) -> list[Stmt]:
    iters = low.iters(low.output.shape)
    source = low.value(0).shape
    if 0 in source:  # nothing is read; divisors must not be zero
        return [low.stmt(iters, low.load(0, [0] * len(source)))]
    index = reshape_index(source, low.output.shape, [0 if i.extent == 1 else sym(i.name) for i in iters])
    ranges = ranges_of(iters)
    return [low.stmt(iters, low.load(0, [simplify(i, ranges) for i in index]))]


def _reshape_gradient(b: Making, node: Node, incoming: Grads) -> list[Value | None]:
    (g,) = incoming
    return [None if g is None else b.one("reshape", [g], shape=b.lookup(node.inputs[0]).shape)]


register(
    OpSpec("reshape", "movement", _infer_reshape, _reshape, _lower_reshape, by_reference(_reshape), _reshape_gradient)
)

# ---- transpose(perm) -------------------------------------------------------------------------------------------------


def _infer_transpose(inference: Inference) -> list[tuple[DType, Shape]]:
    value, perm = inference.value(0), tuple(inference.attrs["perm"])
    if sorted(perm) != list(range(value.rank)):
        raise ShapeError(f"{describe(inference)}: {list(perm)} is no permutation of {value.rank} axes")
    return [(value.dtype, tuple(value.shape[p] for p in perm))]


def _transpose(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    return [np.transpose(inputs[0], attrs["perm"])]


def _lower_transpose(low: Lowering) -> list[Stmt]:
    iters = low.iters(low.output.shape)
    perm = list(low.attrs["perm"])
    return [low.stmt(iters, low.load(0, [sym(iters[perm.index(axis)].name) for axis in range(len(perm))]))]


def _transpose_gradient(b: Making, node: Node, incoming: Grads) -> list[Value | None]:
    (g,) = incoming
    attrs: dict[str, Any] = dict(node.attrs)
    perm = list(attrs["perm"])
    return [None if g is None else b.one("transpose", [g], perm=tuple(perm.index(axis) for axis in range(len(perm))))]


register(OpSpec(
    "transpose", "movement", _infer_transpose, _transpose, _lower_transpose,
    by_reference(_transpose), _transpose_gradient,
))  # fmt: skip

# ---- expand(shape): broadcasting made explicit -----------------------------------------------------------------------


def _infer_expand(inference: Inference) -> list[tuple[DType, Shape]]:
    value, shape = inference.value(0), tuple(inference.attrs["shape"])
    if value.rank > len(shape):
        raise ShapeError(f"{describe(inference)}: rank {value.rank} does not expand to {list(shape)}")
    for dim, wanted in zip(value.shape, shape[len(shape) - value.rank :], strict=True):
        inference.stretch(dim, wanted)
    return [(value.dtype, shape)]


def _expand(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    return [np.broadcast_to(inputs[0], shapes[0])]


def _lower_expand(low: Lowering) -> list[Stmt]:
    iters = low.iters(low.output.shape)
    return [low.stmt(iters, low.load_broadcast(0, [sym(i.name) for i in iters]))]


def _expand_gradient(b: Making, node: Node, incoming: Grads) -> list[Value | None]:
    (g,) = incoming
    return [None if g is None else sum_to(b, g, b.lookup(node.inputs[0]).shape)]


register(OpSpec("expand", "movement", _infer_expand, _expand, _lower_expand, by_reference(_expand), _expand_gradient))

# ---- slice(starts, steps, shape): element i of an axis is element start + step*i; all axes; steps may be negative ----
#
# A step may be one of the run, which may not be 0; where it may be negative it is the difference of two sizes.


def _infer_slice(inference: Inference) -> list[tuple[DType, Shape]]:
    value = inference.value(0)
    starts, steps, shape = (tuple(inference.attrs[k]) for k in ("starts", "steps", "shape"))
    if not len(starts) == len(steps) == len(shape) == value.rank or 0 in steps:
        raise ShapeError(
            f"{describe(inference)}: a slice says a start, a non-zero step and an extent for each of {value.rank} axes"
        )
    for axis, (dim, start, step, extent) in enumerate(zip(value.shape, starts, steps, shape, strict=True)):
        if extent == 0 or (start == 0 and step == 1 and extent == dim):
            continue
        if not inference.proves(extent):
            inference.at_least(extent, 0, f"the slice's extent on axis {axis}")
        if not isinstance(step, int):
            _inside_at_both_ends(inference, axis, dim, start, start + step * (extent - 1), extent)
            continue
        span = step * (_unclamped(extent) - 1)
        first, last = (start, start + span) if step > 0 else (start + span, start)
        some = start == 0 and step == 1
        _inside(inference, first, 0, extent, some, f"the slice's first element on axis {axis}")
        _inside(inference, dim - 1, last, extent, some, f"the slice's last element on axis {axis}")
    return [(value.dtype, shape)]


def _inside_at_both_ends(inference: Inference, axis: int, dim: Dim, first: Dim, last: Dim, extent: Dim) -> None:
    """What a slice takes where only a run knows its step, and so which end is the lower one."""
    for place, name in ((first, "first"), (last, "last")):
        what = f"the slice's {name} element on axis {axis}"
        _inside(inference, place, 0, extent, False, what)
        _inside(inference, dim - 1, place, extent, False, what)


def _inside(inference: Inference, a: Dim, b: Dim, extent: Dim, some: bool, what: str) -> None:
    """Requires a >= b, where the extent is not 0; `some`: what is asked holds for an extent of 0 as well."""
    if inference.proves(a - b):
        return
    if some or known_at_least(extent, 1):
        inference.at_least(a, b, what)
        return
    inference.assume_nonnegative(maximum(a - b, -extent), f"{what}: {a} must be at least {b}")


def _unclamped(extent: Dim) -> Dim:
    """An extent ceil(max(x, 0) / n) as ceil(x / n): the same wherever there is an element, and easier to prove with."""
    call = sole_atom(extent)
    if not isinstance(call, Call):
        return extent
    if call.fn == "max" and 0 in call.args:
        return next(arg for arg in call.args if arg != 0)
    if call.fn != "floordiv" or not isinstance(call.args[1], int):
        return extent
    length = _unclamped(call.args[0] - (call.args[1] - 1))
    return ceildiv(length, call.args[1])


def _slice(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    parts = []
    for start, step, extent in zip(attrs["starts"], attrs["steps"], shapes[0], strict=True):
        stop = start + step * extent
        parts.append(slice(0, 0) if extent == 0 else slice(start, stop if stop >= 0 else None, step))
    return [inputs[0][tuple(parts)]]


def _lower_slice(low: Lowering) -> list[Stmt]:
    iters = low.iters(low.output.shape)
    index = [
        start + step * sym(i.name)
        for start, step, i in zip(low.attrs["starts"], low.attrs["steps"], iters, strict=True)
    ]
    return [low.stmt(iters, low.load(0, index))]


def _slice_gradient(b: Making, node: Node, incoming: Grads) -> list[Value | None]:
    """Zeros around the gradient; a strided slice has zeros between its elements as well."""
    (g,) = incoming
    if g is None:
        return [None]
    source = b.lookup(node.inputs[0])
    attrs: dict[str, Any] = dict(node.attrs)
    for axis, (start, step, extent) in enumerate(zip(attrs["starts"], attrs["steps"], attrs["shape"], strict=True)):
        if not isinstance(step, int):
            raise UnsupportedError(f"slice: no gradient where only a run knows the step (node {node.output})")
        if step < 0:
            g = _reversed(b, g, axis)
            start, step = start + step * (extent - 1), -step
        if step > 1:
            g = _spread(b, g, axis, step)
        span = (extent - 1) * step + 1 if step > 1 else extent
        behind = source.shape[axis] - start - span
        if start != 0 or behind != 0:
            before, after = (tuple(width if k == axis else 0 for k in range(g.rank)) for width in (start, behind))
            g = b.one("pad", [g], before=before, after=after, mode="constant", value=0.0)
    return [g]


def _reversed(b: Making, v: Value, axis: int) -> Value:
    starts = tuple(d - 1 if k == axis else 0 for k, d in enumerate(v.shape))
    return b.one("slice", [v], starts=starts, steps=tuple(-1 if k == axis else 1 for k in range(v.rank)), shape=v.shape)


def _spread(b: Making, v: Value, axis: int, step: int) -> Value:
    """step-1 zeros between the elements of an axis: a new axis padded to `step`, merged, the last zeros cut off."""
    at = axis + 1
    column = b.one("reshape", [v], shape=(*v.shape[:at], 1, *v.shape[at:]))
    after = tuple(step - 1 if k == at else 0 for k in range(column.rank))
    padded = b.one("pad", [column], before=(0,) * column.rank, after=after, mode="constant", value=0.0)
    merged = b.one("reshape", [padded], shape=(*v.shape[:axis], v.shape[axis] * step, *v.shape[at:]))
    kept = (*v.shape[:axis], (v.shape[axis] - 1) * step + 1, *v.shape[at:])
    return b.one("slice", [merged], starts=(0,) * v.rank, steps=(1,) * v.rank, shape=kept)


register(OpSpec("slice", "movement", _infer_slice, _slice, _lower_slice, by_reference(_slice), _slice_gradient))

# ---- concat(axis) ----------------------------------------------------------------------------------------------------


def _infer_concat(inference: Inference) -> list[tuple[DType, Shape]]:
    dtype = require_same_dtype(inference)
    values = [inference.value(i) for i in range(len(inference.inputs))]
    axis = axis_of(inference, inference.attrs["axis"], values[0].rank)
    shape = list(values[0].shape)
    for value in values[1:]:
        if value.rank != len(shape):
            raise ShapeError(f"{describe(inference)}: ranks differ")
        for k, dim in enumerate(value.shape):
            shape[k] = shape[k] + dim if k == axis else inference.same(shape[k], dim)
    return [(dtype, tuple(shape))]


def _concat(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    return [np.concatenate(inputs, axis=attrs["axis"])]


def _lower_concat(low: Lowering) -> list[Stmt]:
    """Each operand is written to its own part of the output."""
    axis = low.attrs["axis"] % low.output.rank
    offset: Dim = 0
    found: list[Stmt] = []
    for k in range(len(low.inputs)):
        shape = low.value(k).shape
        iters = low.iters(shape)
        index = [sym(i.name) for i in iters]
        target = [offset + at if a == axis else at for a, at in enumerate(index)]
        found.append(low.stmt(iters, low.load(k, index), index=target))
        offset = offset + shape[axis]
    return found


def _concat_gradient(b: Making, node: Node, incoming: Grads) -> list[Value | None]:
    (g,) = incoming
    if g is None:
        return [None] * len(node.inputs)
    axis = int(node.attrs["axis"]) % g.rank  # type: ignore[arg-type]
    offset: Dim = 0
    found: list[Value | None] = []
    for name in node.inputs:
        shape = b.lookup(name).shape
        starts = tuple(offset if k == axis else 0 for k in range(g.rank))
        found.append(b.one("slice", [g], starts=starts, steps=(1,) * g.rank, shape=shape))
        offset = offset + shape[axis]
    return found


register(OpSpec("concat", "movement", _infer_concat, _concat, _lower_concat, by_reference(_concat), _concat_gradient))

# ---- tile(repeats) ---------------------------------------------------------------------------------------------------


def _infer_tile(inference: Inference) -> list[tuple[DType, Shape]]:
    value, repeats = inference.value(0), inference.attrs["repeats"]
    if len(repeats) != value.rank:
        raise ShapeError(f"{describe(inference)}: {len(repeats)} repeats for {value.rank} axes")
    return [(value.dtype, tuple(d * r for d, r in zip(value.shape, repeats, strict=True)))]


def _tile(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    return [np.tile(inputs[0], attrs["repeats"])]


def _lower_tile(low: Lowering) -> list[Stmt]:
    iters = low.iters(low.output.shape)
    dims, repeats = low.value(0).shape, low.attrs["repeats"]
    if 0 in dims:
        return [low.stmt(iters, low.load(0, [0] * len(dims)))]
    index = [sym(i.name) if r == 1 else mod(sym(i.name), d) for i, d, r in zip(iters, dims, repeats, strict=True)]
    return [low.stmt(iters, low.load(0, index))]


def _tile_gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    (g,) = incoming
    if g is None:
        return [None]
    shape = b.lookup(node.inputs[0]).shape
    repeats: Any = node.attrs["repeats"]
    apart = tuple(d for pair in zip(repeats, shape, strict=True) for d in pair)
    parts = b.one("reshape", [g], shape=apart)
    return [b.one("reduce", [parts], kind="sum", axes=tuple(range(0, 2 * len(shape), 2)), keepdims=False)]


register(OpSpec("tile", "movement", _infer_tile, _tile, _lower_tile, by_reference(_tile), _tile_gradient))
