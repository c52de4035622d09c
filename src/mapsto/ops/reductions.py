"""Reductions: reduce(kind, axes, keepdims), argmax, argmin, cumsum, cumprod."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mapsto.errors import ShapeError, UnsupportedError
from mapsto.ir.dtypes import Array, DType, from_numpy
from mapsto.ir.expr import Dim, product, sym
from mapsto.ir.graph import Node, Value
from mapsto.kernel.ast import (
    Cast,
    Const,
    Index,
    Iter,
    Load,
    Op,
    Reduce,
    Scalar,
    Scan,
    Stmt,
    substitute_iters,
)
from mapsto.kernel.folds import extreme_place
from mapsto.kernel.scalar import apply, convert, neutral, widen
from mapsto.ops.derivatives import of_product
from mapsto.ops.elementwise import converted, scalar_like, widened
from mapsto.ops.making import Making
from mapsto.ops.registry import Inference, Lowering, OpSpec, Reference, Shape, register
from mapsto.ops.shapes import BOOLS, NUMBERS, axis_of, describe, dim_max, dim_min, require_dtype, static

# ---- reduce(kind: sum mean max min prod any all, axes, keepdims) -----------------------------------------------------

REDUCTION_KINDS = ("sum", "mean", "max", "min", "prod", "any", "all")


def _axes(attrs: Mapping[str, Any], rank: int) -> tuple[int, ...]:
    return tuple(sorted({axis % rank for axis in attrs["axes"]})) if rank else ()


def _infer_reduce(inference: Inference) -> list[tuple[DType, Shape]]:
    kind, value = inference.attrs["kind"], inference.value(0)
    if kind not in REDUCTION_KINDS:
        raise UnsupportedError(f"reduce: no kind {kind!r}; known: {', '.join(REDUCTION_KINDS)}")
    dtype = require_dtype(inference, 0, BOOLS if kind in ("any", "all") else NUMBERS)
    for axis in inference.attrs["axes"]:
        axis_of(inference, axis, value.rank)
    return [(dtype, _kept(value.shape, _axes(inference.attrs, value.rank), inference.attrs["keepdims"]))]


def _kept(shape: Sequence[Dim], axes: Sequence[int], keepdims: bool) -> Shape:
    if keepdims:
        return tuple(1 if k in axes else d for k, d in enumerate(shape))
    return tuple(d for k, d in enumerate(shape) if k not in axes)


def _reduce(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    (x,) = inputs
    dtype, axes, kind = from_numpy(x.dtype), _axes(attrs, x.ndim), attrs["kind"]
    with np.errstate(all="ignore"):
        if kind in ("max", "min"):
            function = np.maximum if kind == "max" else np.minimum
            wide = widen(x)
            start = wide.dtype.type(neutral(kind, from_numpy(wide.dtype)))
            return [convert(np.asarray(function.reduce(wide, axis=axes, initial=start)).reshape(shapes[0]), dtype)]
        if kind in ("any", "all"):
            return [np.asarray((np.any if kind == "any" else np.all)(x, axis=axes)).reshape(shapes[0])]
        if kind == "mean" and dtype.is_integer:
            return [_integer_mean(x, axes).reshape(shapes[0])]
        # floats accumulate in f64, so that the reference's own rounding stays out of comparisons
        accumulator = np.float64 if dtype.is_float else x.dtype
        total = np.asarray((np.prod if kind == "prod" else np.sum)(x, axis=axes, dtype=accumulator))
        if kind == "mean":
            count = np.asarray(int(np.prod([x.shape[a] for a in axes], dtype=np.int64)))
            total = total / count
        return [convert(total.reshape(shapes[0]), dtype)]


# ---- means of integers: exact and truncated, also of more elements than the type counts ------------------------------
#
# Up to 32 bits the sum fits 64. Of 64 bits, n elements have the mean q + r/n, q the sum of the truncated x/n and r that
# of their remainders (below n^2). It is rounded down first; where that is below zero and inexact, the truncated mean is
# one more.


def _mean_type(dtype: DType) -> DType:
    return DType.I64 if dtype.is_signed else DType.U64


def _integer_mean(x: Array, axes: tuple[int, ...]) -> Array:
    dtype = from_numpy(x.dtype)
    wide = _mean_type(dtype)
    count = np.asarray(int(np.prod([x.shape[a] for a in axes], dtype=np.int64))).astype(wide.numpy)

    def total(values: Array) -> Array:
        return np.asarray(np.sum(values, axis=axes, dtype=wide.numpy))

    if dtype.size < 8:
        return convert(apply("div", [total(x), count], wide), dtype)
    left = total(apply("fmod", [x, count], wide))
    inexact = apply("mod", [left, count], wide)
    down = total(apply("div", [x, count], wide)) + apply("div", [left - inexact, count], wide)
    return np.asarray(down + ((down < 0) & (inexact != 0)))


def _lower_integer_mean(value: Scalar, iters: tuple[Iter, ...], n: Dim) -> Scalar:
    dtype = value.dtype
    wide = _mean_type(dtype)
    count = _count(n, wide)

    def op(fn: str, *args: Scalar) -> Scalar:
        return Op(fn, args, wide)

    if dtype.size < 8:
        return Cast(op("div", Reduce("sum", iters, Cast(value, wide)), count), dtype)
    again: dict[str, Dim] = {i.name: sym(f"{i.name}_left") for i in iters}
    rest = substitute_iters(op("fmod", value, count), again)
    left = Reduce("sum", tuple(Iter(f"{i.name}_left", i.extent) for i in iters), rest)
    inexact = op("mod", left, count)
    down = op("add", Reduce("sum", iters, op("div", value, count)), op("div", op("sub", left, inexact), count))
    if not dtype.is_signed:
        return down
    below, rounded = (Op(fn, (v, Const(0, wide)), DType.BOOL) for fn, v in (("lt", down), ("ne", inexact)))
    return op("add", down, Cast(Op("and", (below, rounded), DType.BOOL), wide))


def _lower_reduce(low: Lowering) -> list[Stmt]:
    shape, kind = low.value(0).shape, low.attrs["kind"]
    axes = _axes(low.attrs, len(shape))
    iters = low.iters(low.output.shape)
    inner = {axis: Iter(low.fresh("r"), shape[axis]) for axis in axes}
    value: Scalar = widened(low.load(0, _index(len(shape), axes, iters, inner, low.attrs["keepdims"])))
    if kind == "mean" and value.dtype.is_integer:
        mean = _lower_integer_mean(value, tuple(inner.values()), product(shape[a] for a in axes)) if inner else value
        return [low.stmt(iters, mean)]
    if inner:
        value = Reduce("sum" if kind == "mean" else kind, tuple(inner.values()), value)
    if kind == "mean":
        value = Op("div", (value, _count(product(shape[a] for a in axes), value.dtype)), value.dtype)
    return [low.stmt(iters, converted(value, low.output.dtype))]


def _index(
    rank: int, axes: Sequence[int], outer: Sequence[Iter], inner: Mapping[int, Iter], keepdims: bool
) -> list[Dim]:
    """The operand's index: reduced axes by the inner iterators, the others by the outer ones."""
    free = [i for k, i in enumerate(outer) if not keepdims or k not in axes]
    remaining = iter(free)
    return [sym(inner[k].name) if k in inner else sym(next(remaining).name) for k in range(rank)]


def _count(count: Dim, dtype: DType) -> Scalar:
    if isinstance(count, int):
        return Const(float(count) if dtype.is_float else count, dtype)
    return Cast(Index(count), dtype)


def _reduce_content(inputs: list[Array], attrs: Mapping[str, Any], shapes: Sequence[Shape]) -> Array | None:
    (x,) = inputs
    rules = {"sum": lambda a, b: a + b, "prod": lambda a, b: a * b, "max": dim_max, "min": dim_min}
    if attrs["kind"] not in rules or (x.size == 0 and attrs["kind"] in ("max", "min")):
        return None
    axes = _axes(attrs, x.ndim)
    if x.size == 0 or not axes:
        fill = np.full(static(shapes[0]), 0 if attrs["kind"] == "sum" else 1, dtype=object)
        return fill if x.size == 0 else x
    combine = np.frompyfunc(rules[attrs["kind"]], 2, 1)
    for axis in reversed(axes):
        x = np.asarray(combine.reduce(x, axis=axis), dtype=object)
    return x


def _reduce_gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    (g,) = incoming
    if g is None:
        return [None]
    x, y, kind = b.lookup(node.inputs[0]), node.output, str(node.attrs["kind"])
    axes = _axes(node.attrs, x.rank)
    kept = _kept(x.shape, axes, True)
    full = b.one("expand", [b.one("reshape", [g], shape=kept)], shape=x.shape)
    if kind == "sum":
        return [full]
    if kind == "mean":
        count = b.one("cast", [b.known(np.asarray(product(x.shape[a] for a in axes), dtype=object))], to=x.dtype)
        return [b.one("div", [full, count])]
    if kind in ("max", "min"):  # shared equally between equal elements
        hits = b.one("cast", [b.one("eq", [x, b.one("reshape", [y], shape=kept)])], to=x.dtype)
        share = b.one("reduce", [hits], kind="sum", axes=axes, keepdims=True)
        return [b.one("mul", [full, b.one("div", [hits, share])])]
    if kind != "prod":
        raise UnsupportedError(f"reduce: no gradient of kind {kind!r} (node {node.output})")

    def reduced(how: str) -> Callable[[Value], Value]:
        return lambda v: b.one("reduce", [v], kind=how, axes=axes, keepdims=True)

    whole = b.one("reshape", [y], shape=kept)
    others = of_product(b, x, whole, reduced("prod"), reduced("sum"), lambda v: b.one("expand", [v], shape=x.shape))
    return [b.one("mul", [full, others])]


register(OpSpec("reduce", "reduction", _infer_reduce, _reduce, _lower_reduce, _reduce_content, _reduce_gradient))

# ---- argmax, argmin(axis, keepdims, select_last): a NaN wins, as in numpy --------------------------------------------


def _infer_arg(inference: Inference) -> list[tuple[DType, Shape]]:
    require_dtype(inference, 0, NUMBERS | BOOLS)
    value = inference.value(0)
    axis = axis_of(inference, inference.attrs["axis"], value.rank)
    inference.at_least(value.shape[axis], 1, f"{inference.op} of axis {axis} needs an element")
    return [(DType.I64, _kept(value.shape, (axis,), inference.attrs["keepdims"]))]


def _arg(kind: str) -> Any:
    def reference(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
        x = widen(inputs[0])
        axis = attrs["axis"] % x.ndim
        function = np.argmax if kind == "max" else np.argmin
        if not attrs["select_last"]:
            return [np.asarray(function(x, axis=axis), dtype=np.int64).reshape(shapes[0])]
        last = x.shape[axis] - 1 - np.asarray(function(np.flip(x, axis=axis), axis=axis), dtype=np.int64)
        return [last.reshape(shapes[0])]

    return reference


def _lower_arg(kind: str) -> Any:
    """One fold: the extreme so far, and its place. A place is first among equals, or last."""

    def lower(low: Lowering) -> list[Stmt]:
        source, keep = low.value(0), low.attrs["keepdims"]
        axis = low.attrs["axis"] % source.rank
        outer = low.iters(low.output.shape)
        inner = Iter(low.fresh("r"), source.shape[axis])
        value = widened(low.load(0, _index(source.rank, (axis,), outer, {axis: inner}, keep)))
        if value.dtype is DType.BOOL:
            value = Cast(value, DType.U8)
        return [low.stmt(outer, Cast(extreme_place(kind, inner, value, low.attrs["select_last"]), DType.I64))]

    return lower


for _kind in ("max", "min"):
    register(OpSpec(f"arg{_kind}", "reduction", _infer_arg, _arg(_kind), _lower_arg(_kind)))

# ---- cumsum, cumprod(axis, exclusive, reverse) -----------------------------------------------------------------------


def _infer_cumulative(inference: Inference) -> list[tuple[DType, Shape]]:
    dtype = require_dtype(inference, 0, NUMBERS)
    value = inference.value(0)
    if value.rank == 0:
        raise ShapeError(f"{describe(inference)}: a scalar has no axis to go along")
    axis_of(inference, inference.attrs["axis"], value.rank)
    return [(dtype, value.shape)]


def _cumulative(kind: str) -> Reference:
    function, start = (np.cumsum, 0) if kind == "sum" else (np.cumprod, 1)

    def reference(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
        (x,) = inputs
        dtype, axis = from_numpy(x.dtype), attrs["axis"] % x.ndim
        wide = np.flip(widen(x), axis=axis) if attrs["reverse"] else widen(x)
        with np.errstate(all="ignore"):
            total = function(wide, axis=axis, dtype=np.float64 if dtype.is_float else x.dtype)
        if attrs["exclusive"]:
            first = np.full_like(total, start)[(slice(None),) * axis + (slice(1),)]
            total = np.concatenate([first, total], axis=axis)
            total = np.take(total, np.arange(x.shape[axis]), axis=axis)
        return [convert(np.flip(total, axis=axis) if attrs["reverse"] else total, dtype)]

    return reference


def _lower_cumulative(low: Lowering) -> list[Stmt]:
    iters = low.iters(low.output.shape)
    along = iters[low.attrs["axis"] % len(iters)].name
    kind = "sum" if low.node.op == "cumsum" else "prod"
    scan = Scan(along, kind, bool(low.attrs["exclusive"]), bool(low.attrs["reverse"]))
    value = widened(low.load(0, [sym(i.name) for i in iters]))
    if value.dtype is low.output.dtype:
        return [low.stmt(iters, value, scan=scan)]
    # half precision: the running result is kept in f32 and rounded once
    total = low.temp("total")
    again = low.iters(low.output.shape)
    rounded = Cast(Load(total, tuple(sym(i.name) for i in again), value.dtype), low.output.dtype)
    return [Stmt(total, value.dtype, iters, value, scan=scan), low.stmt(again, rounded)]


def _cumsum_gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    (g,) = incoming
    if g is None:
        return [None]
    attrs = dict(node.attrs)
    return [b.one("cumsum", [g], axis=attrs["axis"], exclusive=attrs["exclusive"], reverse=not attrs["reverse"])]


register(OpSpec(
    "cumsum", "reduction", _infer_cumulative, _cumulative("sum"), _lower_cumulative, gradient=_cumsum_gradient,
))  # fmt: skip


def _cumprod_gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    """The sum of g y over the products that an element is in, divided by it. Behind the first zero of a row all is
    zero; of that one itself the products are taken anew, with a 1 in its place.
    """
    (g,) = incoming
    if g is None or not g.dtype.is_float:
        return [None]
    x, y, attrs = b.lookup(node.inputs[0]), node.output, dict(node.attrs)
    zero, one = scalar_like(b, 0.0, x), scalar_like(b, 1.0, x)
    is_zero = b.one("eq", [x, zero])
    back = {**attrs, "reverse": not attrs["reverse"]}
    so_far = b.one("cumsum", [b.one("cast", [is_zero], to=x.dtype)], **{**attrs, "exclusive": False})
    first = b.one("and", [is_zero, b.one("eq", [so_far, one])])
    without = b.one("cumprod", [b.one("select", [first, one, x])], **attrs)
    own, others = (b.one("cumsum", [b.one("mul", [g, p])], **back) for p in (without, y))
    divided = b.one("div", [others, b.one("select", [is_zero, one, x])])
    return [b.one("select", [first, own, divided])]


register(OpSpec(
    "cumprod", "reduction", _infer_cumulative, _cumulative("prod"), _lower_cumulative, gradient=_cumprod_gradient,
))  # fmt: skip
