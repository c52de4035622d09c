"""Rows of normalisation: batch, layer, instance, group, root mean square, and by a norm."""

from __future__ import annotations

from mapsto.importers.onnx.learning import Learning
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import floordiv
from mapsto.ir.graph import Value
from mapsto.kernel.scalar import compute_type
from mapsto.ops import composite
from mapsto.ops.arranging import reshape

# -- batch normalisation -----------------------------------------------------------------------------------------------


def _by_channel(call: NodeCall, x: Value, *vectors: Value) -> None:
    """Raises ModelError where x has no channels, or one of the vectors is none."""
    for vector in vectors:
        if x.rank < 2 or vector.rank != 1:
            raise call.wrong(f"{vector} is not one number for each channel of {x}")


@row("BatchNormalization")
def _batch_norm(call: NodeCall) -> Result:
    x, scale, bias, mean, variance = (call.input(i) for i in range(5))
    by_feature = call.opset < 9 and not call.integer("spatial", 1)
    if by_feature and scale.rank == 1 and x.rank > 2 and not _is_training(call):
        by_feature = False  # the shapes say that there is one number a channel
    if not by_feature:
        _by_channel(call, x, scale, bias, mean, variance)
    elif x.rank < 2:
        raise call.wrong(f"{x} has no axis of channels")
    learning = call.translator.learning
    if learning is not None and not by_feature:
        return _batch_norm_learnt(call, learning)
    if _is_training(call):
        return _batch_norm_training(call, by_feature)
    if by_feature:
        return _normalised_by_feature(call, mean, variance)
    return composite.batch_norm(call.builder, x, scale, bias, mean, variance, call.number("epsilon", 1e-5))


def _batch_norm_learnt(call: NodeCall, learning: Learning) -> Result:
    """Of a model that is to be trained: in training by the batch, with running statistics as PyTorch has them."""
    b = call.builder
    x, scale, bias, mean, variance = (call.input(i) for i in range(5))
    epsilon, momentum = call.number("epsilon", 1e-5), 1 - call.number("momentum", 0.9)
    if not learning.is_training:
        y = composite.batch_norm(b, x, scale, bias, mean, variance, epsilon)
        return [y, mean, variance, mean, variance][: max(len(call.outputs), 1)]
    if b.parent is not None:
        raise call.unsupported("in a branch or a loop it cannot be trained; take it out of there")
    running = learning.now(mean), learning.now(variance)
    y, moved = composite.batch_norm_trained(b, x, scale, bias, running, epsilon, momentum)
    assert moved is not None
    known = {value.name for value in b.inputs}
    for old, new in zip((mean, variance), moved, strict=True):
        if old.name in known:
            learning.move(old, new)
    return [y, *moved, *moved][: max(len(call.outputs), 1)]


def _is_training(call: NodeCall) -> bool:
    """Said by an attribute; from opset 7 to 13 by outputs that only training has."""
    if call.opset >= 14:
        return bool(call.integer("training_mode", 0))
    if call.opset >= 7:
        return any(call.wants(i) for i in range(1, 5))
    return not call.integer("is_test", 0)


def _batch_norm_training(call: NodeCall, by_feature: bool) -> Result:
    """By the batch's own mean and variance; the running ones move towards these. Before opset 14 the batch's are
    results as well. by_feature: a mean for each channel and place, instead of each channel.
    """
    b, x, momentum = call.builder, call.input(0), call.number("momentum", 0.9)
    axes = (0,) if by_feature else tuple(k for k in range(x.rank) if k != 1)
    wide = b.one("cast", [x], to=DType.F32) if x.dtype.is_half else x
    mean = b.one("reduce", [wide], kind="mean", axes=axes, keepdims=True)
    centred = b.one("sub", [wide, mean])
    variance = b.one("reduce", [b.one("mul", [centred, centred])], kind="mean", axes=axes, keepdims=False)
    mean = b.one("reshape", [mean], shape=variance.shape)
    if by_feature:
        y = _normalised_by_feature(call, mean, variance)
    else:
        y = composite.batch_norm(b, x, call.input(1), call.input(2), mean, variance, call.number("epsilon", 1e-5))

    def moved(old: Value, new: Value) -> Value:
        kept = b.one("mul", [old, call.scalar(momentum, old)])
        new = composite.cast(b, reshape(b, new, old.shape), old.dtype)
        return b.one("add", [kept, b.one("mul", [new, call.scalar(1 - momentum, old)])])

    running = [moved(call.input(3), mean), moved(call.input(4), variance)]
    saved = [composite.cast(b, v, call.input(3).dtype) for v in (mean, variance)] if call.opset < 14 else []
    return [y, *running, *saved]


def _normalised_by_feature(call: NodeCall, mean: Value, variance: Value) -> Value:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, with parameters for each channel and place."""
    b, x = call.builder, call.input(0)
    wide = compute_type(x.dtype)
    shape = x.shape[1:]
    s, o, m, v = (composite.cast(b, reshape(b, p, shape), wide) for p in (call.input(1), call.input(2), mean, variance))
    deviation = b.one("sqrt", [b.one("add", [v, call.scalar(call.number("epsilon", 1e-5), v)])])
    centred = b.one("div", [b.one("sub", [composite.cast(b, x, wide), m]), deviation])
    return composite.cast(b, b.one("add", [b.one("mul", [centred, s]), o]), x.dtype)


# -- the others --------------------------------------------------------------------------------------------------------


def _axis_of(call: NodeCall, x: Value) -> int:
    if x.rank == 0:
        raise call.wrong(f"{x} has no axis to normalise along")
    return call.axis(x.rank, -1)


@row("LayerNormalization")
def _layer_norm(call: NodeCall) -> Result:
    b, x, scale, bias = call.builder, call.input(0), call.input(1), call.optional(2)
    axis, epsilon = _axis_of(call, x), call.number("epsilon", 1e-5)
    result = composite.layer_norm(b, x, scale, bias, axis, epsilon)
    if not call.wants(1) and not call.wants(2):
        return result
    _, mean, inverse = composite.normalised(b, x, range(axis, x.rank), epsilon)
    return [result, mean, inverse]


@row("RMSNormalization", "SimplifiedLayerNormalization")
def _rms_norm(call: NodeCall) -> Result:
    x, scale = call.input(0), call.input(1)
    return composite.rms_norm(call.builder, x, scale, _axis_of(call, x), call.number("epsilon", 1e-5))


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
    if scale.rank != 1 or bias.rank != 1:
        raise call.wrong(f"scale {scale} and bias {bias} are no vectors")
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
    if call.opset < 9:
        return _mean_variance_of_old(call)
    b, x = call.builder, call.input()
    axes = tuple(call.normal_axis(axis, x.rank) for axis in call.integers("axes") or (0, 2, 3))
    centred = b.one("sub", [x, b.one("reduce", [x], kind="mean", axes=axes, keepdims=True)])
    variance = b.one("reduce", [b.one("mul", [centred, centred])], kind="mean", axes=axes, keepdims=True)
    return b.one("div", [centred, b.one("add", [b.one("sqrt", [variance]), call.scalar(1e-9, x)])])


def _mean_variance_of_old(call: NodeCall) -> Result:
    """Over space, with `across_channels` over channels as well; the variance may be left as it is."""
    b, x = call.builder, call.input()
    if x.rank < 3:
        raise call.wrong(f"{x} has no spatial axes")
    axes = tuple(range(1 if call.integer("across_channels", 0) else 2, x.rank))
    if call.integer("normalize_variance", 1):
        return composite.cast(b, composite.normalised(b, x, axes, 1e-9)[0], x.dtype)
    return b.one("sub", [x, b.one("reduce", [x], kind="mean", axes=axes, keepdims=True)])


@row("LpNormalization")
def _lp_normalization(call: NodeCall) -> Result:
    b, x, p = call.builder, call.input(), call.integer("p", 2)
    if p not in (1, 2):
        raise call.unsupported(f"attribute p={p} is not supported; it may be 1 or 2")
    return composite.lp_norm(b, x, _axis_of(call, x), p)
