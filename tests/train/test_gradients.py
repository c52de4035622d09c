"""Gradients of whole networks, natively, beside the reference in float64: layers of many kinds, open sizes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

import mapsto
from mapsto.errors import UnsupportedError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, evaluate, sym
from mapsto.ir.graph import Graph, Value
from mapsto.ops import composite
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.ops.recurrent import GATES
from mapsto.ops.registry import known_ops, op
from mapsto.passes import gradient

F32 = DType.F32
SIZES = {"n": 3, "t": 6}


@dataclass
class Net:
    """A graph in the making, with weights as inputs."""

    builder: Builder
    weights: list[str]

    def weight(self, *shape: Dim) -> Value:
        value = self.builder.input(f"w{len(self.weights)}", F32, shape)
        self.weights.append(value.name)
        return value

    def one(self, op: str, *inputs: Value, **attrs: object) -> Value:
        return self.builder.one(op, list(inputs), **attrs)

    def conv(self, x: Value, channels: int, kernel: int, stride: int = 1, dilation: int = 1, group: int = 1) -> Value:
        w = self.weight(channels, int(x.shape[1]) // group, kernel, kernel)  # type: ignore[arg-type]
        attrs = {"strides": (stride,) * 2, "dilations": (dilation,) * 2, "pads": (1, 0, 1, 1), "group": group}
        return self.one("conv", x, w, self.weight(channels), **attrs)


def images(net: Net, n: Dim, channels: int, side: int = 9) -> Value:
    return net.builder.input("x", F32, (n, channels, side, side))


def convolutions(net: Net, n: Dim, t: Dim) -> Value:
    """Strided, dilated, pooled."""
    y = net.one("relu", net.conv(images(net, n, 3), 16, 3, stride=2))
    y = net.one("max_pool", y, kernel=(2, 2), strides=(1, 1), pads=(0,) * 4, dilations=(1, 1))
    return net.one("tanh", net.conv(y, 17, 2, dilation=2))


def groups(net: Net, n: Dim, t: Dim) -> Value:
    """Grouped, then one weight a channel, then 1x1."""
    y = net.one("sigmoid", net.conv(images(net, n, 8), 16, 3, group=2))
    y = net.one("softplus", net.conv(y, 16, 3, stride=2, group=16))
    return net.conv(y, 5, 1)


def overlapping_pools(net: Net, n: Dim, t: Dim) -> Value:
    y = net.conv(images(net, n, 4), 8, 3)
    y = net.one("max_pool", y, kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1), dilations=(1, 1))
    return net.one("mul", y, y)


def attention(net: Net, n: Dim, t: Dim) -> Value:
    x = net.builder.input("x", F32, (n, t, 16))
    q, k, v = (net.one("matmul", x, net.weight(16, 8)) for _ in range(3))
    scores = net.one("matmul", q, net.one("transpose", k, perm=(0, 2, 1)))
    mixed = net.one("matmul", composite.softmax(net.builder, scores, -1), v)
    return composite.layer_norm(net.builder, mixed, net.weight(8), net.weight(8), -1, 1e-5)


def gated(net: Net, n: Dim, t: Dim) -> Value:
    """Two layers that multiply each other, by way of a concat and a slice."""
    x = net.builder.input("x", F32, (n, 10))
    both = net.one("concat", net.one("matmul", x, net.weight(10, 6)), net.one("exp", x), axis=1)
    left = net.one("slice", both, starts=(0, 0), steps=(1, 1), shape=(n, 8))
    right = net.one("slice", both, starts=(0, 8), steps=(1, 1), shape=(n, 8))
    return net.one("mul", left, net.one("sigmoid", right))


NETS: list[Callable[[Net, Dim, Dim], Value]] = [convolutions, groups, overlapping_pools, attention, gated]


def gradients(make: Callable[[Net, Dim, Dim], Value], opened: bool) -> Graph:
    net = Net(Builder("g"), [])
    y = make(net, sym("n") if opened else SIZES["n"], sym("t") if opened else SIZES["t"])
    square = net.one("mul", y, y)
    loss = net.one("reduce", square, kind="mean", axes=tuple(range(y.rank)), keepdims=False)
    return gradient(net.builder.finish([loss], names=["loss"]), "loss", [*net.weights, "x"])


@pytest.mark.parametrize("opened", [False, True], ids=["fixed", "open"])
@pytest.mark.parametrize("make", NETS, ids=lambda make: make.__name__)
def test_native_gradients_are_those_of_the_reference(make: Callable[[Net, Dim, Dim], Value], opened: bool) -> None:
    graph = gradients(make, opened)
    rng = np.random.default_rng(7)
    feeds = {
        v.name: (rng.standard_normal([evaluate(d, SIZES) for d in v.shape]) * 0.5).astype(np.float32)
        for v in graph.inputs
    }
    expected = run_graph(graph, feeds, wide=True)
    single, double = (mapsto.compile(graph, threads=threads) for threads in (1, 2))
    double.poison()
    found, again = single.run(feeds), double.run(feeds)
    for name, wide in expected.items():
        np.testing.assert_allclose(found[name], wide, rtol=0, atol=3e-5 * np.abs(wide).max(), err_msg=name)
        assert found[name].tobytes() == again[name].tobytes()
        assert np.abs(wide).max() > 0


# -- random graphs -----------------------------------------------------------------------------------------------------

COUNT = int(os.environ.get("MAPSTO_DIFFERENTIABLE_GRAPHS", "20"))  # all that are told of are 300
_TOGETHER = 10  # graphs that a test compares


@pytest.mark.parametrize("first", range(0, COUNT, _TOGETHER))
def test_random_graphs_have_the_gradients_that_torch_finds(first: int) -> None:
    pytest.importorskip("torch")
    from tests.train.differentiable import random_differentiable

    for number in range(first, min(first + _TOGETHER, COUNT)):
        case = random_differentiable(number)
        exe = mapsto.compile(gradient(case.graph, "loss", list(case.arrays)), threads=1)
        exe.poison()
        found = exe.run(case.arrays)
        rounded = number % 2 == 0 or {"cast", "resize"} & set(case.ops)  # weights of a resize are f32 in any type
        tolerance = 3e-4 if rounded else 1e-9
        scale = max(1.0, *(np.abs(g).max(initial=0.0) for g in case.gradients.values()))
        assert found["loss"] == pytest.approx(case.loss, rel=tolerance, abs=tolerance), number
        for name, expected in case.gradients.items():
            np.testing.assert_allclose(
                found[f"{name}.gradient"], expected, rtol=tolerance, atol=tolerance * scale,
                err_msg=f"graph {number}, {name}: {case.ops}",
            )  # fmt: skip


def test_random_graphs_are_of_every_op_with_a_gradient() -> None:
    pytest.importorskip("torch")
    from tests.train.differentiable import MAKERS, random_differentiable

    seen = {name for number in range(len(MAKERS)) for name in random_differentiable(number).ops}
    others = {"copy", "detach", "variadic", "if", "max_pool_gradient"}  # the last is what a gradient is made of
    assert {name for name in known_ops() if op(name).gradient is not None} - others <= seen


# -- layers over time, and branches ------------------------------------------------------------------------------------

RECURRENT: dict[str, dict[str, object]] = {
    "lstm": {"direction": "forward"},
    "lstm_both_ways": {"direction": "bidirectional", "input_forget": True, "clip": 1.5},
    "gru": {"direction": "reverse", "linear_before_reset": True},
    "gru_of_onnx": {"direction": "bidirectional", "linear_before_reset": False},
    "rnn": {"direction": "forward", "activations": (("relu", 0.0, 0.0),)},
    "rnn_scaled": {"direction": "reverse", "activations": (("scaledtanh", 0.8, 1.2),)},
}
STEPS, BATCH, HIDDEN = 4, 3, 2


def _layer_over_time(case: str, with_lengths: bool) -> tuple[Graph, dict[str, np.ndarray], list[str]]:
    """A recurrent node with all its operands, and a loss of all its results."""
    kind, attrs, rng = case.split("_")[0], RECURRENT[case], np.random.default_rng(0)
    gates, ways = GATES[kind], 2 if attrs["direction"] == "bidirectional" else 1
    shapes: dict[str, tuple[int, ...]] = {
        "x": (STEPS, BATCH, ways * gates * HIDDEN), "r": (ways, gates * HIDDEN, HIDDEN), "h": (ways, BATCH, HIDDEN)
    }  # fmt: skip
    if kind == "gru" and attrs["linear_before_reset"]:
        shapes["bias"] = (ways, HIDDEN)
    if kind == "lstm":
        shapes |= {"c": (ways, BATCH, HIDDEN), "p": (ways, 3 * HIDDEN)}
    b = Builder(case)
    values = {name: b.input(name, DType.F64, shape) for name, shape in shapes.items()}
    feeds = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    lengths = None
    if with_lengths:
        lengths = b.input("lengths", DType.I32, (BATCH,))
        feeds["lengths"] = np.array([4, 0, 2], np.int32)
    operands = [values["x"], values["r"], lengths, values["h"], values.get("c", values.get("bias")), values.get("p")]
    total = None
    for made in b.add(kind, operands, attrs):
        weights = b.constant(rng.uniform(0.5, 1.5, [int(d) for d in made.shape]))
        part = composite.reduce(b, b.one("mul", [made, weights]), "sum", range(made.rank), keepdims=False)
        total = part if total is None else b.one("add", [total, part])
    assert total is not None
    return b.finish([total], names=["loss"]), feeds, list(shapes)


@pytest.mark.parametrize("with_lengths", [False, True], ids=["whole", "lengths"])
@pytest.mark.parametrize("case", RECURRENT)
def test_gradients_of_layers_over_time_are_those_of_finite_differences(case: str, with_lengths: bool) -> None:
    graph, feeds, names = _layer_over_time(case, with_lengths)
    found = run_graph(gradient(graph, "loss", names), feeds)
    assert found["loss"] == pytest.approx(float(run_graph(graph, feeds)["loss"]), rel=1e-12)  # it is the same layer
    for name in names:
        places = [tuple(np.random.default_rng(k).integers(0, feeds[name].shape)) for k in range(8)]
        for place in places:
            losses = []
            for sign in (1, -1):
                moved = feeds[name].copy()
                moved[place] += sign * 1e-6
                losses.append(float(run_graph(graph, {**feeds, name: moved})["loss"]))
            expected = (losses[0] - losses[1]) / 2e-6
            assert found[f"{name}.gradient"][place] == pytest.approx(expected, rel=1e-6, abs=1e-7), (name, place)


def test_a_layer_over_an_open_time_says_what_to_do() -> None:
    b = Builder("open")
    x = b.input("x", F32, (sym("t"), 2, 4))
    made = b.add("rnn", [x, b.input("r", F32, (1, 4, 4))], {"direction": "forward"})
    loss = composite.reduce(b, made[0], "sum", range(4), keepdims=False)
    with pytest.raises(UnsupportedError, match="open number of steps t; fix it by `shapes`"):
        gradient(b.finish([loss], names=["loss"]), "loss", ["r"])


def test_the_gradient_of_a_branch_is_that_of_the_one_that_runs() -> None:
    b = Builder("branches")
    x, w = b.input("x", F32, (3,)), b.input("w", F32, (3,))
    condition = b.input("condition", DType.BOOL, ())
    scaled = b.one("mul", [x, x])
    then, other = (Builder(b.fresh("branch"), b) for _ in range(2))
    thens = [then.one("mul", [scaled, w]), then.one("exp", [then.one("mul", [w, then.constant(np.float32(0.5))])])]
    others = [scaled, other.one("sin", [w])]
    graphs = [then.finish(thens), other.finish(others)]
    first, second = b.add("if", [condition], {}, graphs)
    both = b.one("add", [b.one("mul", [first, second]), w])
    graph = b.finish([composite.reduce(b, both, "sum", [0], keepdims=False)], names=["loss"])
    exe = mapsto.compile(gradient(graph, "loss", ["x", "w"]), threads=1)
    given = {"x": np.array([0.5, -1, 2], np.float32), "w": np.array([1, 2, -0.5], np.float32)}
    x1, w1 = given["x"], given["w"]
    e = np.exp(w1 / 2)
    expected = {
        True: (2 * x1 * w1 * e, x1**2 * e + x1**2 * w1 * e / 2 + 1),
        False: (2 * x1 * np.sin(w1), x1**2 * np.cos(w1) + 1),
    }
    for taken, (dx, dw) in expected.items():
        found = exe.run({**given, "condition": np.array(taken)})
        np.testing.assert_allclose(found["x.gradient"], dx, rtol=1e-5)
        np.testing.assert_allclose(found["w.gradient"], dw, rtol=1e-5)
