"""Ops without tensor operands: iota, dim_values, full, and the random fills."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import Array, DType, filled
from mapsto.ir.expr import Dim, Expr, product, sym
from mapsto.kernel.ast import Cast, Const, Index, Iter, Op, Scalar, Stmt
from mapsto.kernel.scalar import compute_type, convert
from mapsto.ops.elementwise import converted
from mapsto.ops.registry import Inference, Lowering, OpSpec, Shape, register
from mapsto.ops.shapes import FLOATS, describe, static

# ---- iota(shape=(n,), start, step, dtype): start + step*i ------------------------------------------------------------


def _infer_iota(inference: Inference) -> list[tuple[DType, Shape]]:
    shape = tuple(inference.attrs["shape"])
    if len(shape) != 1:
        raise ShapeError(f"iota has one axis, not {len(shape)}")
    return [(inference.attrs["dtype"], shape)]


def _in_integers(attrs: Mapping[str, Any]) -> bool:
    return all(isinstance(attrs[k], (int, Expr)) for k in ("start", "step"))


def _iota(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    at = np.arange(shapes[0][0], dtype=np.int64)
    if _in_integers(attrs):
        return [convert(attrs["start"] + attrs["step"] * at, attrs["dtype"])]
    wide = compute_type(attrs["dtype"]) if attrs["dtype"].is_float else DType.F64
    element = wide.numpy.type
    return [convert(element(attrs["start"]) + element(attrs["step"]) * at.astype(wide.numpy), attrs["dtype"])]


def _lower_iota(low: Lowering) -> list[Stmt]:
    iters = low.iters(low.output.shape)
    attrs, at = low.attrs, sym(iters[0].name)
    if _in_integers(attrs):
        return [low.stmt(iters, converted(Index(attrs["start"] + attrs["step"] * at), attrs["dtype"]))]
    wide = compute_type(attrs["dtype"]) if attrs["dtype"].is_float else DType.F64
    start, step = (_number(attrs[k], wide) for k in ("start", "step"))
    value = Op("add", (start, Op("mul", (step, Cast(Index(at), wide)), wide)), wide)
    return [low.stmt(iters, converted(value, attrs["dtype"]))]


def _number(value: Any, dtype: DType) -> Scalar:
    return Cast(Index(value), dtype) if isinstance(value, Expr) else Const(float(value), dtype)


def _iota_content(inputs: list[Array], attrs: Mapping[str, Any], shapes: Sequence[Shape]) -> Array | None:
    if not _in_integers(attrs):
        return None
    return np.array([attrs["start"] + attrs["step"] * i for i in range(static(shapes[0])[0])], dtype=object)


register(OpSpec("iota", "source", _infer_iota, _iota, _lower_iota, _iota_content))

# ---- dim_values(values): sizes as data; the builder makes these nodes, with the output's own shape -------------------


def _infer_dim_values(inference: Inference) -> list[tuple[DType, Shape]]:
    attrs = inference.attrs
    shape = tuple(attrs.get("shape", (len(attrs["values"]),)))
    if product(shape) != len(attrs["values"]):
        raise ShapeError(f"dim_values: {len(attrs['values'])} values do not fill the shape {list(shape)}")
    return [(attrs.get("dtype", DType.I64), shape)]


def _dim_values(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    numbers = [(v + _SIGN & _MASK) - _SIGN for v in attrs["values"]]  # as numbers of 64 bits come out in a run
    return [np.array(numbers, dtype=np.int64).reshape(shapes[0]).astype(attrs.get("dtype", DType.I64).numpy)]


def _lower_dim_values(low: Lowering) -> list[Stmt]:
    """One statement an element."""
    shape = static(low.output.shape)
    values = low.attrs["values"]
    return [
        low.stmt((), converted(Index(value), low.output.dtype), index=at)
        for at, value in zip(np.ndindex(*shape), values, strict=True)
    ]


def _dim_values_content(inputs: list[Array], attrs: Mapping[str, Any], shapes: Sequence[Shape]) -> Array:
    elements: Array = np.empty(len(attrs["values"]), dtype=np.dtype(object))
    elements[:] = attrs["values"]
    return elements


# attrs: values; shape and dtype, which the builder always says (a vector of i64 where they are left out).
register(OpSpec("dim_values", "source", _infer_dim_values, _dim_values, _lower_dim_values, _dim_values_content))

# ---- full(shape, value, dtype): of a storage type the value is its bits ----------------------------------------------


def _infer_full(inference: Inference) -> list[tuple[DType, Shape]]:
    return [(inference.attrs["dtype"], tuple(inference.attrs["shape"]))]


def _full(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    return [filled(shapes[0], attrs["value"], attrs["dtype"])]


def _lower_full(low: Lowering) -> list[Stmt]:
    dtype, value = low.output.dtype, low.attrs["value"]
    iters = low.iters(low.output.shape)
    if isinstance(value, Expr):
        return [low.stmt(iters, converted(Index(value), dtype))]
    typed = float(value) if dtype.is_float else bool(value) if dtype is DType.BOOL else int(value)
    return [low.stmt(iters, Const(typed, dtype))]


def _full_content(inputs: list[Array], attrs: Mapping[str, Any], shapes: Sequence[Shape]) -> Array:
    result: Array = np.empty(static(shapes[0]), dtype=np.dtype(object))
    result.fill(attrs["value"] if isinstance(attrs["value"], Expr) else int(attrs["value"]))
    return result


register(OpSpec("full", "source", _infer_full, _full, _lower_full, _full_content))

# ---- random_uniform(run?; shape, low, high, seed, dtype), random_normal(run?; shape, mean, scale, seed, dtype) -------
#
# run: 64 bits (u64[]) that differ from run to run, where numbers are to; without them they are the same in every run.
# Counter-based: element i is a function of (seed, i) alone, so the numbers are the same however the work is shared.
# The 64 bits of an element are SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) at the counter: z = mix(seed' +
# (i+1)*GOLDEN).
# The upper and lower 24 bits of its halves give two uniform numbers in (0, 1] and [0, 1); Box-Muller makes one normal
# of them.

GOLDEN = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31
_MASK = (1 << 64) - 1
_SIGN = 1 << 63


def _origin(seed: int) -> int:
    """Seeds that differ by little start far from each other."""
    z = (seed * 0xD1B54A32D192ED03 + GOLDEN) & _MASK
    for shift, factor in _MIX:
        z = ((z ^ (z >> shift)) * factor) & _MASK
    return z ^ (z >> _LAST_SHIFT)


def _bits(count: int, seed: int, run: Array | None) -> Array:
    origin = np.uint64(_origin(seed)) if run is None else np.uint64(_origin(seed)) ^ np.uint64(run)
    z = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN)) + origin
    for shift, factor in _MIX:
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(z ^ (z >> np.uint64(_LAST_SHIFT)))


def _lower_bits(flat: Dim, seed: int, run: Scalar | None) -> Scalar:
    u64 = DType.U64
    z: Scalar = Op("mul", (Cast(Index(flat + 1), u64), Const(GOLDEN, u64)), u64)
    origin: Scalar = Const(_origin(seed), u64)
    z = Op("add", (z, origin if run is None else Op("bitxor", (run, origin), u64)), u64)
    for shift, factor in _MIX:
        z = Op("mul", (_folded(z, shift), Const(factor, u64)), u64)
    return _folded(z, _LAST_SHIFT)


def _folded(z: Scalar, shift: int) -> Scalar:
    return Op("bitxor", (z, Op("shr", (z, Const(shift, DType.U64)), DType.U64)), DType.U64)


def _unit(bits: Array, shift: int) -> Array:
    """24 bits as a number in [0, 1), exact in f32."""
    part = (bits >> np.uint64(shift)) & np.uint64(0xFFFFFF)
    return part.astype(np.float32) * np.float32(2.0**-24)


def _lower_unit(bits: Scalar, shift: int) -> Scalar:
    part = Op("bitand", (Op("shr", (bits, Const(shift, DType.U64)), DType.U64), Const(0xFFFFFF, DType.U64)), DType.U64)
    return Op("mul", (Cast(Cast(part, DType.I32), DType.F32), Const(2.0**-24, DType.F32)), DType.F32)


def _uniform(bits: Array, attrs: Mapping[str, Any]) -> Array:
    low, high = np.float32(attrs["low"]), np.float32(attrs["high"])
    return np.asarray(low + _unit(bits, 40) * (high - low))


def _lower_uniform(bits: Scalar, attrs: Mapping[str, Any]) -> Scalar:
    f32 = DType.F32
    width = float(np.float32(attrs["high"]) - np.float32(attrs["low"]))
    return Op("add", (Const(float(attrs["low"]), f32), Op("mul", (_lower_unit(bits, 40), Const(width, f32)), f32)), f32)


def _normal(bits: Array, attrs: Mapping[str, Any]) -> Array:
    """Box-Muller: sqrt(-2 log u) * cos(2 pi v), with u in (0, 1]."""
    u, v = _unit(bits, 40) + np.float32(2.0**-24), _unit(bits, 0)
    z = np.sqrt(np.float32(-2) * np.log(u)) * np.cos(np.float32(2 * math.pi) * v)
    return np.asarray(np.float32(attrs["mean"]) + np.float32(attrs["scale"]) * z)


def _lower_normal(bits: Scalar, attrs: Mapping[str, Any]) -> Scalar:
    f32 = DType.F32
    u = Op("add", (_lower_unit(bits, 40), Const(2.0**-24, f32)), f32)
    radius = Op("sqrt", (Op("mul", (Const(-2.0, f32), Op("log", (u,), f32)), f32),), f32)
    turn = Op("cos", (Op("mul", (Const(2 * math.pi, f32), _lower_unit(bits, 0)), f32),), f32)
    z = Op("mul", (radius, turn), f32)
    return Op("add", (Const(float(attrs["mean"]), f32), Op("mul", (Const(float(attrs["scale"]), f32), z), f32)), f32)


def _random(
    name: str, make: Callable[[Array, Mapping[str, Any]], Array], build: Callable[[Scalar, Mapping[str, Any]], Scalar]
) -> None:
    def infer(inference: Inference) -> list[tuple[DType, Shape]]:
        dtype = inference.attrs["dtype"]
        if dtype not in FLOATS:
            raise ShapeError(f"{name}: {dtype.value} is no float type")
        if inference.inputs and (inference.value(0).dtype is not DType.U64 or inference.value(0).rank):
            raise ShapeError(f"{describe(inference)}: what differs from run to run is u64[]")
        return [(dtype, tuple(inference.attrs["shape"]))]

    def reference(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
        (shape,) = shapes
        with np.errstate(over="ignore"):
            values = make(_bits(math.prod(shape), attrs["seed"], inputs[0] if inputs else None), attrs)
        return [convert(values.astype(np.float32).reshape(shape), attrs["dtype"])]

    def lower(low: Lowering) -> list[Stmt]:
        iters: tuple[Iter, ...] = low.iters(low.output.shape)
        flat: Dim = 0
        for i in iters:
            flat = flat * i.extent + sym(i.name)
        run = low.load(0, ()) if low.inputs else None
        bits = _lower_bits(flat, low.attrs["seed"], run)
        return [low.stmt(iters, converted(build(bits, low.attrs), low.output.dtype))]

    register(OpSpec(name, "source", infer, reference, lower, foldable=False))


_random("random_uniform", _uniform, _lower_uniform)
_random("random_normal", _normal, _lower_normal)
