"""Recurrent layers whose attributes are not the usual ones, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.importers.models import model, node, port

from mapsto.devices.cpu.workers import Workers
from mapsto.errors import MapstoError, ModelError, UnsupportedError
from mapsto.importers.onnx import load
from mapsto.ops.interpret import run_graph
from mapsto.session.compile import build, prepared

onnxruntime = pytest.importorskip("onnxruntime")

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
BATCH, INPUTS, HIDDEN = 2, 3, 5
# (op, direction, attributes); alphas and betas of all functions that have them, as ONNX Runtime's defaults are others
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("LSTM", "forward", {"activations": ["HardSigmoid", "Softsign", "Relu"]}),
    ("LSTM", "forward", {
        "activations": ["HardSigmoid", "ScaledTanh", "Tanh"], "activation_alpha": [0.3, 0.7],
        "activation_beta": [0.4, 0.9],
    }),
    ("LSTM", "bidirectional", {"activations": ["Sigmoid", "Tanh", "Tanh", "HardSigmoid", "Relu", "Softsign"]}),
    ("LSTM", "reverse", {"clip": 0.3}),
    ("LSTM", "forward", {"input_forget": 1}),
    *(("GRU", "reverse", {"clip": 0.4, "linear_before_reset": k}) for k in (0, 1)),
    *(("GRU", "bidirectional", {"activations": ["HardSigmoid", "Softsign", "Sigmoid", "Relu"],
                                "linear_before_reset": k}) for k in (0, 1)),
    ("RNN", "forward", {"clip": 0.4}),
    *(("RNN", "forward", {"activations": [f], "activation_alpha": [0.4], "activation_beta": [0.3]}) for f in (
        "Affine", "Elu", "HardSigmoid", "LeakyRelu", "Softplus", "Softsign", "ThresholdedRelu", "ScaledTanh", "Sigmoid",
    )),
]  # fmt: skip


def layer(op: str, direction: str, attributes: dict[str, Any], steps: int) -> tuple[Any, dict[str, np.ndarray]]:
    """A model of one layer, with peepholes where it may have them."""
    count, gates, rng = 2 if direction == "bidirectional" else 1, GATES[op], np.random.default_rng(1)
    shapes = {
        "x": (steps, BATCH, INPUTS), "w": (count, gates * HIDDEN, INPUTS), "r": (count, gates * HIDDEN, HIDDEN),
        "b": (count, 2 * gates * HIDDEN), "h0": (count, BATCH, HIDDEN),
    }  # fmt: skip
    if op == "LSTM":
        shapes |= {"c0": shapes["h0"], "p": (count, 3 * HIDDEN)}
    arrays = {name: (0.6 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    arrays["x"] *= 2
    names = ["x", "w", "r", "b", "", *list(shapes)[4:]]
    results = ["y", "h", "c"][: 3 if op == "LSTM" else 2]
    made = model(
        [node(op, names, results, direction=direction, hidden_size=HIDDEN, **attributes)],
        [port(name, shape) for name, shape in shapes.items()], results, opset=14,
    )  # fmt: skip
    return made, arrays


def by_onnxruntime(made: Any, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    for output in copy.graph.output:
        output.CopyFrom(helper.make_tensor_value_info(output.name, onnx.TensorProto.FLOAT, None))
    return onnxruntime.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(("op", "direction", "attributes"), CASES)
def test_the_references(op: str, direction: str, attributes: dict[str, Any], steps: int) -> None:
    made, feeds = layer(op, direction, attributes, steps)
    found = run_graph(prepared(load(made), None), feeds).values()
    for ours, theirs in zip(found, by_onnxruntime(made, feeds), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("steps", [1, 4])
def test_native_code(steps: int, workers: Workers) -> None:
    """All cases as one graph."""
    nodes, ports, feeds, expected = [], [], {}, []
    for k, case in enumerate(CASES):
        made, arrays = layer(*case, steps)
        (own,) = made.graph.node
        own.input[:] = [f"{name}_{k}" if name else "" for name in own.input]
        own.output[:] = [f"{name}_{k}" for name in own.output]
        nodes.append(own)
        ports += [port(f"{name}_{k}", array.shape) for name, array in arrays.items()]
        feeds |= {f"{name}_{k}": array for name, array in arrays.items()}
        expected += by_onnxruntime(layer(*case, steps)[0], arrays)
    made = model(nodes, ports, [name for own in nodes for name in own.output], opset=14)
    found = build(prepared(load(made), None), workers, 2, None).run(feeds).values()
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


def test_what_no_layer_has_is_refused() -> None:
    for attributes, kind, words in (
        ({"activations": ["Sigmoid", "Tanh", "Cube"]}, UnsupportedError, "activation 'cube' is not known; those are"),
        ({"activations": ["Sigmoid"]}, ModelError, "1 activations, not 3"),
        ({"clip": -1.0}, ModelError, "clip=-1.0 is no bound"),
    ):
        with pytest.raises(kind, match=words):
            load(layer("LSTM", "forward", attributes, 2)[0])


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_one_step_of_weights_with_an_open_extent(op: str, workers: Workers) -> None:
    """How wide the weights are is checked by a run; code is made as if they were, as the input says it."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    rng = np.random.default_rng(4)
    feeds = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in {"x": (1, 3, 2), "w": (1, gates * 4, 2), "r": (1, gates * 4, 4)}.items()
    }
    ports = {"x": [1, 3, 2], "w": [1, gates * 4, "d"], "r": [1, gates * 4, 4]}
    made = model([node(op, ["x", "w", "r"], ["y", "h"], hidden_size=4)], ports, ["y", "h"], opset=14)
    exe = build(prepared(made, None), workers, 1, None)
    for found, expected in zip(exe.run(feeds).values(), by_onnxruntime(made, feeds), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(MapstoError, match="weights should have the shape"):
        exe.run({**feeds, "w": feeds["w"][..., :1]})
