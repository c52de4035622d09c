"""Contractions of what was narrow take it as it was: bytes less zero points, and halves, that were widened for nothing.

    sum (x - p) w == sum x w - p sum w        x bytes, p their zero point, w constant: it fits signed bytes
    sum (x - p) w                             else: both factors in 16 bits, which hold the differences
    sum f32(x) w                              x of half precision; a constant w is narrowed where that is exact

A window that leaves x reads zeros for x - p, so x is padded by p first. Integers are equal modulo 2^32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Value
from mapsto.kernel.products import FLOAT_OPERANDS, INTEGER_OPERANDS, widens
from mapsto.ops.builder import Builder
from mapsto.passes.looking import may_look, may_make
from mapsto.passes.retrace import rewritten
from mapsto.passes.sites import Site

_OPS = frozenset({"conv", "matmul"})
_BYTES = (DType.U8, DType.I8)


@dataclass(frozen=True)
class NarrowProducts:
    name: str = "narrow-products"

    def __call__(self, graph: Graph) -> Graph:
        return rewritten(graph, _rewrite, _OPS)


def _rewrite(site: Site) -> Sequence[Value] | None:
    if site.node.op not in _OPS or "result" in site.attrs:
        return None
    result = site.node.output.dtype
    if result is DType.F32:
        return _of_halves(site)
    return _of_integers(site) if result is DType.I32 else None


# -- halves ------------------------------------------------------------------------------------------------------------


def _of_halves(site: Site) -> Sequence[Value] | None:
    found = [_before_cast(site.builder, site.input(i), FLOAT_OPERANDS) for i in (0, 1)]
    if found == [None, None]:
        return None
    for i, value in enumerate(found):
        other = found[1 - i]
        if value is None and other is not None:
            found[i] = _narrowed(site.builder, site.input(i), other.dtype)
    operands = [site.input(i) if value is None else value for i, value in enumerate(found)]
    return _made(site, operands, site.inputs[2:], DType.F32)


def _narrowed(b: Builder, value: Value, dtype: DType) -> Value | None:
    """A constant in a narrower type that holds every element of it."""
    array = b.array(value)
    if array is None or not may_make(array):
        return None
    with np.errstate(all="ignore"):
        narrow = array.astype(dtype.numpy)
    return b.constant(narrow, value.name) if np.array_equal(narrow.astype(array.dtype), array) else None


# -- integers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Factor:
    """An operand that fits 16 bits. `value`: as it is; `raw`: bytes, of which `zero` is taken (None: nothing); `array`:
    a constant.
    """

    value: Value
    raw: Value | None = None
    zero: Value | None = None
    array: np.ndarray | None = None


def _of_integers(site: Site) -> Sequence[Value] | None:
    b = site.builder
    x, w = (_factor(b, site.input(i)) for i in (0, 1))
    if x is None or w is None or (x.raw is None and w.raw is None):
        return None
    if x.raw is not None and w.array is not None and _fits(w.array, DType.I8) and _is_plain(site, x, w.array):
        return _by_sums(site, x, w.array)
    return _made(site, [_short(b, x), _short(b, w)], site.inputs[2:], DType.I32)


def _factor(b: Builder, value: Value) -> _Factor | None:
    array = b.array(value)
    if array is not None:
        return _Factor(value, array=array) if may_look(array) and _fits(array, DType.I16) else None
    raw = _before_cast(b, value, INTEGER_OPERANDS)
    if raw is not None:
        return _Factor(value, raw)
    node = b.producer(value)
    if node is None or node.op != "sub":
        return None
    whole, zero = (b.lookup(name) for name in node.inputs)
    raw = _before_cast(b, whole, frozenset(_BYTES))
    if raw is None or raw.shape != value.shape or not _is_byte(b, zero):
        return None
    return _Factor(value, raw, zero)


def _is_byte(b: Builder, value: Value) -> bool:
    """Whether a 32-bit integer lies among those of 8 bits, with a sign or without."""
    array = b.array(value)
    if array is not None:
        return may_look(array) and array.size > 0 and bool(array.min() >= -128 and array.max() <= 255)
    node = b.producer(value)
    while node is not None and node.op == "reshape":
        node = b.producer(b.lookup(node.inputs[0]))
    return node is not None and node.op == "cast" and b.lookup(node.inputs[0]).dtype in _BYTES


def _before_cast(b: Builder, value: Value, among: frozenset[DType]) -> Value | None:
    """What a conversion that loses nothing widens."""
    node = b.producer(value)
    if node is None or node.op != "cast":
        return None
    source = b.lookup(node.inputs[0])
    return source if source.dtype in among and widens(source.dtype, value.dtype) else None


def _fits(array: np.ndarray, dtype: DType) -> bool:
    limits = np.iinfo(dtype.numpy)
    return array.size > 0 and bool(array.min() >= limits.min and array.max() <= limits.max)


def _short(b: Builder, factor: _Factor) -> Value:
    """A factor as bytes or in 16 bits."""
    if factor.array is not None:
        dtype = DType.I8 if _fits(factor.array, DType.I8) else DType.I16
        return b.constant(factor.array.astype(dtype.numpy), factor.value.name)
    if factor.raw is not None and factor.zero is None:
        return factor.raw
    return b.one("cast", [factor.value], to=DType.I16)


def _is_plain(site: Site, x: _Factor, w: np.ndarray) -> bool:
    """Whether x's zero point comes out of the sum: it does not vary along what is summed, and a window that leaves x is
    no matter, or can be padded by it.
    """
    zero = x.zero
    if zero is None:
        return True
    if site.node.op == "matmul":
        return w.ndim >= 2 and x.value.rank >= 2 and (zero.rank == 0 or zero.shape[-1] == 1)
    array = site.builder.array(zero)
    fills = array is not None and x.raw is not None and _fits(array, x.raw.dtype)
    return all(d == 1 for d in zero.shape) and (fills or not any(site.attrs["pads"]))


def _by_sums(site: Site, x: _Factor, w: np.ndarray) -> Sequence[Value] | None:
    """x w less its zero point times the sums of w, which are known."""
    b, attrs = site.builder, dict(site.attrs)
    assert x.raw is not None
    raw, bias = x.raw, site.inputs[2:]
    weights = b.constant(w.astype(np.int8), site.input(1).name)
    if x.zero is None:
        return _made(site, [raw, weights], bias, DType.I32)
    is_conv = site.node.op == "conv"
    axes = tuple(range(1, w.ndim)) if is_conv else (w.ndim - 2,)
    sums = w.sum(axis=axes, dtype=np.int32, keepdims=not is_conv)
    with b.source(*site.node.provenance):
        if is_conv and any(attrs["pads"]):
            raw, attrs = _padded(b, raw, attrs, x.zero)
        if is_conv and bias and (shifted := _shifted(b, bias[0], x.zero, sums)) is not None:
            return b.add(
                "conv", [raw, weights, shifted], {**attrs, "result": DType.I32}, (), [v.name for v in site.node.outputs]
            )
        if is_conv:
            sums = sums.reshape(-1, *[1] * (x.value.rank - 2))
        whole = b.add(site.node.op, [raw, weights, *bias], {**attrs, "result": DType.I32})[0]
        zero = x.zero if not is_conv else b.one("reshape", [x.zero], shape=())
        more = b.one("mul", [zero, b.constant(sums, "sums")])
        return b.add("sub", [whole, more], {}, (), [v.name for v in site.node.outputs])


def _shifted(b: Builder, bias: Value | None, zero: Value, sums: np.ndarray) -> Value | None:
    """A bias less a zero point times the sums of the weights, modulo 2^32 as the sums are; None where not constant."""
    known = [None if v is None else b.array(v) for v in (bias, zero)]
    if bias is None or known[0] is None or known[1] is None or known[1].size != 1:
        return None
    less = known[0].astype(np.int64) - int(known[1].item()) * sums.astype(np.int64)
    return b.constant(less.astype(np.int32), bias.name)


def _padded(b: Builder, raw: Value, attrs: dict[str, Any], zero: Value) -> tuple[Value, dict[str, Any]]:
    pads, array = attrs["pads"], b.array(zero)
    assert array is not None
    before, after = (0, 0, *pads[: len(pads) // 2]), (0, 0, *pads[len(pads) // 2 :])
    wide = b.one("pad", [raw], before=before, after=after, mode="constant", value=int(array.reshape(-1)[0]))
    return wide, {**attrs, "pads": (0,) * len(pads)}


def _made(
    site: Site, operands: Sequence[Value], bias: Sequence[Value | None], result: DType
) -> Sequence[Value]:
    with site.builder.source(*site.node.provenance):
        names = [v.name for v in site.node.outputs]
        return site.builder.add(site.node.op, [*operands, *bias], {**site.attrs, "result": result}, (), names)
