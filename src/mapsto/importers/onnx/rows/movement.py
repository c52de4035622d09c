"""Rows that move elements without choosing by data: reshape, transpose, expand, slice, split, concat, pad, tile."""

from __future__ import annotations

from collections.abc import Sequence

from mapsto.errors import ModelError
from mapsto.importers.onnx.rows.common import flatten, reshape, slice_axis, transpose, unsqueeze
from mapsto.importers.onnx.table import Call, Result, row
from mapsto.ir.expr import Call as ExprCall
from mapsto.ir.expr import (
    Dim,
    Expr,
    atoms,
    ceildiv,
    floordiv,
    known_at_least,
    maximum,
    product,
    substitute,
    sym,
    symbols,
)
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder
from mapsto.ops.shapes import dim_max, dim_min

# Exporters write "to the end" as the largest integer of some width.
FAR = (1 << 31) - 1


@row("Reshape")
def _reshape(call: Call) -> Result:
    """0 copies the input's extent (unless `allowzero`), -1 takes what the others leave."""
    x = call.input()
    target = call.dims(1)
    shape = list(target)
    for axis, dim in enumerate(target):
        if dim == 0 and not call.integer("allowzero", 0):
            if axis >= x.rank:
                raise call.wrong(f"shape {target}: a 0 at place {axis} of an input with {x.rank} axes")
            shape[axis] = x.shape[axis]
    open_axes = [axis for axis, dim in enumerate(target) if dim == -1]
    if len(open_axes) > 1:
        raise call.wrong(f"shape {target} has more than one -1")
    if open_axes:
        rest = product(d for axis, d in enumerate(shape) if axis != open_axes[0])
        if rest == 0:
            raise call.wrong(f"shape {target}: -1 beside a 0 can be anything")
        shape[open_axes[0]] = floordiv(product(x.shape), rest)
    if any(isinstance(d, int) and d < 0 for d in shape):
        raise call.wrong(f"shape {target} has a negative extent")
    return reshape(call.builder, x, shape)


@row("Flatten")
def _flatten(call: Call) -> Result:
    x = call.input()
    axis = call.integer("axis", 1)
    if not -x.rank <= axis <= x.rank:
        raise call.wrong(f"axis {axis} does not exist in a tensor of {x.rank} axes")
    return flatten(call.builder, x, axis if axis >= 0 else axis + x.rank)


def axes_of(call: Call, i: int, opset_of_input: int) -> list[int] | None:
    """Axes from an attribute or, from some opset on, from input i; None where neither says."""
    if call.opset < opset_of_input or call.has_attribute("axes"):
        return call.integers("axes")
    return call.static_ints(i, "the list of axes") if call.has(i) else None


@row("Squeeze")
def _squeeze(call: Call) -> Result:
    b, x = call.builder, call.input()
    axes = axes_of(call, 1, 13)
    if axes is None:
        if any(isinstance(d, Expr) for d in x.shape):
            raise call.unsupported(
                f"without axes the rank depends on the open extents of {x}; name the axes or fix them by `shapes`"
            )
        chosen = {axis for axis, d in enumerate(x.shape) if d == 1}
    else:
        chosen = {call.normal_axis(axis, x.rank) for axis in axes}
    for axis in chosen:
        if isinstance(x.shape[axis], int) and x.shape[axis] != 1:
            raise call.wrong(f"axis {axis} of {x} is not 1")
    return reshape(b, x, [d for axis, d in enumerate(x.shape) if axis not in chosen])


@row("Unsqueeze")
def _unsqueeze(call: Call) -> Result:
    axes = axes_of(call, 1, 13)
    if axes is None:
        raise call.wrong("it does not say which axes")
    rank = call.input().rank + len(axes)
    places = [call.normal_axis(axis, rank) for axis in axes]
    if len(set(places)) != len(places):
        raise call.wrong(f"axes {axes} name one axis twice")
    return unsqueeze(call.builder, call.input(), places)


@row("Transpose")
def _transpose(call: Call) -> Result:
    x = call.input()
    perm = call.integers("perm")
    if perm is not None and sorted(perm) != list(range(x.rank)):
        raise call.wrong(f"perm {perm} is no permutation of {x.rank} axes")
    return transpose(call.builder, x, perm if perm is not None else range(x.rank - 1, -1, -1))


@row("Expand")
def _expand(call: Call) -> Result:
    """Broadcasting both ways: an extent of 1 in the target keeps the input's."""
    x, target = call.input(), call.dims(1)
    rank = max(x.rank, len(target))
    own: list[Dim] = [*[1] * (rank - x.rank), *x.shape]
    wanted: list[Dim] = [*[1] * (rank - len(target)), *target]
    shape = []
    for a, b in zip(own, wanted, strict=True):
        if a != 1 and b != 1 and isinstance(a - b, int) and a != b:
            raise call.wrong(f"{x} does not expand to {target}")
        # where nothing decides between two extents, the op's shape rule lets the run check that they are equal
        shape.append(a if b == 1 or (a != 1 and isinstance(a, int)) else b)
    return x if tuple(shape) == x.shape else call.builder.one("expand", [x], shape=tuple(shape))


@row("Tile")
def _tile(call: Call) -> Result:
    x = call.input()
    if call.opset < 6:
        raise call.unsupported("Tile before opset 6 is not supported; convert the model")
    repeats = call.dims(1)
    if len(repeats) != x.rank:
        raise call.wrong(f"{len(repeats)} repeats for {x.rank} axes")
    return x if all(r == 1 for r in repeats) else call.builder.one("tile", [x], repeats=tuple(repeats))


@row("Concat")
def _concat(call: Call) -> Result:
    values = call.all_inputs()
    if not values:
        raise call.wrong("it has no inputs")
    if len(values) == 1:
        return values[0]
    return call.builder.one("concat", values, axis=call.axis(values[0].rank, 1 if call.opset < 4 else None))


# -- slices ------------------------------------------------------------------------------------------------------------


@row("Slice")
def _slice(call: Call) -> Result:
    x = call.input()
    if call.opset < 10:
        starts: Sequence[Dim] = call.integers("starts") or []
        ends: Sequence[Dim] = call.integers("ends") or []
        axes, steps = call.integers("axes"), None
    else:
        starts, ends = call.dims(1, "start"), call.dims(2, "end")
        axes = call.static_ints(3, "the list of axes") if call.has(3) else None
        steps = call.static_ints(4, "the list of steps") if call.has(4) else None
    places = list(range(len(starts))) if axes is None else [call.normal_axis(axis, x.rank) for axis in axes]
    strides = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(places) == len(strides) or len(set(places)) != len(places) or 0 in strides:
        raise call.wrong("starts, ends, axes and steps do not fit each other")
    first: list[Dim] = [0] * x.rank
    step = [1] * x.rank
    shape = list(x.shape)
    for axis, start, end, stride in zip(places, starts, ends, strides, strict=True):
        if axis >= x.rank:
            raise call.wrong(f"axis {axis} does not exist in a tensor of {x.rank} axes")
        first[axis], shape[axis] = slice_extent(call.builder, start, end, stride, x.shape[axis])
        step[axis] = stride
    if tuple(shape) == x.shape and all(f == 0 for f in first) and all(s == 1 for s in step):
        return x
    return call.builder.one("slice", [x], starts=tuple(first), steps=tuple(step), shape=tuple(shape))


def slice_extent(b: Builder, start: Dim, end: Dim, step: int, dim: Dim) -> tuple[Dim, Dim]:
    """(first element, number of elements) of a slice with ONNX's rules: negative places count from the end, then both
    are clamped.

    Where the rules only matter for axes shorter than the slice's fixed numbers, a run refuses such axes, so that
    extents stay simple.
    """
    if step > 0:
        low = _start(b, start, dim) if isinstance(start, int) else _clamped(b, start, dim, 0, dim)
        length = _end(b, end, dim, 0, dim) - low
    else:
        low = _clamped(b, start, dim, 0, dim - 1)
        length = low - _end(b, end, dim, -1, dim - 1)
    if isinstance(length, Expr) and isinstance(start, int) and isinstance(end, int) and not _has_extremes(length):
        b.require(length, f"a slice needs {length} to be at least 0")
    if not b.proves(length):
        length = dim_max(length, 0)
    extent = ceildiv(length, abs(step))
    return (0 if extent == 0 else low), extent


def _has_extremes(e: Dim) -> bool:
    return any(isinstance(atom, ExprCall) and atom.fn in ("min", "max") for atom in atoms(e))


def _start(b: Builder, at: int, dim: Dim) -> Dim:
    """Where a slice that goes upwards begins."""
    if isinstance(dim, int):
        return max(0, min(at + dim if at < 0 else at, dim))
    if at >= FAR:
        return dim
    if at == 0 or at <= -FAR:
        return 0
    b.require(dim - abs(at), f"a slice begins {abs(at)} elements into an axis of {dim}")
    return at if at >= 0 else dim + at


def _end(b: Builder, at: Dim, dim: Dim, lowest: int, highest: Dim) -> Dim:
    if isinstance(at, int) and isinstance(dim, Expr) and -FAR < at < 0:
        b.require(dim + at - lowest, f"a slice ends {-at} elements before the end of an axis of {dim}")
        return dim + at
    return _clamped(b, at, dim, lowest, highest)


def _clamped(b: Builder, at: Dim, dim: Dim, lowest: int, highest: Dim) -> Dim:
    if isinstance(at, int) and at >= FAR:
        return highest
    if isinstance(at, int) and at <= -FAR:
        return lowest if isinstance(dim, Expr) else min(lowest, dim)
    at = _from_front(b, at, dim)
    at = at if b.proves(at - lowest) else dim_max(at, lowest)
    if b.proves(highest - at):
        return at
    return highest if b.proves(at - highest) else dim_min(at, highest)


def _from_front(b: Builder, at: Dim, dim: Dim) -> Dim:
    """at + dim where at is negative. Whether it is may hang on no size being 0, which then becomes a condition of the
    run.
    """
    if b.proves(at):
        return at
    if b.proves(-at - 1):
        return at + dim
    names = sorted(symbols(at))
    if known_at_least(substitute(at, {name: sym(name) + 1 for name in names}), 0):
        for name in names:
            b.require(sym(name) - 1, f"{name} must be at least 1")
        return at
    negative = dim_min(dim_max(-at, 0), 1)  # 1 where at < 0, else 0
    return at + dim * negative


# -- split -------------------------------------------------------------------------------------------------------------


@row("Split")
def _split(call: Call) -> Result:
    b, x = call.builder, call.input()
    axis = call.axis(x.rank, 0)
    sizes = _split_sizes(call, x.shape[axis])
    if len(sizes) != len(call.outputs):
        raise call.wrong(f"{len(sizes)} parts for {len(call.outputs)} outputs")
    if isinstance(x.shape[axis], int) and all(isinstance(s, int) for s in sizes) and sum(sizes) != x.shape[axis]:
        raise call.wrong(f"parts {sizes} do not make up axis {axis} of {x}")
    parts: list[Value | None] = []
    start: Dim = 0
    for size in sizes:
        parts.append(slice_axis(b, x, axis, start, size))
        start = start + size
    return parts


def _split_sizes(call: Call, dim: Dim) -> list[Dim]:
    given = call.integers("split") if call.opset < 13 else call.dims(1) if call.has(1) else None
    if given is not None:
        return list(given)
    parts = call.integer("num_outputs", len(call.outputs))
    if parts < 1:
        raise call.wrong(f"{parts} parts")
    if call.opset >= 18:  # equal parts, the last one smaller
        size = ceildiv(dim, parts)
        return [size] * (parts - 1) + [dim - size * (parts - 1)]
    if isinstance(dim, int) and dim % parts:
        raise call.wrong(f"an axis of {dim} does not split into {parts} equal parts")
    return [floordiv(dim, parts)] * parts


# -- pad ---------------------------------------------------------------------------------------------------------------


@row("Pad")
def _pad(call: Call) -> Result:
    b, x = call.builder, call.input()
    mode = call.one_of("mode", "constant", ["constant", "reflect", "edge", "wrap"])
    pads: Sequence[Dim] = (call.integers("pads") or []) if call.opset < 11 else _pads(call)
    value = call.number("value", 0.0) if call.opset < 11 else _pad_value(call)
    axes = call.static_ints(3, "the list of axes") if call.has(3) else None
    places = list(range(x.rank)) if axes is None else [call.normal_axis(axis, x.rank) for axis in axes]
    if len(pads) != 2 * len(places):
        raise call.wrong(f"{len(pads)} pads for {len(places)} axes")
    before: list[Dim] = [0] * x.rank
    after: list[Dim] = [0] * x.rank
    for k, axis in enumerate(places):
        before[axis], after[axis] = pads[k], pads[k + len(places)]
    x, before, after = crop(b, x, before, after)
    if all(d == 0 for d in (*before, *after)):
        return x
    return b.one("pad", [x], before=tuple(before), after=tuple(after), mode=mode, value=value)


def _pads(call: Call) -> list[Dim]:
    """Widths from the second input. One that only the run knows may be negative, which a bound size cannot be."""
    return call.dims(1, "pad")


def _pad_value(call: Call) -> float:
    return call.static_scalar(2, "the value to pad with") if call.has(2) else 0.0


def crop(b: Builder, x: Value, before: Sequence[Dim], after: Sequence[Dim]) -> tuple[Value, list[Dim], list[Dim]]:
    """Negative widths cut elements off: the tensor after that, with what is left to pad."""
    front = [d if b.proves(d) else maximum(d, 0) for d in before]
    back = [d if b.proves(d) else maximum(d, 0) for d in after]
    starts = [p - d for p, d in zip(front, before, strict=True)]  # max(-d, 0), in a form that cancels
    ends = [p - d for p, d in zip(back, after, strict=True)]
    shape = [d - s - e for d, s, e in zip(x.shape, starts, ends, strict=True)]
    if any(isinstance(d, int) and d < 0 for d in shape):
        raise ModelError(f"pads {list(before)}, {list(after)} cut off more than {x} has")
    if tuple(shape) != x.shape:
        x = b.one("slice", [x], starts=tuple(starts), steps=(1,) * x.rank, shape=tuple(shape))
    return x, front, back


# -- channels and pixels -----------------------------------------------------------------------------------------------


@row("DepthToSpace")
def _depth_to_space(call: Call) -> Result:
    b, x, block = call.builder, call.input(), call.integer("blocksize")
    if x.rank != 4 or block < 1:
        raise call.wrong("it takes a tensor of 4 axes and a positive blocksize")
    n, c, h, w = x.shape
    depth = floordiv(c, block * block)
    if call.one_of("mode", "DCR", ["DCR", "CRD"]) == "DCR":
        split = b.one("reshape", [x], shape=(n, block, block, depth, h, w))
        moved = b.one("transpose", [split], perm=(0, 3, 4, 1, 5, 2))
    else:
        split = b.one("reshape", [x], shape=(n, depth, block, block, h, w))
        moved = b.one("transpose", [split], perm=(0, 1, 4, 2, 5, 3))
    return b.one("reshape", [moved], shape=(n, depth, h * block, w * block))


@row("SpaceToDepth")
def _space_to_depth(call: Call) -> Result:
    b, x, block = call.builder, call.input(), call.integer("blocksize")
    if x.rank != 4 or block < 1:
        raise call.wrong("it takes a tensor of 4 axes and a positive blocksize")
    n, c, h, w = x.shape
    rows, columns = floordiv(h, block), floordiv(w, block)
    split = b.one("reshape", [x], shape=(n, c, rows, block, columns, block))
    moved = b.one("transpose", [split], perm=(0, 3, 5, 1, 2, 4))
    return b.one("reshape", [moved], shape=(n, c * block * block, rows, columns))
