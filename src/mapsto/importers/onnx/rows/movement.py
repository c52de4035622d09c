"""Rows that move elements without choosing by data: reshape, transpose, expand, slice, split, concat, pad, tile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mapsto.budget import current
from mapsto.errors import UnsupportedError
from mapsto.importers.onnx.rows.axes import Chosen, bound, chosen, compacted, integers, known_axes, total
from mapsto.importers.onnx.rows.common import float_as_dims
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import (
    Dim,
    Expr,
    ceildiv,
    equality,
    floordiv,
    maximum,
    product,
)
from mapsto.ir.graph import Value
from mapsto.ops.arranging import flatten, positions, reshape, slice_axis, transpose, unsqueeze
from mapsto.ops.builder import Builder


@row("Reshape")
def _reshape(call: NodeCall) -> Result:
    """0 copies the input's extent (unless `allowzero`), -1 takes what the others leave."""
    x = call.input()
    target = _target(call)
    shape = list(target)
    for axis, dim in enumerate(target):
        if dim == 0 and not call.integer("allowzero", 0):
            if axis >= x.rank:
                raise call.wrong(f"shape {target}: a 0 at place {axis} of an input with {x.rank} axes")
            shape[axis] = x.shape[axis]
    if any(isinstance(d, int) and d < -1 for d in target):
        raise call.wrong(f"shape {target} has a negative extent")
    open_axes = [axis for axis, dim in enumerate(target) if dim == -1]
    if len(open_axes) > 1:
        raise call.wrong(f"shape {target} has more than one -1")
    if open_axes:
        rest = product(d for axis, d in enumerate(shape) if axis != open_axes[0])
        if rest == 0:
            raise call.wrong(f"shape {target}: -1 beside a 0 can be anything")
        shape[open_axes[0]] = floordiv(product(x.shape), rest)
    return reshape(call.builder, x, shape)


def _target(call: NodeCall) -> list[Dim]:
    """The extents that a Reshape asks for: an attribute before opset 5."""
    if call.opset < 5:
        given = call.integers("shape")
        if given is None:
            raise call.wrong("attribute 'shape' is missing")
        return list(given)
    return call.dims(1) if call.content(1) is not None else _run_time_shape(call)


def _run_time_shape(call: NodeCall) -> list[Dim]:
    """The target's extents where only a run knows them: what 0 and -1 stand for is computed in the run as well."""
    b, x, target = call.builder, call.input(), call.input(1)
    rank = target.shape[0] if target.rank == 1 else None
    if not isinstance(rank, int):
        raise call.unsupported(
            f"the rank of the result hangs on the length of {call.port(1)}, which only a run knows; fix it by `shapes`",
            target.shape,
        )
    current().check("rank", rank, "the result")
    zero, one = call.scalar(0, target), call.scalar(1, target)
    if not call.integer("allowzero", 0):
        own = [x.shape[k] if k < x.rank else 0 for k in range(rank)]
        target = b.one("select", [b.one("eq", [target, zero]), b.known(np.array(own, dtype=object)), target])
    is_open = b.one("lt", [target, zero])
    _require_target(call, is_open, target)
    others = b.one("reduce", [b.one("select", [is_open, one, target])], kind="prod", axes=(0,), keepdims=False)
    total = b.known(np.array([product(x.shape)], dtype=object))
    rest = b.one("div", [total, b.one("max", [others, one])])
    return b.dims(b.one("select", [is_open, rest, target]), "size", call.place(1))


def _require_target(call: NodeCall, is_open: Value, target: Value) -> None:
    """Extents of a run are not negative, but for one -1, and that not beside a 0."""
    b = call.builder
    zero, below = (call.scalar(n, target) for n in (0, -1))

    def count(mask: Value) -> Value:
        return total(b, "sum", b.one("cast", [mask], to=DType.I64), 0)

    number = count(is_open)
    negative, empty = count(b.one("lt", [target, below])), count(b.one("eq", [target, zero]))
    more = b.one("max", [b.one("sub", [number, call.scalar(1, number)]), call.scalar(0, number)])
    wrong = b.one("add", [b.one("add", [negative, more]), b.one("mul", [number, empty])])
    said = f"{call.port(1)} has an extent below -1, more than one -1, or a -1 beside a 0"
    call.require_value(-b.bind(wrong, "wrong"), said)


@row("Flatten")
def _flatten(call: NodeCall) -> Result:
    x = call.input()
    axis = call.integer("axis", 1)
    if not -x.rank <= axis <= x.rank:
        raise call.wrong(f"axis {axis} does not exist in a tensor of {x.rank} axes")
    return flatten(call.builder, x, axis if axis >= 0 else axis + x.rank)


def axes_of(call: NodeCall, i: int, opset_of_input: int, added: bool = False) -> list[int] | Chosen | None:
    """Axes from an attribute or, from some opset on, from input i; None where neither says. added: they are the axes
    that the result has besides the operand's.
    """
    if call.opset < opset_of_input or call.has_attribute("axes"):
        return call.integers("axes")
    if not call.has(i):
        return None
    found = call.known_ints(i)
    if found is not None:
        return found
    count = product(call.input(i).shape)
    if count == 0:
        return []
    if added and not isinstance(count, int):
        raise _rank_of_list(call, i)
    return chosen(call, i, call.input().rank + (int(count) if added else 0))  # type: ignore[arg-type]


def _rank_of_list(call: NodeCall, i: int) -> UnsupportedError:
    said = f"the rank of the result hangs on how many axes {call.port(i)} names; fix it by `shapes`"
    return call.unsupported(said, call.input(i).shape)


@row("Squeeze")
def _squeeze(call: NodeCall) -> Result:
    b, x = call.builder, call.input()
    axes = axes_of(call, 1, 13)
    if isinstance(axes, Chosen):
        if not isinstance(axes.count, int):
            raise _rank_of_list(call, 1)
        return _squeezed(call, axes.mask(), axes.count)
    if axes is None:
        gone = _ones(call)
    else:
        if axes and not x.rank:
            raise call.wrong(f"{x} has no axis to leave out")
        gone = {call.normal_axis(axis, x.rank) for axis in axes}
    for axis in gone:
        if isinstance(x.shape[axis], int) and x.shape[axis] != 1:
            raise call.wrong(f"axis {axis} of {x} is not 1")
    return reshape(b, x, [d for axis, d in enumerate(x.shape) if axis not in gone])


def _ones(call: NodeCall) -> set[int]:
    """The axes of extent 1. Open ones are taken to be none of them, which a run checks: the rank is settled before."""
    x = call.input()
    for axis, d in enumerate(x.shape):
        if isinstance(d, Expr):
            said = f"axis {axis} is 1 in this run, so the result would lose it; name the axes, or fix it by `shapes`"
            call.require(maximum(d - 2, -d), said, liftable=True)
    return {axis for axis, d in enumerate(x.shape) if d == 1}


def _squeezed(call: NodeCall, mask: Value, count: int) -> Value:
    """The operand without the chosen axes, which must be of extent 1."""
    b, x = call.builder, call.input()
    if count > x.rank:
        raise call.wrong(f"{count} axes are named, {x} has {x.rank}")
    extents, one = integers(b, x.shape), call.scalar(1, b.known(0))
    wrong = b.one("cast", [b.one("and", [mask, b.one("ne", [extents, one])])], to=DType.I64)
    said = f"{call.port(1)} names an axis whose extent is not 1"
    call.require_value(-b.bind(total(b, "sum", wrong, 0), "wide"), said)
    return reshape(b, x, compacted(call, extents, b.one("not", [mask]), x.rank - count))


@row("Unsqueeze")
def _unsqueeze(call: NodeCall) -> Result:
    axes = axes_of(call, 1, 13, added=True)
    if axes is None:
        raise call.wrong("it does not say which axes")
    if isinstance(axes, Chosen):
        return _unsqueezed(call, axes)
    rank = call.input().rank + len(axes)
    places = [call.normal_axis(axis, rank) for axis in axes]
    if len(set(places)) != len(places):
        raise call.wrong(f"axes {axes} name one axis twice")
    return unsqueeze(call.builder, call.input(), places)


def _unsqueezed(call: NodeCall, axes: Chosen) -> Value:
    """Each axis of the result that is not chosen has the extent of the operand's next."""
    b, x = call.builder, call.input()
    kept = b.one("cast", [b.one("not", [axes.mask()])], to=DType.I64)
    place = b.one("cumsum", [kept], axis=0, exclusive=True, reverse=False)
    own = b.one("eq", [reshape(b, place, (axes.rank, 1)), positions(b, x.rank)])
    zero, one = (b.constant(np.asarray(n, np.int64)) for n in (0, 1))
    extents = total(b, "sum", b.one("select", [own, integers(b, x.shape), zero]), 1)
    return reshape(b, x, bound(call, b.one("select", [axes.mask(), one, extents]), "kept"))


@row("Transpose")
def _transpose(call: NodeCall) -> Result:
    x = call.input()
    perm = call.integers("perm")
    if perm is not None and sorted(perm) != list(range(x.rank)):
        raise call.wrong(f"perm {perm} is no permutation of {x.rank} axes")
    return transpose(call.builder, x, perm if perm is not None else range(x.rank - 1, -1, -1))


@row("Expand")
def _expand(call: NodeCall) -> Result:
    """Broadcasting both ways: an extent of 1 in the target keeps the input's."""
    x, target = call.input(), call.dims(1)
    rank = max(x.rank, len(target))
    own: list[Dim] = [*[1] * (rank - x.rank), *x.shape]
    wanted: list[Dim] = [*[1] * (rank - len(target)), *target]
    shape = [call.builder.broadcast(a, b, "Expand") for a, b in zip(own, wanted, strict=True)]
    return x if tuple(shape) == x.shape else call.builder.one("expand", [x], shape=tuple(shape))


@row("Tile")
def _tile(call: NodeCall) -> Result:
    x = call.input()
    repeats = call.dims(1) if call.opset >= 6 else _tiles_of_old(call)
    if len(repeats) != x.rank:
        raise call.wrong(f"{len(repeats)} repeats for {x.rank} axes")
    return x if all(r == 1 for r in repeats) else call.builder.one("tile", [x], repeats=tuple(repeats))


def _tiles_of_old(call: NodeCall) -> list[Dim]:
    """Before opset 6 the copies along one axis, both numbers of the data's own type."""
    x, count = call.input(), float_as_dims(call.builder, call.input(1))
    if count is None:
        raise call.unsupported("tiles (input 1) must be known when compiling; make it an initializer")
    axis = call.normal_axis(int(call.static_scalar(2, "the axis")), x.rank)
    return [count if k == axis else 1 for k in range(x.rank)]


@row("Concat")
def _concat(call: NodeCall) -> Result:
    values = call.all_inputs()
    if not values:
        raise call.wrong("it has no inputs")
    if len(values) == 1:
        return values[0]
    return call.builder.one("concat", values, axis=call.axis(values[0].rank, 1 if call.opset < 4 else None))


# -- split -------------------------------------------------------------------------------------------------------------


@row("Split")
def _split(call: NodeCall) -> Result:
    x = call.input()
    if not x.rank:
        raise call.wrong(f"{x} has no axis to split")
    axis = call.axis(x.rank, 0)
    sizes = _split_sizes(call, x.shape[axis])
    if len(sizes) != len(call.outputs):
        raise call.wrong(f"{len(sizes)} parts for {len(call.outputs)} outputs")
    return parts_along(call, x, axis, sizes)


def parts_along(call: NodeCall, x: Value, axis: int, sizes: Sequence[Dim]) -> list[Value]:
    """x cut along an axis into parts of these extents, which must make it up."""
    starts: list[Dim] = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    call.require(equality(starts[-1], x.shape[axis]), f"parts {list(sizes)} do not make up axis {axis} of {x}")
    return [slice_axis(call.builder, x, axis, *part) for part in zip(starts, sizes, strict=False)]


def _split_sizes(call: NodeCall, dim: Dim) -> list[Dim]:
    given = call.integers("split") if call.opset < 13 else call.dims(1) if call.has(1) else None
    if call.opset == 1 and call.has(1):
        given = _parts_of_old(call)
    if given is not None:
        return list(given)
    parts = call.integer("num_outputs", len(call.outputs))
    if parts < 1 or parts != len(call.outputs):
        raise call.wrong(f"{parts} parts for {len(call.outputs)} outputs")
    if call.opset >= 18:  # equal parts, the last one smaller
        size = ceildiv(dim, parts)
        return [size] * (parts - 1) + [dim - size * (parts - 1)]
    if isinstance(dim, int) and dim % parts:
        raise call.wrong(f"an axis of {dim} does not split into {parts} equal parts")
    return [floordiv(dim, parts)] * parts


def _parts_of_old(call: NodeCall) -> list[int]:
    """Opset 1 takes extents as numbers of the data's own type."""
    array = call.array(1)
    if array is None or not all(float(v).is_integer() for v in array.reshape(-1)):
        raise call.unsupported("the parts (input 1) must be whole numbers known when compiling; make it an initializer")
    return [int(v) for v in array.reshape(-1)]


# -- pad ---------------------------------------------------------------------------------------------------------------


@row("Pad")
def _pad(call: NodeCall) -> Result:
    b, x = call.builder, call.input()
    mode = call.one_of("mode", "constant", ["constant", "reflect", "edge", "wrap"])
    x, before, after = _cropped(call, x)
    if all(d == 0 for d in (*before, *after)):
        return x
    attrs = {"before": tuple(before), "after": tuple(after), "mode": mode}
    if mode != "constant" or not call.has(2) or call.opset < 11:
        value = call.number("value", 0.0) if call.opset < 11 else 0.0
        return b.one("pad", [x], value=value, **attrs)
    if call.array(2) is not None:
        return b.one("pad", [x], value=call.static_scalar(2, "the value to pad with"), **attrs)
    inside = b.one("pad", [b.one("full", [], shape=x.shape, value=True, dtype=DType.BOOL)], value=0.0, **attrs)
    border = b.one("reshape", [call.input(2)], shape=())
    return b.one("select", [inside, b.one("pad", [x], value=0.0, **attrs), border])


def _cropped(call: NodeCall, x: Value) -> tuple[Value, list[Dim], list[Dim]]:
    """The input without what negative widths cut off, and the widths left to pad."""
    b = call.builder
    if call.opset < 11:
        return crop(b, x, *_laid(call, range(x.rank), call.integers("pads" if call.opset >= 2 else "paddings") or []))
    widths, places = _widths(call)
    known = b.content(widths)
    if known is not None:
        return crop(b, x, *_laid(call, places, list(known.reshape(-1))))
    # widths that only a run knows may be negative, which a bound size cannot be: both parts are bound
    zero = call.scalar(0, widths)
    added = b.dims(b.one("max", [widths, zero]), "pad", call.place(1))
    removed = b.dims(b.one("max", [b.one("neg", [widths]), zero]), "cut", call.place(1))
    starts, ends = _laid(call, places, removed)
    x = _cut(b, x, starts, ends)
    return x, *_laid(call, places, added)


def _widths(call: NodeCall) -> tuple[Value, Sequence[int]]:
    """The widths before some axes, then those behind them; and which axes these are: all of them, where only a run
    knows which are named.
    """
    b, x, pads = call.builder, call.input(), call.input(1)
    if pads.rank != 1:
        raise call.wrong(f"{call.port(1)} is no list of widths: {pads}")
    if not call.has(3):
        return pads, range(x.rank)
    axes = known_axes(call, 3, x.rank)
    if axes is not None:
        return pads, axes
    named = chosen(call, 3, x.rank)
    b.same(pads.shape[0], 2 * named.count, "Pad")
    zeros = integers(b, [0] * x.rank)
    parts = [slice_axis(b, pads, 0, start, named.count) for start in (0, named.count)]
    return b.one("concat", [named.laid(part, zeros) for part in parts], axis=0), range(x.rank)


def _laid(call: NodeCall, places: Sequence[int], widths: Sequence[Dim]) -> tuple[list[Dim], list[Dim]]:
    """Widths before and after every axis."""
    if len(widths) != 2 * len(places):
        raise call.wrong(f"{len(widths)} pads for {len(places)} axes")
    before: list[Dim] = [0] * call.input().rank
    after: list[Dim] = [0] * call.input().rank
    for k, axis in enumerate(places):
        before[axis], after[axis] = widths[k], widths[k + len(places)]
    return before, after


def _above_zero(b: Builder, width: Dim) -> Dim:
    if b.proves(width):
        return width
    return 0 if b.proves(-width) else maximum(width, 0)


def crop(b: Builder, x: Value, before: Sequence[Dim], after: Sequence[Dim]) -> tuple[Value, list[Dim], list[Dim]]:
    """Negative widths cut elements off: the tensor after that, with what is left to pad."""
    front, back = ([_above_zero(b, d) for d in widths] for widths in (before, after))
    starts = [p - d for p, d in zip(front, before, strict=True)]  # max(-d, 0), in a form that cancels
    ends = [p - d for p, d in zip(back, after, strict=True)]
    return _cut(b, x, starts, ends), front, back


def _cut(b: Builder, x: Value, starts: Sequence[Dim], ends: Sequence[Dim]) -> Value:
    """The tensor without so many elements before and behind."""
    shape = tuple(d - s - e for d, s, e in zip(x.shape, starts, ends, strict=True))
    for axis, (left, extent) in enumerate(zip(shape, x.shape, strict=True)):
        b.require(left, f"the pads cut off more than the {extent} elements of axis {axis}")
    return x if shape == x.shape else b.one("slice", [x], starts=tuple(starts), steps=(1,) * x.rank, shape=shape)


# -- channels and pixels -----------------------------------------------------------------------------------------------


@row("DepthToSpace")
def _depth_to_space(call: NodeCall) -> Result:
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
def _space_to_depth(call: NodeCall) -> Result:
    b, x, block = call.builder, call.input(), call.integer("blocksize")
    if x.rank != 4 or block < 1:
        raise call.wrong("it takes a tensor of 4 axes and a positive blocksize")
    n, c, h, w = x.shape
    rows, columns = floordiv(h, block), floordiv(w, block)
    split = b.one("reshape", [x], shape=(n, c, rows, block, columns, block))
    by_block = call.one_of("mode", "DCR", ["DCR", "CRD"]) == "DCR"
    moved = b.one("transpose", [split], perm=(0, 3, 5, 1, 2, 4) if by_block else (0, 1, 3, 5, 2, 4))
    return b.one("reshape", [moved], shape=(n, c * block * block, rows, columns))
