"""Small graphs that the planner's tests share."""

from __future__ import annotations

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Graph, Value
from mapsto.ops import composite
from mapsto.ops.builder import Builder


def varied(seed: int, *shape: int) -> np.ndarray:
    """Random weights whose sums of products keep the size of what they multiply; the first axis counts results."""
    scale = np.prod(shape[1:], dtype=np.float64) ** -0.5
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def conv(b: Builder, x: Value, channels: int, kernel: int = 3, stride: int = 1, bias: bool = False) -> Value:
    seed = len(b.nodes)
    inputs = [x, b.constant(varied(seed, channels, int(x.shape[1]), kernel, kernel), "w")]  # type: ignore[arg-type]
    if bias:
        inputs.append(b.constant(varied(seed + 100, channels), "bias"))
    pad = kernel // 2
    return b.one("conv", inputs, strides=(stride, stride), pads=(pad,) * 4, dilations=(1, 1), group=1)


def silu(b: Builder, x: Value) -> Value:
    return b.one("mul", [x, b.one("sigmoid", [x])])


def small_cnn(height: Dim = 32, width: Dim = 32) -> Graph:
    """Two convolutions, a residual, a concat, a 1x1 convolution, a mean, a matrix product, a softmax. Every channel and
    tap shows in the result (tests/test_models_can_fail.py).
    """
    b = Builder("small_cnn")
    x = b.input("x", DType.F32, (1, 3, height, width))
    y = silu(b, conv(b, x, 16, stride=2, bias=True))
    z = b.one("add", [b.one("relu", [conv(b, y, 16)]), y])
    joined = conv(b, b.one("concat", [y, z], axis=1), 16, 1)
    mean = b.one("reduce", [joined], kind="mean", axes=(2, 3), keepdims=False)
    weights = b.constant(varied(7, 10, 16).T * 3, "dense")  # a mean over the image is small
    return b.finish([composite.softmax(b, b.one("matmul", [mean, weights]), -1)])


def layer_norm_rows(channels: int = 48) -> Graph:
    """A layer normalisation over the channels of [1, C, T], spelt out around two transposes."""
    b = Builder("channel_norm")
    x = b.input("x", DType.F32, (1, channels, 40))
    t = b.one("transpose", [x], perm=(0, 2, 1))
    scale = b.constant(np.linspace(0.5, 1.5, channels, dtype=np.float32), "scale")
    bias = b.constant(np.linspace(-1, 1, channels, dtype=np.float32), "bias")
    y = composite.layer_norm(b, t, scale, bias, -1, 1e-5)
    return b.finish([b.one("transpose", [y], perm=(0, 2, 1))])
