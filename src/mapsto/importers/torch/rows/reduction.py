"""Rows of reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mapsto.importers.torch.rows.pointwise import truth, wide
from mapsto.importers.torch.table import AtenCall, aten
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import product
from mapsto.ir.graph import Value
from mapsto.kernel.scalar import compute_type
from mapsto.ops import composite
from mapsto.ops.arranging import reshape, unsqueeze


def reduced(call: AtenCall, x: Value, kind: str, axes: Sequence[int] | None = None) -> Value:
    """The operand reduced over the axes that the call names. A tensor without axes is its own sum."""
    axes = call.axes() if axes is None else axes
    if x.rank == 0:
        return x
    return composite.reduce(call.builder, x, kind, axes, call.flag("keepdim"))


@aten("sum", "mean", "nansum", "prod")
def _total(call: AtenCall) -> Value:
    x = call.cast(call.value(), call.out)
    if call.name == "nansum" and x.dtype.is_float:
        x = call.one("select", [call.one("isnan", [x]), call.scalar(0.0, x.dtype), x])
    kind = "sum" if call.name == "nansum" else call.name
    if "dim" not in call.given:
        return reduced(call, x, kind, range(x.rank))
    return reduced(call, x, kind)


@aten("any", "all")
def _truth(call: AtenCall) -> Value:
    x = truth(call, call.value())
    axes = call.axes() if "dim" in call.given else range(x.rank)
    return call.cast(reduced(call, x, call.name, axes), call.out)


@aten("amax", "amin", "max.default", "min.default")
def _extreme(call: AtenCall) -> Value:
    x, kind = call.value(), call.name[-3:]
    axes = call.axes() if "dim" in call.given else range(x.rank)
    return extreme(call, x, kind, axes)


def extreme(call: AtenCall, x: Value, kind: str, axes: Sequence[int]) -> Value:
    if x.dtype is DType.BOOL:
        kind = "any" if kind == "max" else "all"
    return reduced(call, x, kind, axes)


@aten("aminmax")
def _aminmax(call: AtenCall) -> list[Value]:
    x = call.value()
    axes = range(x.rank) if call.given.get("dim") is None else call.axes()
    return [extreme(call, x, kind, axes) for kind in ("min", "max")]


@aten("max.dim", "min.dim")
def _extreme_with_place(call: AtenCall) -> list[Value]:
    x = call.value()
    if x.rank == 0:
        return [x, call.one("full", [], shape=(), value=0, dtype=DType.I64)]
    best = extreme(call, x, call.name, [call.axis()])
    return [best, place(call, x, call.name, call.axis())]


def place(call: AtenCall, x: Value, kind: str, axis: int) -> Value:
    """Where the first extreme stands; a NaN is one."""
    x = call.cast(x, DType.U8) if x.dtype is DType.BOOL else x
    found = call.one(f"arg{kind}", [x], axis=axis, keepdims=call.flag("keepdim"), select_last=False)
    return call.cast(found, DType.I64)


@aten("argmax", "argmin")
def _argextreme(call: AtenCall) -> Value:
    b, x, kind = call.builder, call.value(), call.name[3:]
    if x.rank == 0:
        return call.one("full", [], shape=(), value=0, dtype=DType.I64)
    if call.given.get("dim") is not None:
        return place(call, x, kind, call.axis())
    flat = reshape(b, x, (product(x.shape),))
    found = call.one(
        f"arg{kind}",
        [call.cast(flat, DType.U8) if x.dtype is DType.BOOL else flat],
        axis=0,
        keepdims=False,
        select_last=False,
    )
    return reshape(b, call.cast(found, DType.I64), (1,) * x.rank if call.flag("keepdim") else ())


@aten("var", "std", "var_mean", "std_mean")
def _variance(call: AtenCall) -> Value | list[Value]:
    x = wide(call, call.value())
    axes = range(x.rank) if call.given.get("dim") is None else call.axes()
    correction = call.number("correction", 1.0) if "correction" in call.given else float(call.flag("unbiased", True))
    count = product(x.shape[a] for a in axes)
    if isinstance(count, int):
        divisor = call.scalar(max(count - correction, 0.0), x.dtype)
    else:
        rest = call.one("sub", [call.scalar(count, x.dtype), call.scalar(correction, x.dtype)])
        divisor = call.one("max", [rest, call.scalar(0.0, x.dtype)])
    mean = composite.reduce(call.builder, x, "mean", axes) if x.rank else x
    centred = call.one("sub", [x, mean])
    total = reduced(call, call.one("mul", [centred, centred]), "sum", axes)
    spread = call.one("div", [total, divisor])
    if call.name.startswith("std"):
        spread = call.one("sqrt", [spread])
    spread = call.cast(spread, call.value().dtype)
    if not call.name.endswith("mean"):
        return spread
    return [spread, call.cast(reshape(call.builder, mean, spread.shape), call.value().dtype)]


@aten("logsumexp", "special_logsumexp")
def _logsumexp(call: AtenCall) -> Value:
    x = call.cast(call.value(), call.out)
    if x.rank == 0:
        return x
    return composite.log_sum_exp(call.builder, x, call.axes(), call.flag("keepdim"))


@aten("norm", "linalg_vector_norm", "frobenius_norm", "linalg_norm")
def _norm(call: AtenCall) -> Value:
    """(sum |x|^p)^(1/p)"""
    x = wide(call, call.cast(call.value(), call.out))
    power = 2.0
    if "ord" in call.given:
        power = call.number("ord", 2.0)
    elif "p" in call.given:
        power = call.number("p", 2.0)
    axes = range(x.rank) if call.given.get("dim") is None else call.axes()
    size = call.one("abs", [x])
    if power == math.inf or power == -math.inf:
        found = reduced(call, size, "max" if power > 0 else "min", axes)
    elif power == 0.0:
        found = reduced(call, call.cast(call.one("ne", [x, call.scalar(0.0, x.dtype)]), x.dtype), "sum", axes)
    elif power == 1.0:
        found = reduced(call, size, "sum", axes)
    elif power == 2.0:
        found = call.one("sqrt", [reduced(call, call.one("mul", [x, x]), "sum", axes)])
    else:
        p, inverse = call.scalar(power, x.dtype), call.scalar(1 / power, x.dtype)
        found = call.one("pow", [reduced(call, call.one("pow", [size, p]), "sum", axes), inverse])
    return call.cast(found, call.out)


@aten("dist")
def _dist(call: AtenCall) -> Value:
    x = call.one("sub", [call.cast(call.value(n), call.out) for n in ("self", "other")])
    x, power = call.one("abs", [wide(call, x)]), call.number("p", 2.0)
    axes = range(x.rank)
    if power == 2.0:
        return call.cast(call.one("sqrt", [reduced(call, call.one("mul", [x, x]), "sum", axes)]), call.out)
    if power in (math.inf, -math.inf):
        return call.cast(reduced(call, x, "max" if power > 0 else "min", axes), call.out)
    if power == 0.0:
        return call.cast(reduced(call, call.cast(truth(call, x), x.dtype), "sum", axes), call.out)
    p, inverse = call.scalar(power, x.dtype), call.scalar(1 / power, x.dtype)
    return call.cast(call.one("pow", [reduced(call, call.one("pow", [x, p]), "sum", axes), inverse]), call.out)


@aten("count_nonzero")
def _count_nonzero(call: AtenCall) -> Value:
    x = call.cast(truth(call, call.value()), DType.I64)
    if call.overload == "dim_IntList":
        return reduced(call, x, "sum", call.axes())
    return reduced(call, x, "sum", range(x.rank) if call.given.get("dim") is None else call.axes())


@aten("trace")
def _trace(call: AtenCall) -> Value:
    from mapsto.ops.arranging import column, positions

    b, x = call.builder, call.cast(call.value(), call.out)
    on = call.one("eq", [column(b, positions(b, x.shape[0]), 0, 2), positions(b, x.shape[1])])
    return composite.reduce(b, call.one("select", [on, x, call.scalar(0, x.dtype)]), "sum", [0, 1], keepdims=False)


@aten("cdist", "_cdist_forward", "_euclidean_dist")
def _cdist(call: AtenCall) -> Value:
    """Distances of all rows of one tensor from all rows of another."""
    b = call.builder
    x, y = (wide(call, call.value(n)) for n in ("x1", "x2"))
    gap = call.one("sub", [unsqueeze(b, x, [x.rank - 1]), unsqueeze(b, y, [y.rank - 2])])
    power = call.number("p", 2.0) if "p" in call.given else 2.0
    size, last = call.one("abs", [gap]), [gap.rank - 1]
    if power == 2.0:
        total = composite.reduce(b, call.one("mul", [gap, gap]), "sum", last, keepdims=False)
        return call.cast(call.one("sqrt", [total]), call.out)
    if power == math.inf:
        return call.cast(composite.reduce(b, size, "max", last, keepdims=False), call.out)
    if power == 1.0:
        return call.cast(composite.reduce(b, size, "sum", last, keepdims=False), call.out)
    if power == 0.0:
        counted = call.cast(truth(call, gap), compute_type(gap.dtype))
        return call.cast(composite.reduce(b, counted, "sum", last, keepdims=False), call.out)
    total = composite.reduce(b, call.one("pow", [size, call.scalar(power, x.dtype)]), "sum", last, keepdims=False)
    return call.cast(call.one("pow", [total, call.scalar(1 / power, x.dtype)]), call.out)
