"""Contractions: matmul, conv, conv_transpose. Each lowers to one statement, a sum of products at index maps.

Operands of matmul and conv have one type, which is the result's, or, with an attribute `result`, any types that there
is a product of (`kernel.products`): the result, and a bias, are of that type then.

`stands_for` is of products of integers alone, and changes none: a model has them as a product of floats of that type,
dequantised integers, and it may be computed as such (`passes.float_products`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import Array, DType, from_numpy
from mapsto.ir.expr import Dim, floordiv, mod, product, sym
from mapsto.ir.expr_proofs import bounds, known_at_least
from mapsto.ir.graph import Node, Value
from mapsto.kernel.ast import Const, Iter, Op, Reduce, Scalar, Stmt, Where, ranges_of
from mapsto.kernel.products import Product, product_of
from mapsto.kernel.scalar import convert, doubled
from mapsto.ops.elementwise import converted, sum_to, widened
from mapsto.ops.making import Making
from mapsto.ops.registry import Gradient, Inference, Lowering, OpSpec, Shape, register
from mapsto.ops.shapes import NUMBERS, broadcast_shape, describe, require_dtype, require_same_dtype


def _times(a: Scalar, b: Scalar) -> Scalar:
    return Op("mul", (a, b), a.dtype)


def _product(dtypes: Sequence[DType], attrs: Mapping[str, Any]) -> Product:
    found = product_of(dtypes[0], dtypes[1], attrs.get("result"))
    assert found is not None, (dtypes, attrs)  # as it was inferred
    return found


def _infer_product(inference: Inference) -> DType:
    """The result's type, where there is such a product."""
    a, b = (require_dtype(inference, i, NUMBERS) for i in (0, 1))
    result = inference.attrs.get("result")
    if result is None:
        return require_same_dtype(inference)
    if product_of(a, b, result) is None:
        raise ShapeError(f"{describe(inference)}: there is no product of {a.value} and {b.value} with {result} results")
    if len(inference.inputs) > 2 and inference.inputs[2] is not None and inference.value(2).dtype is not result:
        raise ShapeError(f"{describe(inference)}: the bias is {inference.value(2).dtype.value}, the result {result}")
    assert isinstance(result, DType)
    return result


def _exact(array: Array, attrs: Mapping[str, Any]) -> Array:
    """An operand as an oracle multiplies it: f64 holds the sums of narrow integers too."""
    return array.astype(np.float64) if attrs.get("result") is not None else doubled(array)


def _rounded(array: Array, operand: Array, attrs: Mapping[str, Any]) -> Array:
    """Exact sums as results; those of integers modulo 2^32."""
    result = attrs.get("result") or from_numpy(operand.dtype)
    if result.is_integer and array.dtype.kind == "f":
        array = array.astype(np.int64)
    return convert(array, result)


def _typed(gradient: Gradient) -> Gradient:
    """Gradients of operands that are narrower than the result: formed in its type, given in theirs."""

    def made(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
        found = gradient(b, node, incoming)
        kinds = [b.lookup(n).dtype if n else None for n in node.inputs]
        return [
            g if g is None or to is None or g.dtype is to else b.one("cast", [g], to=to)
            for g, to in zip(found, kinds, strict=True)
        ]

    return made


def _operands(b: Making, node: Node) -> list[Value]:
    """The two operands in the result's type."""
    values = (b.lookup(n) for n in node.inputs[:2])
    to = node.output.dtype
    return [v if v.dtype is to else b.one("cast", [v], to=to) for v in values]


# ---- matmul: numpy's rules, vectors and broadcast batches included ---------------------------------------------------


def _infer_matmul(inference: Inference) -> list[tuple[DType, Shape]]:
    dtype = _infer_product(inference)
    a, b = inference.value(0).shape, inference.value(1).shape
    if not a or not b:
        raise ShapeError(f"{describe(inference)}: a scalar is no operand of a matrix product")
    try:
        inference.same(a[-1], b[-2] if len(b) > 1 else b[0])
    except ShapeError:
        raise ShapeError(
            f"{describe(inference)}: the inner extents {a[-1]} and {b[-2] if len(b) > 1 else b[0]} differ"
        ) from None
    batch = broadcast_shape(inference, [a[:-2], b[:-2]])
    return [(dtype, (*batch, *a[-2:-1], *(b[-1:] if len(b) > 1 else ())))]


def _matmul(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    with np.errstate(all="ignore"):
        return [_rounded(np.asarray(np.matmul(*(_exact(x, attrs) for x in inputs))), inputs[0], attrs)]


def _lower_matmul(low: Lowering) -> list[Stmt]:
    a, b = low.value(0).shape, low.value(1).shape
    iters = low.iters(low.output.shape)
    index: list[Dim] = [sym(i.name) for i in iters]
    matrix = (len(a) > 1) + (len(b) > 1)
    batch, rest = index[: len(index) - matrix], index[len(index) - matrix :]
    extents = low.output.shape[: len(batch)]
    inner = Iter(low.fresh("k"), a[-1])
    k = sym(inner.name)

    def batched(shape: Shape) -> list[Dim]:
        lead = shape[:-2]
        skip = len(batch) - len(lead)
        return low.stretched(lead, batch[skip:], extents[skip:])

    left = low.load(0, [*batched(a), rest[0], k] if len(a) > 1 else [k])
    right = low.load(1, [*batched(b), k, rest[-1]] if len(b) > 1 else [k])
    wide = _product([left.dtype, right.dtype], low.attrs).accumulator
    value = Reduce("sum", (inner,), _times(converted(left, wide), converted(right, wide)))
    return [low.stmt(iters, converted(value, low.output.dtype))]


def _matmul_gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    """dA = G B^T, dB = A^T G, with vectors seen as matrices of one row or column. Where all matrices of A are
    multiplied with one B, their rows are those of one matrix: its product sums over them at once.
    """
    (g,) = incoming
    if g is None:
        return [None, None]
    x, y = _operands(b, node)
    left = x if x.rank > 1 else b.one("reshape", [x], shape=(1, *x.shape))
    right = y if y.rank > 1 else b.one("reshape", [y], shape=(*y.shape, 1))
    batch = node.output.shape[: node.output.rank - (x.rank > 1) - (y.rank > 1)]
    full = b.one("reshape", [g], shape=(*batch, left.shape[-2], right.shape[-1]))
    dx = sum_to(b, b.one("matmul", [full, _transposed(b, right)]), left.shape)
    if right.rank == 2 and left.rank > 2 and left.shape[:-2] == batch:
        left, full = (b.one("reshape", [v], shape=(product(v.shape[:-1]), v.shape[-1])) for v in (left, full))
    if left.rank == full.rank == 2:
        dy = _product_of_rows(b, left, full)
    else:
        dy = sum_to(b, _transposed_product(b, left, full), right.shape)
    return [b.one("reshape", [dx], shape=x.shape), b.one("reshape", [dy], shape=y.shape)]


_ROWS = 256


def _product_of_rows(b: Making, x: Value, g: Value) -> Value:
    """x^T g, a sum over the rows of both; over many rows by parts, whose products are added up after that."""
    rows = x.shape[0]
    part = next((n for n in range(_ROWS, _ROWS // 4, -1) if rows % n == 0), 0) if isinstance(rows, int) else 0
    if not part or not isinstance(rows, int) or rows < 2 * _ROWS:
        return _transposed_product(b, x, g)
    own, other = (b.one("reshape", [v], shape=(rows // part, part, v.shape[1])) for v in (x, g))
    turned = _is_wider(own, other)
    products = b.one("matmul", [_transposed(b, other), own] if turned else [_transposed(b, own), other])
    total = b.one("reduce", [products], kind="sum", axes=(0,), keepdims=False)
    return _transposed(b, total) if turned else total


def _transposed_product(b: Making, x: Value, g: Value) -> Value:
    """x^T g: the narrower operand is what is transposed, as that is done in memory, and the result where the other one
    would have been.
    """
    if _is_wider(x, g):
        return _transposed(b, b.one("matmul", [_transposed(b, g), x]))
    return b.one("matmul", [_transposed(b, x), g])


def _is_wider(x: Value, g: Value) -> bool:
    wide, narrow = x.shape[-1], g.shape[-1]
    return isinstance(wide, int) and isinstance(narrow, int) and wide > narrow


def _transposed(b: Making, v: Value) -> Value:
    return b.one("transpose", [v], perm=(*range(v.rank - 2), v.rank - 1, v.rank - 2))


register(OpSpec("matmul", "contraction", _infer_matmul, _matmul, _lower_matmul, gradient=_typed(_matmul_gradient)))

# ---- conv(strides, pads, dilations, group): x[N, C, *space], w[O, C/group, *window], bias[O]? ------------------------


def window_extent(extent: Dim, window: Dim, stride: int, dilation: int, before: Dim, after: Dim) -> Dim:
    """How many places a window has on a padded axis."""
    return floordiv(extent + before + after - dilation * (window - 1) - 1, stride) + 1


def guards(at: Dim, extent: Dim, iters: Sequence[Iter]) -> list[Dim]:
    """The conditions (each >= 0) under which 0 <= at < extent that the iterators' ranges leave open."""
    ranges = ranges_of(tuple(iters))
    low, high = bounds(at, ranges)
    found: list[Dim] = []
    if low is None or not known_at_least(low, 0):
        found.append(at)
    if high is None or not known_at_least(extent - 1 - high, 0):
        found.append(extent - 1 - at)
    return found


def window_guards(at: Dim, extent: Dim, iters: Sequence[Iter], before: Dim, after: Dim) -> list[Dim]:
    """Guards of a padded window: only a padded side can be left, whatever the extents are."""
    return [g for g in guards(at, extent, iters) if (before if g == at else after) != 0]


def _spatial(inference: Inference) -> int:
    x, w = inference.value(0), inference.value(1)
    rank = x.rank - 2
    if rank < 1 or w.rank != x.rank:
        raise ShapeError(
            f"{describe(inference)}: x[N, C, space...] and w[.., .., window...] must have the same rank, 3 or more"
        )
    for name, wanted in (("strides", rank), ("dilations", rank), ("pads", 2 * rank)):
        if len(inference.attrs[name]) != wanted:
            raise ShapeError(f"{describe(inference)}: {name} says {len(inference.attrs[name])} numbers, not {wanted}")
    if min((*inference.attrs["strides"], *inference.attrs["dilations"]), default=1) < 1 or inference.attrs["group"] < 1:
        raise ShapeError(f"{describe(inference)}: strides, dilations and group are at least 1")
    return rank


def _check_bias(inference: Inference, channels: Dim) -> None:
    if len(inference.inputs) < 3 or inference.inputs[2] is None:
        return
    bias = inference.value(2)
    if bias.rank != 1:
        raise ShapeError(f"{describe(inference)}: the bias is a vector")
    inference.same(bias.shape[0], channels)


def _infer_conv(inference: Inference) -> list[tuple[DType, Shape]]:
    dtype = _infer_product(inference)
    rank, attrs = _spatial(inference), inference.attrs
    x, w, group = inference.value(0).shape, inference.value(1).shape, attrs["group"]
    try:
        inference.same(x[1], w[1] * group)
    except ShapeError:
        raise ShapeError(f"{describe(inference)}: {x[1]} channels, but the weights take {w[1] * group}") from None
    if isinstance(w[0], int) and w[0] % group:
        raise ShapeError(f"{describe(inference)}: {w[0]} output channels do not divide into {group} groups")
    _check_bias(inference, w[0])
    space = []
    for k in range(rank):
        extent = window_extent(
            x[2 + k], w[2 + k], attrs["strides"][k], attrs["dilations"][k], attrs["pads"][k], attrs["pads"][rank + k]
        )
        if isinstance(extent, int) and extent < 0:
            raise ShapeError(f"{describe(inference)}: the window is larger than the padded axis {k}")
        space.append(extent)
    return [(dtype, (x[0], w[0], *space))]


def windows(
    x: Array, window: Sequence[int], strides: Sequence[int], dilations: Sequence[int], out: Sequence[int]
) -> Array:
    """A view of an (already padded) x[N, C, *space] as [N, C, *out, *window]. A model may say any stride of an axis of
    one place, more than there are bytes too: it is none then.
    """
    across, along = x.strides[:2], x.strides[2:]
    steps = (s * k if n > 1 else 0 for s, k, n in zip(along, strides, out, strict=True))
    taps = (s * d if n > 1 else 0 for s, d, n in zip(along, dilations, window, strict=True))
    shape = (*x.shape[:2], *out, *window)
    return np.lib.stride_tricks.as_strided(x, shape, (*across, *steps, *taps), writeable=False)


def pad_space(x: Array, pads: Sequence[int], value: float | int) -> Array:
    rank = x.ndim - 2
    widths = [(0, 0), (0, 0), *((pads[k], pads[rank + k]) for k in range(rank))]
    return np.pad(x, widths, constant_values=value) if any(pads) else np.ascontiguousarray(x)


def _conv(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    x, w = (_exact(x, attrs) for x in inputs[:2])
    bias = doubled(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else None
    group, (n, o, *out) = attrs["group"], shapes[0]
    if 0 in shapes[0] or 0 in w.shape:
        flat = np.zeros(shapes[0], dtype=w.dtype)
        return [_rounded(flat if bias is None else flat + bias.reshape(-1, *(1 for _ in out)), inputs[0], attrs)]
    view = windows(pad_space(x, attrs["pads"], 0), w.shape[2:], attrs["strides"], attrs["dilations"], out)
    space = tuple(range(2, 2 + len(out)))
    inner = int(np.prod(w.shape[1:]))
    result = np.empty((n, o, int(np.prod(out))), dtype=w.dtype)
    per_in, per_out = w.shape[1], o // group
    with np.errstate(all="ignore"):
        for sample in range(n):
            for g in range(group):
                part = view[sample, g * per_in : (g + 1) * per_in]
                # [C, *out, *window] -> [C, *window, *out] as a matrix
                order = (0, *(a + len(out) - 1 for a in space), *(a - 1 for a in space))
                columns = part.transpose(order).reshape(inner, -1)
                rows = w[g * per_out : (g + 1) * per_out].reshape(per_out, inner)
                result[sample, g * per_out : (g + 1) * per_out] = rows @ columns
    result = result.reshape(shapes[0])
    return [_rounded(result if bias is None else result + bias.reshape(-1, *(1 for _ in out)), inputs[0], attrs)]


def _lower_conv(low: Lowering) -> list[Stmt]:
    attrs, x, w = low.attrs, low.value(0), low.value(1)
    rank, group = x.rank - 2, low.attrs["group"]
    batch, channel = Iter(low.fresh("n"), low.output.shape[0]), Iter(low.fresh("o"), low.output.shape[1])
    space = low.iters(low.output.shape[2:], "y")
    inner = Iter(low.fresh("c"), w.shape[1])
    window = low.iters(w.shape[2:], "k")
    o, c = sym(channel.name), sym(inner.name)
    index: list[Dim] = []
    conds: list[Dim] = []
    for k, (y, i) in enumerate(zip(space, window, strict=True)):
        at = attrs["strides"][k] * sym(y.name) + attrs["dilations"][k] * sym(i.name) - attrs["pads"][k]
        index.append(at)
        conds.extend(window_guards(at, x.shape[2 + k], (y, i), attrs["pads"][k], attrs["pads"][rank + k]))
    from_channel = c if group == 1 else floordiv(o, floordiv(w.shape[0], group)) * w.shape[1] + c
    wide = _product([x.dtype, w.dtype], attrs).accumulator
    value = converted(low.load(0, [sym(batch.name), from_channel, *index]), wide)
    if conds:
        value = Where(tuple(conds), value, Const(0.0 if wide.is_float else 0, wide))
    weight = converted(low.load(1, [o, c, *(sym(i.name) for i in window)]), wide)
    total: Scalar = Reduce("sum", (inner, *window), _times(value, weight))
    return [low.stmt((batch, channel, *space), converted(_biased(low, total, o), low.output.dtype))]


def _biased(low: Lowering, total: Scalar, channel: Dim) -> Scalar:
    if len(low.inputs) < 3 or low.inputs[2] is None:
        return total
    return Op("add", (widened(low.load(2, [channel])), total), total.dtype)


def _conv_gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    """dx is the transposed convolution of g with w; dw the convolution of x with g, batch and channels exchanged,
    strides and dilations too.
    """
    (g,) = incoming
    if g is None:
        return [None] * len(node.inputs)
    x, w = _operands(b, node)
    attrs: dict[str, Any] = dict(node.attrs)
    rank, pads, strides, dilations = x.rank - 2, attrs["pads"], attrs["strides"], attrs["dilations"]
    # input elements behind the last window, which no output reads
    unread = [
        x.shape[2 + k]
        + pads[k]
        + pads[rank + k]
        - (dilations[k] * (w.shape[2 + k] - 1) + 1)
        - (g.shape[2 + k] - 1) * strides[k]
        for k in range(rank)
    ]
    dx = b.one(
        "conv_transpose",
        [g, w],
        strides=strides,
        pads=pads,
        dilations=dilations,
        group=attrs["group"],
        output_padding=tuple(unread),
    )
    found: list[Value | None] = [dx, _weight_gradient(b, x, w, g, attrs)]
    if len(node.inputs) > 2:
        found.append(b.one("reduce", [g], kind="sum", axes=(0, *range(2, g.rank)), keepdims=False))
    return found


def _weight_gradient(b: Making, x: Value, w: Value, g: Value, attrs: Mapping[str, Any]) -> Value:
    group, pads = attrs["group"], attrs["pads"]
    swapped = (1, 0, *range(2, x.rank))
    parts = []
    for k in range(group):
        own_x, own_g = (_channels(b, v, k, group) for v in (x, g))
        flat = b.one(
            "conv", [b.one("transpose", [own_x], perm=swapped), b.one("transpose", [own_g], perm=swapped)],
            strides=attrs["dilations"], dilations=attrs["strides"], group=1,
            pads=pads,
        )  # fmt: skip
        # [C/group, O/group, window + what lies behind] -> [O/group, C/group, window]
        shape = (*flat.shape[:2], *w.shape[2:])
        if shape != flat.shape:
            flat = b.one("slice", [flat], starts=(0,) * flat.rank, steps=(1,) * flat.rank, shape=shape)
        parts.append(b.one("transpose", [flat], perm=swapped))
    return parts[0] if group == 1 else b.one("concat", parts, axis=0)


def _channels(b: Making, v: Value, k: int, group: int) -> Value:
    """The channels of group k."""
    if group == 1:
        return v
    count = floordiv(v.shape[1], group)
    starts = (0, count * k, *(0 for _ in v.shape[2:]))
    return b.one("slice", [v], starts=starts, steps=(1,) * v.rank, shape=(v.shape[0], count, *v.shape[2:]))


register(OpSpec("conv", "contraction", _infer_conv, _conv, _lower_conv, gradient=_typed(_conv_gradient)))

# ---- conv_transpose(strides, pads, dilations, group, output_padding): x[N, C, *space], w[C, O/group, *window], bias[O]


def _infer_conv_transpose(inference: Inference) -> list[tuple[DType, Shape]]:
    require_dtype(inference, 0, NUMBERS)
    dtype = require_same_dtype(inference)
    rank, attrs = _spatial(inference), inference.attrs
    x, w = inference.value(0).shape, inference.value(1).shape
    inference.same(x[1], w[0])
    if isinstance(w[0], int) and w[0] % attrs["group"]:
        raise ShapeError(f"{describe(inference)}: {w[0]} input channels do not divide into {attrs['group']} groups")
    channels = w[1] * attrs["group"]
    _check_bias(inference, channels)
    space = []
    for k in range(rank):
        reach = attrs["dilations"][k] * (w[2 + k] - 1) + 1
        extent = (
            (x[2 + k] - 1) * attrs["strides"][k]
            + reach
            + attrs["output_padding"][k]
            - attrs["pads"][k]
            - attrs["pads"][rank + k]
        )
        space.append(extent)
    return [(dtype, (x[0], channels, *space))]


def _conv_transpose(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    """Each input element adds its scaled window to the output; the border is cut off at the end."""
    dtype = from_numpy(inputs[0].dtype)
    x, w = doubled(inputs[0]), doubled(inputs[1])
    rank, group = x.ndim - 2, attrs["group"]
    n, channels, *out = shapes[0]
    strides, dilations, pads = attrs["strides"], attrs["dilations"], attrs["pads"]
    full = [d + pads[k] + pads[rank + k] for k, d in enumerate(out)]
    total = np.zeros((n, channels, *full), dtype=x.dtype)
    per_in, per_out = x.shape[1] // group, w.shape[1]
    with np.errstate(all="ignore"):
        for at in np.ndindex(*w.shape[2:]):
            where = tuple(
                slice(
                    at[k] * dilations[k],
                    at[k] * dilations[k] + strides[k] * (x.shape[2 + k] - 1) + 1 if x.shape[2 + k] else 0,
                    strides[k],
                )
                for k in range(rank)
            )
            for g in range(group):
                part = x[:, g * per_in : (g + 1) * per_in]
                taps = w[(slice(g * per_in, (g + 1) * per_in), slice(None), *at)]
                spread = np.moveaxis(np.tensordot(part, taps, axes=([1], [0])), -1, 1)
                total[(slice(None), slice(g * per_out, (g + 1) * per_out), *where)] += spread
    inside = tuple(slice(pads[k], pads[k] + out[k]) for k in range(rank))
    result = total[(slice(None), slice(None), *inside)]
    if len(inputs) > 2 and inputs[2] is not None:
        result = result + doubled(inputs[2]).reshape(-1, *(1 for _ in out))
    return [convert(result, dtype)]


def _lower_conv_transpose(low: Lowering) -> list[Stmt]:
    """The gather form: out[y] takes x[(y + pad - dilation*i) / stride] wherever that is whole and inside.

    For each axis with t = y + pad - dilation*i the conditions are, in this order and where needed:
    -(t % stride) >= 0, t >= 0, (extent-1)*stride - t >= 0.
    """
    attrs, x, w = low.attrs, low.value(0), low.value(1)
    group = attrs["group"]
    batch, channel = Iter(low.fresh("n"), low.output.shape[0]), Iter(low.fresh("o"), low.output.shape[1])
    space = low.iters(low.output.shape[2:], "y")
    inner = Iter(low.fresh("c"), floordiv(x.shape[1], group))
    window = low.iters(w.shape[2:], "k")
    o, c = sym(channel.name), sym(inner.name)
    index: list[Dim] = []
    conds: list[Dim] = []
    for k, (y, i) in enumerate(zip(space, window, strict=True)):
        stride = attrs["strides"][k]
        t = sym(y.name) + attrs["pads"][k] - attrs["dilations"][k] * sym(i.name)
        conds.extend(([-mod(t, stride)] if stride > 1 else []) + guards(t, (x.shape[2 + k] - 1) * stride + 1, (y, i)))
        index.append(floordiv(t, stride))
    from_channel = c if group == 1 else floordiv(o, w.shape[1]) * inner.extent + c
    value: Scalar = widened(low.load(0, [sym(batch.name), from_channel, *index]))
    if conds:
        value = Where(tuple(conds), value, Const(0.0 if value.dtype.is_float else 0, value.dtype))
    to_channel = o if group == 1 else mod(o, w.shape[1])
    weight = widened(low.load(1, [from_channel, to_channel, *(sym(i.name) for i in window)]))
    total: Scalar = Reduce("sum", (inner, *window), _times(value, weight))
    return [low.stmt((batch, channel, *space), converted(_biased(low, total, o), low.output.dtype))]


def _conv_transpose_gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    """It is the plain convolution's gradient by its input: its own gradients are the plain one, and that one's gradient
    by the weights with the roles of input and result exchanged.
    """
    (g,) = incoming
    if g is None:
        return [None] * len(node.inputs)
    x, w = _operands(b, node)
    attrs = {k: v for k, v in node.attrs.items() if k != "output_padding"}
    dx = b.one("conv", [g, w], **attrs)
    if dx.shape != x.shape:
        dx = b.one("slice", [dx], starts=(0,) * dx.rank, steps=(1,) * dx.rank, shape=x.shape)
    found: list[Value | None] = [dx, _weight_gradient(b, g, w, x, attrs)]
    if len(node.inputs) > 2:
        found.append(b.one("reduce", [g], kind="sum", axes=(0, *range(2, g.rank)), keepdims=False))
    return found


register(OpSpec(
    "conv_transpose", "contraction", _infer_conv_transpose, _conv_transpose, _lower_conv_transpose,
    gradient=_typed(_conv_transpose_gradient),
))  # fmt: skip
