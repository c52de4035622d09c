"""Rows of random numbers: RandomNormal, RandomUniform, Bernoulli, Multinomial, and Dropout, which trains with them.

Element i of a node's numbers is a function of the node's seed and of i (`ops/sources.py`), so they are the same however
many threads make them, and in every run. A node without a seed takes one from its name when it is compiled; the graph's
text says which.
"""

from __future__ import annotations

import zlib

import numpy as np

from mapsto.errors import ModelError
from mapsto.importers.onnx.learning import Learning
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.arranging import reshape
from mapsto.ops.composite import cast, reduce


def _seed(call: NodeCall) -> int:
    if not call.has_attribute("seed"):
        return zlib.crc32(call.name.encode())
    if call.op == "Dropout":
        return call.integer("seed") & 0xFFFFFFFF
    return int(np.float32(call.number("seed")).view(np.uint32))


def _random(call: NodeCall, shape: tuple[Dim, ...], dtype: DType) -> Value:
    if call.op.startswith("RandomNormal"):
        attrs = {"mean": call.number("mean", 0.0), "scale": call.number("scale", 1.0)}
        return call.builder.one("random_normal", [], shape=shape, seed=_seed(call), dtype=dtype, **attrs)
    return _uniform(call, shape, dtype, call.number("low", 0.0), call.number("high", 1.0))


def _uniform(call: NodeCall, shape: tuple[Dim, ...], dtype: DType, low: float = 0.0, high: float = 1.0) -> Value:
    return call.builder.one("random_uniform", [], shape=shape, seed=_seed(call), dtype=dtype, low=low, high=high)


@row("RandomNormal", "RandomUniform")
def _random_of_shape(call: NodeCall) -> Result:
    shape = call.integers("shape")
    if shape is None or any(d < 0 for d in shape):
        raise ModelError("attribute shape is missing or negative")
    return _random(call, tuple(shape), call.dtype("dtype", DType.F32))


@row("RandomNormalLike", "RandomUniformLike")
def _random_like(call: NodeCall) -> Result:
    x = call.input()
    return _random(call, x.shape, call.dtype("dtype", x.dtype if x.dtype.is_float else DType.F32))


@row("Bernoulli")
def _bernoulli(call: NodeCall) -> Result:
    """1 with the probability that the input says: a uniform number lies below it."""
    b, x = call.builder, call.input()
    wide = cast(b, x, DType.F32) if x.dtype.is_half else x
    draw = _uniform(call, x.shape, wide.dtype)
    return b.one("cast", [b.one("lt", [draw, wide])], to=call.dtype("dtype", x.dtype))


@row("Multinomial")
def _multinomial(call: NodeCall) -> Result:
    """Classes drawn for each row of x[batch, classes], logarithms of probabilities that need not sum to one: the first
    class at which the sum of the probabilities so far exceeds a uniform part of their total.
    """
    b, x, count = call.builder, call.input(), call.integer("sample_size", 1)
    if x.rank != 2 or count < 1:
        raise call.wrong(f"{x} and sample_size={count}: it takes a matrix and at least one sample")
    batch, classes = x.shape
    b.require(classes - 1, "there is no class to draw from")
    wide = cast(b, x, DType.F64)
    weights = b.one("exp", [b.one("sub", [wide, reduce(b, wide, "max", [1])])])
    sums = b.one("cumsum", [weights], axis=1, exclusive=False, reverse=False)
    total = reduce(b, sums, "max", [1])
    part = b.one("mul", [_uniform(call, (batch, count), DType.F64), total])

    def below(limit: Value, samples: Dim) -> Value:
        """How many sums are less than or equal to each limit[batch, samples]."""
        passed = b.one("le", [reshape(b, sums, (batch, 1, classes)), reshape(b, limit, (batch, samples, 1))])
        return b.one("reduce", [cast(b, passed, DType.I64)], kind="sum", axes=(2,), keepdims=False)

    short = b.one("lt", [sums, total])  # of the whole, which the class that completes it reaches
    last = b.one("reduce", [cast(b, short, DType.I64)], kind="sum", axes=(1,), keepdims=True)
    found = b.one("min", [below(part, count), last])
    return cast(b, found, call.dtype("dtype", DType.I32))


@row("Dropout")
def _dropout(call: NodeCall) -> Result:
    """Training: each element is kept with the probability 1 - ratio and divided by it, else 0. Else all is kept."""
    b, x, learning = call.builder, call.input(), call.translator.learning
    if learning is not None:
        return _dropout_learnt(call, learning)
    training = _trains(call)
    if training is False:
        kept = b.one("full", [], shape=x.shape, value=True, dtype=DType.BOOL) if call.wants(1) else None
        y = x
    else:
        ratio = _ratio(call)
        kept = b.one("ge", [_uniform(call, x.shape, DType.F32), ratio])
        if training is not True:
            kept = b.one("or", [kept, b.one("not", [training])])
            ratio = b.one("select", [training, ratio, call.scalar(0.0, ratio)])
        wide = cast(b, x, DType.F32) if x.dtype.is_half else x
        scale = b.one("sub", [call.scalar(1.0, ratio), ratio])
        scaled = b.one("div", [wide, cast(b, scale, wide.dtype)])
        y = cast(b, b.one("select", [kept, scaled, call.scalar(0.0, scaled)]), x.dtype)
    mask = kept if call.opset >= 10 or kept is None else cast(b, kept, x.dtype)
    return [y, mask]


def _dropout_learnt(call: NodeCall, learning: Learning) -> Result:
    """Of a model that is to be trained: in training it drops, whatever the node says, another choice in each run."""
    ratio = call.number("ratio", 0.5) if call.opset < 12 else 0.5
    if call.opset >= 12 and call.has(1):
        ratio = float(call.static_scalar(1, "the ratio"))
    if not 0 <= ratio < 1:
        raise call.wrong(f"its ratio {ratio} is outside [0, 1)")
    b, x = call.builder, call.input()
    if not learning.is_training or ratio == 0.0:
        y, kept = x, b.one("full", [], shape=x.shape, value=True, dtype=DType.BOOL)
    else:
        y, kept = composite.dropout(b, x, ratio, learning.run(b), _seed(call))
    return [y, kept if call.opset >= 10 else cast(b, kept, x.dtype)]


def _trains(call: NodeCall) -> bool | Value:
    """Whether a run drops elements; a value where only it knows. Opsets 7 to 11 know no training."""
    if call.opset < 12:
        return call.opset < 7 and not call.integer("is_test", 0) and call.number("ratio", 0.5) != 0.0
    ratio = call.array(1) if call.has(1) else np.asarray(0.5)
    if not call.has(2) or (ratio is not None and ratio.size == 1 and float(ratio.reshape(-1)[0]) == 0.0):
        return False
    training = call.array(2)
    if training is None:
        return reshape(call.builder, call.input(2), ())
    return bool(training.reshape(-1)[0])


def _ratio(call: NodeCall) -> Value:
    """The probability of dropping an element, as an f32 scalar."""
    b = call.builder
    if call.opset >= 12 and call.has(1):
        return cast(b, reshape(b, call.input(1), ()), DType.F32)
    return b.constant(np.float32(call.number("ratio", 0.5) if call.opset < 12 else 0.5))
