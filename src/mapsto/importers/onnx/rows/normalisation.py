"""Rows of normalisation: batch, layer, instance, group, root mean square, and by a norm."""

from __future__ import annotations

from mapsto.importers.onnx.rows.common import reshape
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.expr import floordiv
from mapsto.ir.graph import Value
from mapsto.ops import composite


def _by_channel(call: NodeCall, x: Value, *vectors: Value) -> None:
    """Raises ModelError where x has no channels, or one of the vectors is none."""
    for vector in vectors:
        if x.rank < 2 or vector.rank != 1:
            raise call.wrong(f"{vector} is not one number for each channel of {x}")


@row("BatchNormalization")
def _batch_norm(call: NodeCall) -> Result:
    x, scale, bias, mean, variance = (call.input(i) for i in range(5))
    _by_channel(call, x, scale, bias, mean, variance)
    if call.integer("training_mode", 0):
        return _batch_norm_training(call)
    return composite.batch_norm(call.builder, x, scale, bias, mean, variance, call.number("epsilon", 1e-5))


def _batch_norm_training(call: NodeCall) -> Result:
    """By the batch's own mean and variance; the running ones move towards these."""
    b, x, momentum = call.builder, call.input(0), call.number("momentum", 0.9)
    axes = tuple(k for k in range(x.rank) if k != 1)
    mean = b.one("reduce", [x], kind="mean", axes=axes, keepdims=True)
    centred = b.one("sub", [x, mean])
    variance = b.one("reduce", [b.one("mul", [centred, centred])], kind="mean", axes=axes, keepdims=False)
    mean = b.one("reshape", [mean], shape=variance.shape)
    y = composite.batch_norm(b, x, call.input(1), call.input(2), mean, variance, call.number("epsilon", 1e-5))

    def moved(old: Value, new: Value) -> Value:
        kept = b.one("mul", [old, call.scalar(momentum, old)])
        return b.one("add", [kept, b.one("mul", [b.one("cast", [new], to=old.dtype), call.scalar(1 - momentum, old)])])

    return [y, moved(call.input(3), mean), moved(call.input(4), variance)]


@row("LayerNormalization")
def _layer_norm(call: NodeCall) -> Result:
    b, x, scale, bias = call.builder, call.input(0), call.input(1), call.optional(2)
    axis, epsilon = call.axis(x.rank, -1), call.number("epsilon", 1e-5)
    result = composite.layer_norm(b, x, scale, bias, axis, epsilon)
    if not call.wants(1) and not call.wants(2):
        return result
    _, mean, inverse = composite.normalised(b, x, range(axis, x.rank), epsilon)
    return [result, mean, inverse]


@row("RMSNormalization", "SimplifiedLayerNormalization")
def _rms_norm(call: NodeCall) -> Result:
    x, scale = call.input(0), call.input(1)
    return composite.rms_norm(call.builder, x, scale, call.axis(x.rank, -1), call.number("epsilon", 1e-5))


@row("InstanceNormalization")
def _instance_norm(call: NodeCall) -> Result:
    x, scale, bias = (call.input(i) for i in range(3))
    _by_channel(call, x, scale, bias)
    return composite.instance_norm(call.builder, x, scale, bias, call.number("epsilon", 1e-5))


@row("GroupNormalization")
def _group_norm(call: NodeCall) -> Result:
    """Scale and bias have one element a channel; before opset 21, one a group."""
    b, x, groups = call.builder, call.input(0), call.integer("num_groups")
    if x.rank < 2 or groups < 1:
        raise call.wrong("it takes a tensor with channels and a positive num_groups")
    scale, bias = call.input(1), call.input(2)
    if call.opset < 21 and scale.shape != (x.shape[1],):
        each = floordiv(x.shape[1], groups)
        scale, bias = (
            reshape(b, b.one("expand", [reshape(b, v, (groups, 1))], shape=(groups, each)), (x.shape[1],))
            for v in (scale, bias)
        )
    return composite.group_norm(b, x, scale, bias, groups, call.number("epsilon", 1e-5))


@row("MeanVarianceNormalization")
def _mean_variance(call: NodeCall) -> Result:
    """(x - mean) / (standard deviation + 1e-9), as the standard's own function body has it."""
    b, x = call.builder, call.input()
    axes = tuple(call.normal_axis(axis, x.rank) for axis in call.integers("axes") or (0, 2, 3))
    centred = b.one("sub", [x, b.one("reduce", [x], kind="mean", axes=axes, keepdims=True)])
    variance = b.one("reduce", [b.one("mul", [centred, centred])], kind="mean", axes=axes, keepdims=True)
    return b.one("div", [centred, b.one("add", [b.one("sqrt", [variance]), call.scalar(1e-9, x)])])


@row("LpNormalization")
def _lp_normalization(call: NodeCall) -> Result:
    b, x, p = call.builder, call.input(), call.integer("p", 2)
    if p not in (1, 2):
        raise call.unsupported(f"attribute p={p} is not supported; it may be 1 or 2")
    return composite.lp_norm(b, x, call.axis(x.rank, -1), p)
