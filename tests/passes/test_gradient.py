"""Gradients of whole graphs against finite differences."""

from __future__ import annotations

import numpy as np
import pytest

import mapsto.ops  # noqa: F401  (registers the ops)
from mapsto.errors import ShapeError, UnsupportedError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ir.graph import Graph
from mapsto.ops import composite
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.ops.verify import verify_graph
from mapsto.passes import gradient, run_passes

Arrays = dict[str, np.ndarray]
PARAMETERS = ("w1", "b1", "w2", "b2")


def perceptron(rows: object = 5, dtype: DType = DType.F32) -> Graph:
    """Two layers with ReLU, and the mean cross-entropy of a softmax with one-hot targets."""
    generator = np.random.default_rng(0)
    b = Builder("perceptron")
    x = b.input("x", dtype, (rows, 4))  # type: ignore[arg-type]
    target = b.input("target", dtype, (rows, 3))  # type: ignore[arg-type]
    shapes = {"w1": (4, 6), "b1": (6,), "w2": (6, 3), "b2": (3,)}
    p = {name: b.constant(generator.standard_normal(shape), name, dtype) for name, shape in shapes.items()}
    with b.source("layer1"):
        hidden = b.one("relu", [b.one("add", [b.one("matmul", [x, p["w1"]]), p["b1"]])])
    with b.source("layer2"):
        scores = b.one("add", [b.one("matmul", [hidden, p["w2"]]), p["b2"]])
    with b.source("loss"):
        logs = composite.log_softmax(b, scores, 1)
        each = b.one("reduce", [b.one("mul", [logs, target])], kind="sum", axes=(1,), keepdims=False)
        loss = b.one("neg", [b.one("reduce", [each], kind="mean", axes=(0,), keepdims=False)])
    return b.finish([loss], names=["loss"])


def data(dtype: type = np.float32, rows: int = 5) -> Arrays:
    generator = np.random.default_rng(1)
    classes = generator.integers(0, 3, rows)
    return {"x": generator.standard_normal((rows, 4)).astype(dtype), "target": np.eye(3, dtype=dtype)[classes]}


def difference(graph: Graph, feeds: Arrays, name: str, step: float = 1e-6) -> np.ndarray:
    """Central differences of the loss, element by element."""
    result = np.zeros_like(feeds[name])
    for at in np.ndindex(*result.shape):
        losses = []
        for sign in (1, -1):
            moved = feeds[name].copy()
            moved[at] += sign * step
            losses.append(float(run_graph(graph, {**feeds, name: moved})["loss"]))
        result[at] = (losses[0] - losses[1]) / (2 * step)
    return result


@pytest.mark.parametrize("rows", [5, sym("rows")], ids=["fixed", "open"])
def test_the_perceptron_has_the_gradients_of_finite_differences(rows: object) -> None:
    model = perceptron(rows, DType.F64)
    graph = run_passes(gradient(model, "loss", [*PARAMETERS, "x"]), on_pass=lambda name, g: verify_graph(g))
    assert [value.name for value in graph.inputs] == ["x", "target", *PARAMETERS]
    assert graph.outputs == ("loss", *(f"{name}.gradient" for name in (*PARAMETERS, "x")))
    feeds = {**data(np.float64), **{name: model.constants[name] for name in PARAMETERS}}
    found = run_graph(graph, feeds)
    for name in (*PARAMETERS, "x"):
        np.testing.assert_allclose(found[f"{name}.gradient"], difference(graph, feeds, name), rtol=1e-5, atol=1e-8)


def test_a_value_read_twice_gets_the_sum() -> None:
    b = Builder("g")
    x = b.input("x", DType.F64, (3,))
    with b.source("s"):
        y = b.one("mul", [x, b.one("add", [x, b.one("exp", [x])])])
        loss = b.one("reduce", [y], kind="sum", axes=(0,), keepdims=False)
    graph = gradient(b.finish([loss], names=["loss"]), "loss", ["x"])
    feeds = {"x": np.array([0.3, -1.0, 2.0])}
    x_ = feeds["x"]
    np.testing.assert_allclose(run_graph(graph, feeds)["x.gradient"], 2 * x_ + np.exp(x_) + x_ * np.exp(x_), rtol=1e-12)


def test_what_the_loss_does_not_depend_on_has_a_gradient_of_zero() -> None:
    b = Builder("g")
    x, y = b.input("x", DType.F32, (2,)), b.input("y", DType.F32, (3,))
    with b.source("s"):
        loss = b.one("reduce", [x], kind="sum", axes=(0,), keepdims=False)
        other = b.one("neg", [y])
    graph = gradient(b.finish([loss, other], names=["loss", "other"]), "loss", ["y"])
    found = run_graph(graph, {"x": np.ones(2, np.float32), "y": np.ones(3, np.float32)})
    np.testing.assert_array_equal(found["y.gradient"], np.zeros(3))


def test_wrong_questions_are_refused() -> None:
    model = perceptron()
    with pytest.raises(ShapeError, match="no input or constant named w9"):
        gradient(model, "loss", ["w9"])
    with pytest.raises(ShapeError, match="no value named 'gain'"):
        gradient(model, "gain", ["x"])
    b = Builder("g")
    x, go = b.input("x", DType.F32, (1,)), b.input("go", DType.BOOL, ())
    body = Builder("body", b)
    state = body.input("state", DType.F32, (1,))
    again = body.one("reshape", [body.one("lt", [state, body.constant(np.float32(9))])], shape=())
    with b.source("doubling"):
        graph = body.finish([again, body.one("add", [state, state])])
        (value,) = b.add("loop", [go, x], {"sizes": (), "below": (-1,)}, [graph])
    with pytest.raises(UnsupportedError, match="doubling.*rounds only a run counts has none; fix the sizes"):
        gradient(b.finish([value], names=["loss"]), "loss", ["x"])


@pytest.mark.parametrize("op", ["matmul", "conv"])
def test_narrow_operands_of_a_wide_product_have_narrow_gradients(op: str) -> None:
    """The same as those of operands that a node of its own widens."""

    def graph(typed: bool) -> Graph:
        b, shapes = Builder("g"), {"matmul": ((4, 6), (6, 3)), "conv": ((1, 2, 5, 5), (3, 2, 3, 3))}[op]
        values = [b.input(name, DType.BF16, shape) for name, shape in zip("xw", shapes, strict=True)]
        attrs = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "group": 1} if op == "conv" else {}
        if typed:
            y = b.one(op, values, **attrs, result=DType.F32)
        else:
            y = b.one(op, [b.one("cast", [v], to=DType.F32) for v in values], **attrs)
        loss = b.one("reduce", [b.one("mul", [y, y])], kind="sum", axes=tuple(range(y.rank)), keepdims=False)
        return b.finish([loss], names=["loss"])

    rng = np.random.default_rng(2)
    ours, theirs = (gradient(graph(typed), "loss", ("x", "w")) for typed in (True, False))
    feeds = {v.name: rng.standard_normal(v.shape).astype(v.dtype.numpy) for v in ours.inputs}  # type: ignore[arg-type]
    found, expected = (list(run_graph(g, feeds).values()) for g in (ours, theirs))
    for a, e in zip(found, expected, strict=True):
        assert a.dtype == e.dtype
        np.testing.assert_array_equal(a, e)
