"""Rows of random numbers: torch's own generator draws them before each run, in the order of the calls, so that they are
those that the module itself would have drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mapsto.importers.torch.table import AtenCall, aten
from mapsto.importers.torch.tensors import torch_dtype
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.ops import composite


def _empty(dtype: Any, fill: Callable[[Any], Any], like: Any = None) -> Callable[[tuple[int, ...]], Any]:
    """Draws into a tensor of a shape that is only known then, whose axes lie in memory as those of `like`: numbers are
    drawn in that order.
    """
    order = None
    if like is not None and not like.is_contiguous():
        order = sorted(range(like.dim()), key=lambda axis: (-_hint(like.stride()[axis]), axis))

    def make(shape: tuple[int, ...]) -> Any:
        if order is None:
            return fill(torch.empty(shape, dtype=dtype))
        return fill(torch.empty_permuted(shape, order, dtype=dtype))

    return make


def _hint(size: Any) -> int:
    """A stride's number in what was traced."""
    return int(size) if isinstance(size, int) else int(size.node.hint or 1)


def _drawn(call: AtenCall, fill: Callable[[Any], Any]) -> Value:
    return call.draw(_empty(torch_dtype(call.out), fill, call.result()), call.shape, call.out)


@aten("dropout", "feature_dropout", "native_dropout")
def _dropout(call: AtenCall) -> Value | list[Value]:
    """x * noise / (1 - p), as torch computes it, with one draw a channel for whole features."""
    x, p = call.value("input"), call.number("p")
    trained = call.flag("train", True)
    if call.run is not None and trained and p > 0.0:
        shape = (*x.shape[:2], *[1] * (x.rank - 2)) if call.name == "feature_dropout" else None
        y, kept = composite.dropout(call.builder, x, p, call.run(), call.stream(), shape)
        return y if call.name != "native_dropout" else [y, kept]
    if call.name == "native_dropout":
        return _native(call, x, p, trained)
    if not trained or p == 0.0:
        return x
    if p == 1.0:
        return call.one("mul", [x, call.scalar(0.0, x.dtype)])
    like = call.node.args[0].meta["val"] if call.name == "dropout" else None
    shape = x.shape if call.name == "dropout" else (*x.shape[:2], *[1] * (x.rank - 2))
    noise = call.draw(_empty(torch_dtype(x.dtype), lambda t: t.bernoulli_(1 - p).div_(1 - p), like), shape, x.dtype)
    return call.one("mul", [x, noise])


def _native(call: AtenCall, x: Value, p: float, trained: bool) -> list[Value]:
    if not trained or p == 0.0:
        return [x, call.one("full", [], shape=x.shape, value=True, dtype=DType.BOOL)]
    mask = call.draw(_empty(torch.bool, lambda t: t.bernoulli_(1 - p), call.result(1)), x.shape, DType.BOOL)
    scale = 0.0 if p == 1.0 else 1 / (1 - p)
    kept = call.one("mul", [x, call.cast(mask, x.dtype)])
    return [call.one("mul", [kept, call.scalar(scale, x.dtype)]), mask]


def _uniform_here(call: AtenCall) -> Value:
    """Uniform numbers of the result's shape, drawn in the graph."""
    assert call.run is not None
    attrs = {"shape": call.shape, "seed": call.stream(), "dtype": DType.F32, "low": 0.0, "high": 1.0}
    return call.one("random_uniform", [call.run()], **attrs)


@aten("bernoulli.p", "bernoulli.default")
def _bernoulli(call: AtenCall) -> Value:
    if call.overload == "p":
        p = call.number("p")
        if call.run is not None:
            return call.cast(call.one("lt", [_uniform_here(call), call.scalar(p, DType.F32)]), call.out)
        return _drawn(call, lambda t: t.bernoulli_(p))
    x = call.value()
    uniform = call.draw(_empty(torch.float64, lambda t: t.uniform_()), x.shape, DType.F64)
    return call.cast(call.one("lt", [uniform, call.cast(x, DType.F64)]), call.out)


@aten("rand", "rand_like")
def _rand(call: AtenCall) -> Value:
    return _drawn(call, lambda t: t.uniform_())


@aten("randn", "randn_like", "normal_functional")
def _randn(call: AtenCall) -> Value:
    mean, std = (call.number(n, d) if n in call.given else d for n, d in (("mean", 0.0), ("std", 1.0)))
    return _drawn(call, lambda t: t.normal_(mean, std))


@aten("randint", "randint_like")
def _randint(call: AtenCall) -> Value:
    low, high = (call.integer("low") if "low" in call.given else 0), call.integer("high")
    return _drawn(call, lambda t: t.random_(low, high))


@aten("uniform")
def _uniform(call: AtenCall) -> Value:
    low, high = call.number("from"), call.number("to", 1.0)
    return _drawn(call, lambda t: t.uniform_(low, high))


@aten("exponential", "geometric", "cauchy", "log_normal")
def _distributed(call: AtenCall) -> Value:
    numbers = [call.number(a.name) for a in call.target._schema.arguments[1:] if a.name != "generator"]
    name = f"{call.name}_"
    return _drawn(call, lambda t: getattr(t, name)(*numbers))


@aten("randperm")
def _randperm(call: AtenCall) -> Value:
    return call.draw(lambda shape: torch.randperm(shape[0]), call.shape, DType.I64)


@aten("rrelu", "rrelu_with_noise", "rrelu_with_noise_functional")
def _rrelu(call: AtenCall) -> Value | list[Value]:
    """In training a slope is drawn for each element that is not positive; else it is the mean of both bounds."""
    x, low, high = call.value(), call.number("lower", 1 / 8), call.number("upper", 1 / 3)
    if not call.flag("training"):
        y = call.one("leaky_relu", [x], alpha=(low + high) / 2)
        return [y, call.value("noise")] if call.name.endswith("functional") else y
    raise call.unsupported("in training it draws a slope for each element that is not positive, which is not supported")
