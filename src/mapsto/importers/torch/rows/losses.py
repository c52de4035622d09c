"""Rows of losses."""

from __future__ import annotations

from collections.abc import Sequence

from mapsto.importers.torch.rows.pointwise import wide
from mapsto.importers.torch.table import AtenCall, aten
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import product
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.arranging import reshape, unsqueeze

_NONE, _MEAN = 0, 1


def over(call: AtenCall, loss: Value) -> Value:
    """The losses of all elements as `reduction` has it."""
    reduction = call.integer("reduction")
    loss = call.cast(loss, call.out) if reduction == _NONE else loss
    if reduction == _NONE:
        return loss
    kind = "mean" if reduction == _MEAN else "sum"
    return call.cast(
        composite.reduce(call.builder, loss, kind, range(loss.rank), False) if loss.rank else loss, call.out
    )


def _pair(call: AtenCall, first: str = "self", second: str = "target") -> list[Value]:
    return [wide(call, call.cast(call.value(n), call.out)) for n in (first, second)]


@aten("mse_loss")
def _mse(call: AtenCall) -> Value:
    gap = call.one("sub", _pair(call))
    return over(call, call.one("mul", [gap, gap]))


@aten("l1_loss")
def _l1(call: AtenCall) -> Value:
    return over(call, call.one("abs", [call.one("sub", _pair(call))]))


@aten("smooth_l1_loss", "huber_loss")
def _smooth(call: AtenCall) -> Value:
    """x^2 / 2 within delta, linear beyond; smooth_l1 divides by its beta."""
    size = call.one("abs", [call.one("sub", _pair(call))])
    delta = call.number("beta" if call.name == "smooth_l1_loss" else "delta", 1.0)
    half, d = call.scalar(0.5, size.dtype), call.scalar(delta, size.dtype)
    if call.name == "smooth_l1_loss":
        if delta == 0.0:
            return over(call, size)
        near = call.one("div", [call.one("mul", [call.one("mul", [half, size]), size]), d])
        far = call.one("sub", [size, call.one("mul", [half, d])])
        return over(call, call.one("select", [call.one("lt", [size, d]), near, far]))
    near = call.one("mul", [call.one("mul", [half, size]), size])
    far = call.one("mul", [d, call.one("sub", [size, call.one("mul", [half, d])])])
    return over(call, call.one("select", [call.one("le", [size, d]), near, far]))


@aten("binary_cross_entropy")
def _bce(call: AtenCall) -> Value:
    """-(t log p + (1 - t) log(1 - p)), logarithms from -100 on."""
    p, t = _pair(call)
    one, low = call.scalar(1.0, p.dtype), call.scalar(-100.0, p.dtype)
    first, second = (call.one("max", [call.one("log", [v]), low]) for v in (p, call.one("sub", [one, p])))
    total = call.one("add", [call.one("mul", [t, first]), call.one("mul", [call.one("sub", [one, t]), second])])
    loss = call.one("neg", [total])
    return over(call, _weighted(call, loss))


def _weighted(call: AtenCall, loss: Value) -> Value:
    return loss if not call.has("weight") else call.one("mul", [loss, call.cast(call.value("weight"), loss.dtype)])


@aten("binary_cross_entropy_with_logits")
def _bce_with_logits(call: AtenCall) -> Value:
    """(1 - t) x + (1 + (w - 1) t) softplus(-x)"""
    x, t = _pair(call)
    one = call.scalar(1.0, x.dtype)
    tail = call.one("softplus", [call.one("neg", [x])])
    if call.has("pos_weight"):
        more = call.one("sub", [call.cast(call.value("pos_weight"), x.dtype), one])
        tail = call.one("mul", [tail, call.one("add", [call.one("mul", [more, t]), one])])
    loss = call.one("add", [call.one("mul", [call.one("sub", [one, t]), x]), tail])
    return over(call, _weighted(call, loss))


@aten("soft_margin_loss")
def _soft_margin(call: AtenCall) -> Value:
    x, t = _pair(call)
    return over(call, call.one("softplus", [call.one("neg", [call.one("mul", [x, t])])]))


@aten("kl_div")
def _kl_div(call: AtenCall) -> Value:
    """t (log t - x), 0 where t is 0; with a logarithmic target e^t (t - x)."""
    x, t = _pair(call)
    if call.flag("log_target"):
        return over(call, call.one("mul", [call.one("exp", [t]), call.one("sub", [t, x])]))
    zero = call.scalar(0.0, x.dtype)
    own = call.one("select", [call.one("eq", [t, zero]), zero, call.one("mul", [t, call.one("log", [t])])])
    return over(call, call.one("sub", [own, call.one("mul", [t, x])]))


@aten("nll_loss", "nll_loss_nd", "nll_loss_forward", "nll_loss2d", "nll_loss2d_forward", "cross_entropy_loss")
def _nll(call: AtenCall) -> Value | list[Value]:
    """-weight[target] * x[target], classes on axis 1; what has the ignored index counts nothing."""
    x, target = wide(call, call.value()), call.value("target")
    if call.name == "cross_entropy_loss":
        x = composite.log_softmax(call.builder, x, 1 if x.rank > 1 else 0)
        if target.dtype.is_float or call.number("label_smoothing") > 0.0:
            return _soft_targets(call, x, target)
    losses, factors = picked(call, x, target)
    kind = call.value().dtype
    if call.integer("reduction") == _NONE:
        loss, total = losses, call.one("full", [], shape=(), value=0.0, dtype=kind)
    else:
        loss, total = (
            composite.reduce(call.builder, v, "sum", range(v.rank), False) if v.rank else v for v in (losses, factors)
        )
        if call.integer("reduction") == _MEAN:
            loss = call.one("div", [loss, total])
    loss = call.cast(loss, kind)
    return [loss, call.cast(total, kind)] if call.name.endswith("forward") else loss


def picked(call: AtenCall, x: Value, target: Value) -> tuple[Value, Value]:
    """(the loss of each place, its weight)"""
    b, axis = call.builder, 1 if x.rank > 1 else 0
    ignored = call.one("eq", [target, call.operand("ignore_index", target.dtype)])
    at = call.cast(call.one("select", [ignored, call.scalar(0, target.dtype), target]), DType.I64)
    found = reshape(b, call.one("gather_elements", [x, unsqueeze(b, at, [axis])], axis=axis), at.shape)
    if call.has("weight"):
        factor = call.cast(call.one("gather", [call.value("weight"), at], axis=0), x.dtype)
    else:
        factor = call.one("full", [], shape=at.shape, value=1.0, dtype=x.dtype)
    zero = call.scalar(0.0, x.dtype)
    factor = call.one("select", [ignored, zero, factor])
    loss = call.one("select", [ignored, zero, call.one("neg", [call.one("mul", [factor, found])])])
    return loss, factor


def _soft_targets(call: AtenCall, logs: Value, target: Value) -> Value:
    """Targets that are shares of the classes, or classes smoothed to such."""
    b, axis, smoothing = call.builder, 1 if logs.rank > 1 else 0, call.number("label_smoothing")
    classes = logs.shape[axis]
    if not target.dtype.is_float:
        return _smoothed(call, logs, target)
    shares = call.cast(target, logs.dtype)
    if smoothing > 0.0:
        kept, added = (
            call.scalar(1 - smoothing, logs.dtype),
            call.one("div", [call.scalar(smoothing, logs.dtype), call.scalar(classes, logs.dtype)]),
        )
        shares = call.one("add", [call.one("mul", [shares, kept]), added])
    product_ = call.one("mul", [shares, logs])
    if call.has("weight"):
        product_ = call.one("mul", [product_, _by_class(call, logs, axis)])
    loss = call.one("neg", [composite.reduce(b, product_, "sum", [axis], keepdims=False)])
    return _over_places(call, loss, call.scalar(product(loss.shape), loss.dtype))


def _by_class(call: AtenCall, logs: Value, axis: int) -> Value:
    from mapsto.ops.arranging import column

    return column(call.builder, call.cast(call.value("weight"), logs.dtype), axis, logs.rank)


def _over_places(call: AtenCall, loss: Value, count: Value) -> Value:
    if call.integer("reduction") == _NONE:
        return call.cast(loss, call.out)
    total = composite.reduce(call.builder, loss, "sum", range(loss.rank), False) if loss.rank else loss
    return call.cast(call.one("div", [total, count]) if call.integer("reduction") == _MEAN else total, call.out)


def _smoothed(call: AtenCall, logs: Value, target: Value) -> Value:
    b, axis, smoothing = call.builder, 1 if logs.rank > 1 else 0, call.number("label_smoothing")
    losses, factors = picked(call, logs, target)
    spread = call.one("mul", [logs, _by_class(call, logs, axis)]) if call.has("weight") else logs
    even = call.one("neg", [composite.reduce(b, spread, "sum", [axis], keepdims=False)])
    ignored = call.one("eq", [target, call.operand("ignore_index", target.dtype)])
    even = call.one("select", [ignored, call.scalar(0.0, even.dtype), even])
    share = call.one("div", [call.scalar(smoothing, logs.dtype), call.scalar(logs.shape[axis], logs.dtype)])
    loss = call.one(
        "add", [call.one("mul", [losses, call.scalar(1 - smoothing, logs.dtype)]), call.one("mul", [even, share])]
    )
    weights: Sequence[int] = range(factors.rank)
    count = composite.reduce(b, factors, "sum", weights, False) if factors.rank else factors
    return _over_places(call, loss, count)
