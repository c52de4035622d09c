"""Shuffles of channels before depthwise convolutions: taken to the one behind, where that reads through them."""

from __future__ import annotations

import numpy as np
import pytest

import mapsto.ops  # noqa: F401  (registers the ops)
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import ChannelShuffles, DeadCode


def varied(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def conv(b: Builder, x: Value, weights: Value, group: int, pad: int = 0, stride: int = 1, bias: bool = False) -> Value:
    inputs = [x, weights, b.constant(varied(7, int(weights.shape[0])), "v")] if bias else [x, weights]  # type: ignore[call-overload]
    return b.one("conv", inputs, strides=(stride, stride), pads=(pad,) * 4, dilations=(1, 1), group=group)


def shuffled_window(
    b: Builder, x: Value, outer: int, group: int, stride: int = 1, bias: bool = False, kernel: int = 1
) -> Value:
    n, channels, *space = x.shape
    assert isinstance(channels, int)
    apart = b.one("reshape", [x], shape=(n, outer, channels // outer, *space))
    turned = b.one("transpose", [apart], perm=(0, 2, 1, 3, 4))
    y = b.one("reshape", [turned], shape=(n, channels, *space))
    y = conv(b, y, b.constant(varied(1, channels, 1, 3, 3), "w"), channels, 1, stride, bias)
    last = b.constant(varied(2, 6, channels // group, kernel, kernel), "u")
    return conv(b, y, last, group, kernel // 2)


def graph_of(channels: int, outer: int, group: int, stride: int = 1, bias: bool = False, kernel: int = 1) -> Graph:
    b = Builder("g")
    x = b.input("x", DType.F32, (2, channels, 5, 6))
    return b.finish([shuffled_window(b, x, outer, group, stride, bias, kernel)], names=["y"])


def is_moved(graph: Graph) -> bool:
    """Whether the depthwise convolution reads the input itself; the results are the same."""
    made = DeadCode()(ChannelShuffles()(graph))
    x = varied(3, *graph.inputs[0].shape)  # type: ignore[arg-type]
    expected, found = (run_graph(g, {"x": x}, wide=True)["y"] for g in (graph, made))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    return made.nodes[0].op == "conv"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "outer", "group"), [(12, 2, 1), (12, 4, 1), (12, 3, 2), (24, 4, 3), (12, 4, 3)])
def test_windows_come_first_where_the_reader_steps_evenly(
    channels: int, outer: int, group: int, stride: int, bias: bool
) -> None:
    assert is_moved(graph_of(channels, outer, group, stride, bias))


def test_channels_of_a_group_that_begin_amid_a_row_are_left() -> None:
    assert not is_moved(graph_of(12, 4, 2))


def test_a_reader_with_windows_of_its_own_is_left() -> None:
    assert not is_moved(graph_of(12, 2, 1, kernel=3))


def test_what_somebody_else_reads_too_is_left() -> None:
    b = Builder("g")
    x = b.input("x", DType.F32, (2, 12, 5, 6))
    y = shuffled_window(b, x, 2, 1)
    window = next(v for node in b.nodes if node.op == "conv" for v in node.outputs)
    assert not is_moved(b.finish([y, window], names=["y", "window"]))
