"""Rows of normalisation, and of softmax."""

from __future__ import annotations

import math

from mapsto.importers.torch.rows.pointwise import wide
from mapsto.importers.torch.table import AtenCall, aten
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import floordiv, product
from mapsto.ir.graph import Value
from mapsto.kernel.scalar import compute_type
from mapsto.ops import composite
from mapsto.ops.arranging import column, reshape


@aten("softmax", "_softmax", "_safe_softmax", "log_softmax", "_log_softmax")
def _softmax(call: AtenCall) -> Value:
    x = call.cast(call.value(), call.out)
    if x.rank == 0:
        return call.one("full", [], shape=(), value=0.0 if "log" in call.name else 1.0, dtype=x.dtype)
    if "log" in call.name:
        return composite.log_softmax(call.builder, x, call.axis())
    y = composite.softmax(call.builder, x, call.axis())
    if call.name != "_safe_softmax":
        return y
    top = composite.reduce(call.builder, x, "max", [call.axis()])
    none = call.one("eq", [top, call.scalar(-math.inf, x.dtype)])
    return call.one("select", [none, call.scalar(0.0, x.dtype), y])


def _affine(call: AtenCall, y: Value, weight: Value | None, bias: Value | None) -> Value:
    if weight is not None:
        y = call.one("mul", [y, call.cast(weight, y.dtype)])
    return y if bias is None else call.one("add", [y, call.cast(bias, y.dtype)])


@aten("layer_norm", "native_layer_norm")
def _layer_norm(call: AtenCall) -> Value | list[Value]:
    x = call.value("input")
    axes = range(x.rank - len(call.given["normalized_shape"]), x.rank)
    y, mean, inverse = composite.normalised(call.builder, x, axes, call.number("eps"))
    y = call.cast(_affine(call, y, call.optional("weight"), call.optional("bias")), x.dtype)
    return y if call.name == "layer_norm" else [y, mean, inverse]


@aten("rms_norm", "_fused_rms_norm")
def _rms_norm(call: AtenCall) -> Value | list[Value]:
    x = call.value("input")
    a = wide(call, x)
    eps = call.number("eps", 2.220446049250313e-16 if a.dtype is DType.F64 else 1.1920928955078125e-07)
    axes = range(x.rank - len(call.given["normalized_shape"]), x.rank)
    power = composite.reduce(call.builder, call.one("mul", [a, a]), "mean", axes)
    inverse = call.one("reciprocal", [call.one("sqrt", [call.one("add", [power, call.scalar(eps, a.dtype)])])])
    y = call.one("mul", [a, inverse])
    y = call.cast(_affine(call, y, call.optional("weight"), None), x.dtype)
    return y if call.name == "rms_norm" else [y, inverse]


@aten("group_norm", "native_group_norm")
def _group_norm(call: AtenCall) -> Value | list[Value]:
    x = call.value("input")
    if call.name == "group_norm":
        groups = call.integer("num_groups")
    else:
        groups = call.integer("group")
    n, c = x.shape[:2]
    grouped = reshape(call.builder, x, (n, groups, floordiv(product((c, *x.shape[2:])), groups)))
    y, mean, inverse = composite.normalised(call.builder, grouped, [2], call.number("eps"))
    y = reshape(call.builder, y, x.shape)
    weight, bias = (None if v is None else column(call.builder, v, 1, x.rank) for v in _parameters(call))
    y = call.cast(_affine(call, y, weight, bias), x.dtype)
    if call.name == "group_norm":
        return y
    return [y, *(reshape(call.builder, v, (n, groups)) for v in (mean, inverse))]


def _parameters(call: AtenCall) -> tuple[Value | None, Value | None]:
    return call.optional("weight"), call.optional("bias")


@aten("instance_norm")
def _instance_norm(call: AtenCall) -> Value:
    x = call.value("input")
    weight, bias = (None if v is None else column(call.builder, v, 1, x.rank) for v in _parameters(call))
    if call.flag("use_input_stats", True):
        y, _, _ = composite.normalised(call.builder, x, range(2, x.rank), call.number("eps"))
        return call.cast(_affine(call, y, weight, bias), x.dtype)
    return _by_statistics(call, x)


def _by_statistics(call: AtenCall, x: Value) -> Value:
    """Normalised by the running mean and variance; with constants one multiply-add remains."""
    mean, variance = call.value("running_mean"), call.value("running_var")
    weight, bias = _parameters(call)
    ones = call.one("full", [], shape=mean.shape, value=1.0, dtype=mean.dtype)
    zeros = call.one("full", [], shape=mean.shape, value=0.0, dtype=mean.dtype)
    return composite.batch_norm(
        call.builder, x, ones if weight is None else weight, zeros if bias is None else bias, mean, variance,
        call.number("eps"),
    )  # fmt: skip


@aten("batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit_no_training")
def _batch_norm(call: AtenCall) -> Value | list[Value]:
    x = call.value("input")
    if call.flag("training"):
        return _trained(call, x, call.name)
    y = _by_statistics(call, x)
    empty = call.one("full", [], shape=(0,), value=0.0, dtype=compute_type(x.dtype))
    return y if call.name == "batch_norm" else [y, empty, empty]


@aten("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional", "_batch_norm_with_update")
@aten("_batch_norm_no_update", "_batch_norm_with_update_functional")
def _native_batch_norm(call: AtenCall) -> Value | list[Value]:
    x = call.value("input")
    training = call.name in ("_batch_norm_with_update", "_batch_norm_with_update_functional") or call.flag("training")
    if training and call.name != "_batch_norm_no_update":
        return _trained(call, x, call.name)
    y = _by_statistics(call, x)
    empty = call.one("full", [], shape=(0,), value=0.0, dtype=compute_type(x.dtype))
    more = [call.one("full", [], shape=(0,), value=0, dtype=DType.U8)] if call.name.startswith("_batch_norm") else []
    return [y, empty, empty, *more]


def _trained(call: AtenCall, x: Value, name: str) -> Value | list[Value]:
    """By the batch's own statistics; the functional form gives the new running ones as well."""
    axes = [0, *range(2, x.rank)]
    if call.run is not None and (name == "batch_norm" or name.endswith("functional")):
        return _learnt(call, x, name)
    y, mean, inverse = composite.normalised(call.builder, x, axes, call.number("eps"))
    weight, bias = (None if v is None else column(call.builder, v, 1, x.rank) for v in _parameters(call))
    y = call.cast(_affine(call, y, weight, bias), x.dtype)
    flat = [reshape(call.builder, v, (x.shape[1],)) for v in (mean, inverse)]
    if name == "batch_norm":
        return y
    reserve = [call.one("full", [], shape=(0,), value=0, dtype=DType.U8)] if name.startswith("_batch_norm_with") else []
    if not name.endswith("functional"):
        return [y, *flat, *reserve]
    return [y, *flat, *reserve, *_running(call, x, axes, mean)]


def _learnt(call: AtenCall, x: Value, name: str) -> Value | list[Value]:
    """The same in the form that a gradient is taken of; what torch keeps for its own backward pass is left out."""
    old = None if name == "batch_norm" else (call.value("running_mean"), call.value("running_var"))
    y, moved = composite.batch_norm_trained(
        call.builder, x, *_parameters(call), old, call.number("eps"), call.number("momentum")
    )
    if moved is None:
        return y
    saved = call.one("full", [], shape=(x.shape[1],), value=0.0, dtype=compute_type(x.dtype))
    reserve = [call.one("full", [], shape=(0,), value=0, dtype=DType.U8)] if name.startswith("_batch_norm_with") else []
    return [y, saved, saved, *reserve, *moved]


def _running(call: AtenCall, x: Value, axes: list[int], mean: Value) -> list[Value]:
    """The running statistics after this batch: of the variance the unbiased estimate."""
    b, kind = call.builder, compute_type(x.dtype)
    centred = call.one("sub", [call.cast(x, kind), mean])
    total = composite.reduce(b, call.one("mul", [centred, centred]), "sum", axes)
    count = call.scalar(product(x.shape[a] for a in axes), kind)
    variance = call.one("div", [total, call.one("sub", [count, call.scalar(1.0, kind)])])
    found = []
    for name, new in (("running_mean", mean), ("running_var", variance)):
        old = call.value(name)
        momentum, rest = (call.scalar(v, old.dtype) for v in (call.number("momentum"), 1 - call.number("momentum")))
        new = call.cast(reshape(b, new, old.shape), old.dtype)
        found.append(call.one("add", [call.one("mul", [new, momentum]), call.one("mul", [old, rest])]))
    return found


@aten("_weight_norm_interface", "_weight_norm")
def _weight_norm(call: AtenCall) -> Value | list[Value]:
    v, g = call.value("v"), call.value("g")
    axes = [k for k in range(v.rank) if k != call.integer("dim") % v.rank]
    norm = call.one("sqrt", [composite.reduce(call.builder, call.one("mul", [v, v]), "sum", axes)])
    y = call.one("mul", [v, call.one("div", [g, reshape(call.builder, norm, g.shape)])])
    return y if call.name == "_weight_norm" else [y, reshape(call.builder, norm, g.shape)]
