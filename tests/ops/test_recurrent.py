"""lstm, gru, rnn against ONNX Runtime: another author's idea of the gates."""

import numpy as np
import pytest
from tests.ops.support import make_node, reference

from mapsto.errors import ShapeError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

STEPS, BATCH, WIDTH, HIDDEN = 5, 3, 4, 6
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
STATES = {"lstm": ("h0", "c0"), "gru": ("h0",), "rnn": ("h0",)}


def _operands(name, directions, seed=0):
    rng = np.random.default_rng(seed)
    g = GATES[name]
    found = {
        "x": (STEPS, BATCH, WIDTH), "w": (directions, g * HIDDEN, WIDTH), "r": (directions, g * HIDDEN, HIDDEN),
        "b": (directions, 2 * g * HIDDEN),
        "h0": (directions, BATCH, HIDDEN), "c0": (directions, BATCH, HIDDEN), "p": (directions, 3 * HIDDEN),
    }  # fmt: skip
    arrays = {k: rng.normal(0, 0.7, s).astype(np.float32) for k, s in found.items()}
    return {**arrays, "lengths": np.array([5, 2, 4], np.int32)}


def _run_onnx(op, arrays, order, attrs):
    present = [k for k in order if k in arrays]
    kinds = {np.dtype(np.float32): onnx.TensorProto.FLOAT, np.dtype(np.int32): onnx.TensorProto.INT32}
    inputs = [onnx.helper.make_tensor_value_info(k, kinds[arrays[k].dtype], arrays[k].shape) for k in present]
    results = ["y", "y_h", "y_c"][: 3 if op == "LSTM" else 2]
    node = onnx.helper.make_node(op, [k if k in arrays else "" for k in order], results, **attrs)
    outputs = [onnx.helper.make_tensor_value_info(r, onnx.TensorProto.FLOAT, None) for r in results]
    graph = onnx.helper.make_graph([node], "g", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {k: arrays[k] for k in present})


CASES = [
    (name, direction, dropped, extra)
    for name, extras in (
        ("lstm", [{}]),
        ("gru", [{"linear_before_reset": False}, {"linear_before_reset": True}]),
        ("rnn", [{"activation": "tanh"}, {"activation": "relu"}]),
    )
    for extra in extras
    for direction in ("forward", "reverse", "bidirectional")
    for dropped in ((), ("b", "lengths", "h0", "c0", "p"), ("p",))
    if not (name != "lstm" and dropped == ("p",))
]  # fmt: skip


@pytest.mark.parametrize("name,direction,dropped,extra", CASES)
def test_recurrence(name, direction, dropped, extra):
    directions = 2 if direction == "bidirectional" else 1
    arrays = {k: v for k, v in _operands(name, directions).items() if k not in dropped}
    order = ["x", "w", "r", "b", "lengths", *STATES[name], *(["p"] if name == "lstm" else [])]
    ours = [arrays.get(k) for k in order]
    attrs = {"hidden": HIDDEN, "direction": direction, **extra}
    node, _ = make_node(name, ours, attrs)
    shapes = [tuple(int(d) for d in v.shape) for v in node.outputs]
    found = reference(name, ours, attrs, shapes)

    theirs = {"hidden_size": HIDDEN, "direction": direction}
    if name == "gru":
        theirs["linear_before_reset"] = int(extra["linear_before_reset"])
    if name == "rnn":
        theirs["activations"] = [extra["activation"].capitalize()] * directions
    expected = _run_onnx(name.upper(), arrays, order, theirs)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def test_weights_of_another_size():
    arrays = _operands("lstm", 1)
    with pytest.raises(ShapeError, match=r"input 1 should have the shape \[1, 20, 4\]"):
        make_node("lstm", [arrays["x"], arrays["w"], arrays["r"]], {"hidden": 5, "direction": "forward"})
