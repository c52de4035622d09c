"""Rows of movement: views, axes, slices, joins and splits. In a functional graph a view is a tensor of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mapsto.importers.torch.table import AtenCall, aten
from mapsto.ir.expr import Dim, Expr, floordiv, product
from mapsto.ir.graph import Value
from mapsto.ops.arranging import positions, reshape, slice_axis, transpose, unsqueeze
from mapsto.ops.slicing import slice_extent


@aten("view", "reshape", "_unsafe_view", "_reshape_alias", "view_copy", "_reshape_copy")
def _view(call: AtenCall) -> Value:
    if call.overload == "dtype":
        return _as_type(call)
    x = call.value()
    return reshape(call.builder, x, filled_in(x.shape, call.dims("shape" if "shape" in call.given else "size")))


def filled_in(own: Sequence[Dim], wanted: Sequence[Dim]) -> list[Dim]:
    """A shape with the extent that -1 stands for."""
    if not any(isinstance(d, int) and d == -1 for d in wanted):
        return list(wanted)
    rest = list(own)
    others = []
    for d in wanted:  # what stands on both sides cancels, also where it may be 0
        if isinstance(d, int) and d == -1:
            continue
        if d in rest:
            rest.remove(d)
        else:
            others.append(d)
    return [floordiv(product(rest), product(others)) if isinstance(d, int) and d == -1 else d for d in wanted]


def _as_type(call: AtenCall) -> Value:
    x = call.value()
    if x.dtype.size != call.out.size:
        raise call.unsupported("a view as a type of another size is not supported")
    return x if x.dtype is call.out else call.one("bitcast", [x], to=call.out)


@aten("detach", "detach_copy")
def _detach(call: AtenCall) -> Value:
    return call.value() if call.run is None else call.one("detach", [call.value()])


@aten("clone", "contiguous", "alias", "alias_copy", "lift_fresh_copy", "lift_fresh", "lift")
@aten("positive", "conj", "resolve_conj", "resolve_neg", "view_as", "real", "_conj", "_to_cpu")
def _same(call: AtenCall) -> Value:
    return call.value()


@aten("_to_copy", "to", "type_as", "_to_dense", "prims::convert_element_type")
def _to(call: AtenCall) -> Value:
    return call.cast(call.value("a" if call.name == "convert_element_type" else "self"), call.out)


@aten("expand", "expand_copy", "expand_as", "broadcast_to")
def _expand(call: AtenCall) -> Value:
    x = call.value()
    if call.name == "expand_as":
        wanted = list(call.value("other").shape)
    else:
        wanted = call.dims("size")
    lead = len(wanted) - x.rank
    shape = [x.shape[k - lead] if k >= lead and d == -1 else d for k, d in enumerate(wanted)]
    return x if tuple(shape) == x.shape else call.one("expand", [x], shape=tuple(shape))


@aten("permute", "permute_copy")
def _permute(call: AtenCall) -> Value:
    x = call.value()
    return transpose(call.builder, x, [d % x.rank for d in call.integers("dims")])


@aten("transpose", "swapaxes", "swapdims", "transpose_copy")
def _transpose(call: AtenCall) -> Value:
    x = call.value()
    if x.rank == 0:
        return x
    first, second = (call.integer(n) % x.rank for n in [a.name for a in call.target._schema.arguments][1:3])
    perm = list(range(x.rank))
    perm[first], perm[second] = second, first
    return transpose(call.builder, x, perm)


@aten("t", "numpy_T", "mT", "t_copy", "adjoint")
def _turned(call: AtenCall) -> Value:
    x = call.value()
    if call.name in ("mT", "adjoint"):
        return transpose(call.builder, x, (*range(x.rank - 2), x.rank - 1, x.rank - 2))
    return transpose(call.builder, x, range(x.rank - 1, -1, -1))


@aten("unsqueeze", "unsqueeze_copy")
def _unsqueeze(call: AtenCall) -> Value:
    return unsqueeze(call.builder, call.value(), [call.integer("dim")])


@aten("squeeze", "squeeze_copy")
def _squeeze(call: AtenCall) -> Value:
    """The rank is torch's: an open extent is taken to be none of 1."""
    x = call.value()
    named = {d % max(x.rank, 1) for d in call.integers("dim")} if "dim" in call.given else set(range(x.rank))
    return reshape(call.builder, x, [d for k, d in enumerate(x.shape) if k not in named or d != 1])


@aten("flatten", "ravel")
def _flatten(call: AtenCall) -> Value:
    x = call.value()
    if call.name == "ravel":
        return reshape(call.builder, x, (product(x.shape),))
    first, last = (call.integer(n) % max(x.rank, 1) for n in ("start_dim", "end_dim"))
    return reshape(call.builder, x, (*x.shape[:first], product(x.shape[first : last + 1]), *x.shape[last + 1 :]))


@aten("unflatten")
def _unflatten(call: AtenCall) -> Value:
    x, axis = call.value(), call.axis()
    return reshape(
        call.builder, x, (*x.shape[:axis], *filled_in([x.shape[axis]], call.dims("sizes")), *x.shape[axis + 1 :])
    )


@aten("movedim", "moveaxis")
def _movedim(call: AtenCall) -> Value:
    x = call.value()
    source, target = ([d % x.rank for d in call.integers(n)] for n in ("source", "destination"))
    rest = iter(k for k in range(x.rank) if k not in source)
    placed = dict(zip(target, source, strict=True))
    return transpose(call.builder, x, [placed[k] if k in placed else next(rest) for k in range(x.rank)])


# -- parts -------------------------------------------------------------------------------------------------------------


def cut(call: AtenCall, x: Value, axis: int) -> tuple[Dim, Dim, int]:
    """(first element, number of elements, step) of a slice along an axis."""
    step = call.integer("step")
    start = 0 if call.given.get("start") is None else call.dim("start")
    end = x.shape[axis] if call.given.get("end") is None else call.dim("end")
    first, extent = slice_extent(call.builder, start, end, step, x.shape[axis])
    return first, extent, step


@aten("slice", "slice_copy")
def _slice(call: AtenCall) -> Value:
    x, axis = call.value(), call.axis()
    first, extent, step = cut(call, x, axis)
    if first == 0 and step == 1 and extent == x.shape[axis]:
        return x
    starts, steps = ([v if k == axis else d for k in range(x.rank)] for v, d in ((first, 0), (step, 1)))
    shape = tuple(extent if k == axis else d for k, d in enumerate(x.shape))
    return call.one("slice", [x], starts=tuple(starts), steps=tuple(steps), shape=shape)


def from_front(place: Dim, extent: Dim) -> Dim:
    """A place that may count from the end, from the front."""
    return extent + place if isinstance(place, int) and place < 0 else place


@aten("select", "select_copy")
def _select(call: AtenCall) -> Value:
    x, axis = call.value(), call.axis()
    part = slice_axis(call.builder, x, axis, from_front(call.dim("index"), x.shape[axis]), 1)
    return reshape(call.builder, part, (*x.shape[:axis], *x.shape[axis + 1 :]))


@aten("narrow", "narrow_copy")
def _narrow(call: AtenCall) -> Value:
    x, axis = call.value(), call.axis()
    return slice_axis(call.builder, x, axis, from_front(call.dim("start"), x.shape[axis]), call.dim("length"))


@aten("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes", "tensor_split")
@aten("split_copy", "split_with_sizes_copy")
def _split(call: AtenCall) -> list[Value]:
    """As many parts as torch found."""
    x, axis = call.value(), call.axis()
    found, start = [], 0
    made = call.result()
    for k, held in enumerate(made):
        extent: Dim | None = call.sizes.dim(held.shape[axis])
        if extent is None or k == len(made) - 1:
            extent = x.shape[axis] - start
        found.append(slice_axis(call.builder, x, axis, start, extent))
        start = start + extent  # type: ignore[assignment]
    return found


@aten("unbind", "unbind_copy")
def _unbind(call: AtenCall) -> list[Value]:
    x, axis = call.value(), call.axis()
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    return [reshape(call.builder, slice_axis(call.builder, x, axis, k, 1), shape) for k in range(len(call.result()))]


@aten("diagonal", "diagonal_copy")
def _diagonal(call: AtenCall) -> Value:
    """Two axes become one, the last."""
    x, offset = call.value(), call.integer("offset")
    first, second = (call.integer(n) % x.rank for n in ("dim1", "dim2"))
    b = call.builder
    rest = [k for k in range(x.rank) if k not in (first, second)]
    x = transpose(b, x, (*rest, first, second))
    rows, columns = x.shape[-2:]
    length = call.shape[-1]
    flat = reshape(b, x, (*x.shape[:-2], rows * columns))
    start: Dim = offset if offset >= 0 else -offset * columns
    lead = flat.rank - 1
    if isinstance(length, int) and length == 0:
        return call.one("slice", [flat], starts=(0,) * flat.rank, steps=(1,) * flat.rank, shape=(*flat.shape[:-1], 0))
    if isinstance(columns, Expr):
        at = call.one("iota", [], shape=(length,), start=start, step=columns + 1, dtype=b.known(0).dtype)
        return call.one("gather", [flat, at], axis=lead)
    steps = (*(1,) * lead, columns + 1)
    return call.one("slice", [flat], starts=(*(0,) * lead, start), steps=steps, shape=(*flat.shape[:-1], length))


@aten("as_strided", "as_strided_copy")
def _as_strided(call: AtenCall) -> Value:
    """Elements of the tensor's memory, which is taken to be contiguous, by their places."""
    x = call.value()
    base = call.node.args[0].meta["val"]
    size, stride, start = (
        call.integers("size"),
        call.integers("stride"),
        call.integer("storage_offset") if call.has("storage_offset") else 0,
    )
    if not base.is_contiguous() or any(isinstance(d, Expr) for d in x.shape):
        raise call.unsupported("`as_strided` of a tensor that is not contiguous is not supported; use views and slices")
    at = np.full((), start, np.int64)
    for axis, (n, s) in enumerate(zip(size, stride, strict=True)):
        step = np.arange(n, dtype=np.int64) * s
        at = at + step.reshape([n if k == axis else 1 for k in range(len(size))])
    flat = reshape(call.builder, x, (math.prod(int(d) for d in x.shape if isinstance(d, int)),))
    return call.one("gather", [flat, call.builder.constant(np.broadcast_to(at, size), "places")], axis=0)


@aten("unfold", "unfold_copy")
def _unfold(call: AtenCall) -> Value:
    """Windows along an axis, as a last axis."""
    b, x = call.builder, call.value()
    if x.rank == 0:
        return reshape(b, x, (1,))
    axis, size, step = call.axis("dimension"), call.integer("size"), call.integer("step")
    count = call.shape[axis]
    taps = []
    for k in range(size):
        starts = tuple(k if a == axis else 0 for a in range(x.rank))
        steps = tuple(step if a == axis else 1 for a in range(x.rank))
        shape = tuple(count if a == axis else d for a, d in enumerate(x.shape))
        taps.append(unsqueeze(b, call.one("slice", [x], starts=starts, steps=steps, shape=shape), [x.rank]))
    return taps[0] if size == 1 else call.one("concat", taps, axis=x.rank)


# -- joins -------------------------------------------------------------------------------------------------------------


@aten("cat", "concat", "concatenate")
def _cat(call: AtenCall) -> Value:
    """Old code joins to an empty vector, whatever the rank; the others must have the same type."""
    kind = call.out
    values = [call.cast(v, kind) for v in call.values("tensors")]
    rank = max(v.rank for v in values)
    values = [v for v in values if v.rank == rank and not (rank > 1 and v.shape == (0,))]
    return values[0] if len(values) == 1 else call.one("concat", values, axis=call.axis("dim", rank))


@aten("stack")
def _stack(call: AtenCall) -> Value:
    values = [call.cast(v, call.out) for v in call.values("tensors")]
    axis = call.axis("dim", values[0].rank + 1)
    values = [unsqueeze(call.builder, v, [axis]) for v in values]
    return values[0] if len(values) == 1 else call.one("concat", values, axis=axis)


@aten("repeat", "tile")
def _repeat(call: AtenCall) -> Value:
    x = call.value()
    repeats = call.dims("repeats" if "repeats" in call.given else "dims")
    repeats = [*[1] * (x.rank - len(repeats)), *repeats]
    wide = reshape(call.builder, x, (*[1] * (len(repeats) - x.rank), *x.shape))
    return wide if all(r == 1 for r in repeats) else call.one("tile", [wide], repeats=tuple(repeats))


@aten("repeat_interleave.self_int")
def _repeat_interleave(call: AtenCall) -> Value:
    b, x, n = call.builder, call.value(), call.dim("repeats")
    if call.given.get("dim") is None:
        x, axis = reshape(b, x, (product(x.shape),)), 0
    else:
        axis = call.axis()
    wide = unsqueeze(b, x, [axis + 1])
    shape = (*x.shape[: axis + 1], n, *x.shape[axis + 1 :])
    spread = call.one("expand", [wide], shape=shape)
    return reshape(b, spread, (*x.shape[:axis], x.shape[axis] * n, *x.shape[axis + 1 :]))


@aten("flip")
def _flip(call: AtenCall) -> Value:
    x = call.value()
    axes = {d % max(x.rank, 1) for d in call.integers("dims")} if x.rank else set()
    if not axes:
        return x
    starts = tuple(d - 1 if k in axes else 0 for k, d in enumerate(x.shape))
    steps = tuple(-1 if k in axes else 1 for k in range(x.rank))
    return call.one("slice", [x], starts=starts, steps=steps, shape=x.shape)


@aten("roll")
def _roll(call: AtenCall) -> Value:
    b, x = call.builder, call.value()
    shifts, axes = call.integers("shifts"), call.integers("dims")
    if not axes:
        flat = reshape(b, x, (product(x.shape),))
        return reshape(b, _rolled(call, flat, 0, shifts[0]), x.shape)
    for shift, axis in zip(shifts, axes, strict=True):
        x = _rolled(call, x, axis % x.rank, shift)
    return x


def _rolled(call: AtenCall, x: Value, axis: int, shift: int) -> Value:
    b, n = call.builder, x.shape[axis]
    if isinstance(n, Expr):
        at = call.one("sub", [positions(b, n), call.scalar(shift, b.known(0).dtype)])
        return call.one("gather", [x, call.one("mod", [at, b.known(n)], fmod=False)], axis=axis)
    shift = shift % n if n else 0
    if shift == 0:
        return x
    parts = [slice_axis(b, x, axis, n - shift, shift), slice_axis(b, x, axis, 0, n - shift)]
    return call.one("concat", parts, axis=axis)


@aten("rot90")
def _rot90(call: AtenCall) -> Value:
    b, x, k = call.builder, call.value(), call.integer("k") % 4
    first, second = (d % x.rank for d in call.integers("dims"))
    perm = list(range(x.rank))
    perm[first], perm[second] = second, first

    def flipped(v: Value, axes: set[int]) -> Value:
        starts = tuple(d - 1 if a in axes else 0 for a, d in enumerate(v.shape))
        steps = tuple(-1 if a in axes else 1 for a in range(v.rank))
        return call.one("slice", [v], starts=starts, steps=steps, shape=v.shape)

    if k == 0:
        return x
    if k == 2:
        return flipped(x, {first, second})
    return transpose(b, flipped(x, {second}), perm) if k == 1 else flipped(transpose(b, x, perm), {second})


@aten("pixel_shuffle", "pixel_unshuffle", "channel_shuffle")
def _pixels(call: AtenCall) -> Value:
    b, x = call.builder, call.value()
    if call.name == "channel_shuffle":
        n, c, groups = x.shape[0], x.shape[1], call.integer("groups")
        split = reshape(b, x, (n, groups, floordiv(c, groups), *x.shape[2:]))
        return reshape(b, transpose(b, split, (0, 2, 1, *range(3, split.rank))), x.shape)
    *lead, c, h, w = x.shape
    k = len(lead)
    if call.name == "pixel_shuffle":
        r = call.integer("upscale_factor")
        split = reshape(b, x, (*lead, floordiv(c, r * r), r, r, h, w))
        turned = transpose(b, split, (*range(k), k, k + 3, k + 1, k + 4, k + 2))
        return reshape(b, turned, (*lead, floordiv(c, r * r), h * r, w * r))
    r = call.integer("downscale_factor")
    split = reshape(b, x, (*lead, c, floordiv(h, r), r, floordiv(w, r), r))
    turned = transpose(b, split, (*range(k), k, k + 2, k + 4, k + 1, k + 3))
    return reshape(b, turned, (*lead, c * r * r, floordiv(h, r), floordiv(w, r)))


# -- padding -----------------------------------------------------------------------------------------------------------

_MODES = {"reflection_pad": "reflect", "replication_pad": "edge"}


@aten("constant_pad_nd", "pad", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
@aten("replication_pad1d", "replication_pad2d", "replication_pad3d", "_pad_circular")
def _pad(call: AtenCall) -> Value:
    """Widths come in pairs from the last axis on; those below zero cut off."""
    x, widths = call.value(), call.dims("pad" if "pad" in call.given else "padding")
    mode = call.text("mode", "constant") if call.name == "pad" else _MODES.get(call.name[:-2], "constant")
    mode = {"replicate": "edge", "circular": "wrap"}.get("circular" if call.name == "_pad_circular" else mode, mode)
    before: list[Dim] = [0] * x.rank
    after: list[Dim] = [0] * x.rank
    for k in range(len(widths) // 2):
        before[x.rank - 1 - k], after[x.rank - 1 - k] = widths[2 * k], widths[2 * k + 1]
    x, before, after = _cut_off(call, x, before, after)
    if all(w == 0 for w in (*before, *after)):
        return x
    value = call.given.get("value")
    number = 0 if value is None else value
    if mode == "constant" and not isinstance(number, (int, float)):
        raise call.unsupported("padding with a number that only a run knows is not supported")
    attrs = {"mode": mode, "value": _number_of(number, x)} if mode == "constant" else {"mode": mode}
    return call.one("pad", [x], before=tuple(before), after=tuple(after), **attrs)


def _number_of(number: float, x: Value) -> float | int:
    return float(number) if x.dtype.is_float else int(number)


def _cut_off(call: AtenCall, x: Value, before: list[Dim], after: list[Dim]) -> tuple[Value, list[Dim], list[Dim]]:
    for axis in range(x.rank):
        low, high = before[axis], after[axis]
        cut_low = -low if isinstance(low, int) and low < 0 else 0
        cut_high = -high if isinstance(high, int) and high < 0 else 0
        if cut_low or cut_high:
            x = slice_axis(call.builder, x, axis, cut_low, x.shape[axis] - cut_low - cut_high)
            before[axis], after[axis] = (0 if cut_low else low), (0 if cut_high else high)
    return x, before, after
