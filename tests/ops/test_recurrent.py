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
        ("rnn", [{}, {"activations": (("relu", 0.0, 0.0),)}]),
    )
    for extra in extras
    for direction in ("forward", "reverse", "bidirectional")
    for dropped in ((), ("b", "lengths", "h0", "c0", "p"), ("p",))
    if not (name != "lstm" and dropped == ("p",))
]  # fmt: skip


def _attrs(name, direction, extra):
    theirs = {"hidden_size": HIDDEN, "direction": direction}
    if name == "gru":
        theirs["linear_before_reset"] = int(extra["linear_before_reset"])
    if name == "rnn":
        theirs["activations"] = ["Relu" if extra else "Tanh"] * (2 if direction == "bidirectional" else 1)
    return theirs


def _projected(name, arrays, extra):
    """x W + Wb + Rb, and Rb of a product that is reset."""
    directions, rows = arrays["w"].shape[:2]
    wide = {key: array.astype(np.float64) for key, array in arrays.items()}
    start = np.zeros((directions, rows))
    own = None
    if "b" in wide:
        start = wide["b"].reshape(directions, 2, rows).sum(1)
        if extra.get("linear_before_reset"):
            own, start[:, -HIDDEN:] = arrays["b"][:, -HIDDEN:], wide["b"][:, rows - HIDDEN : rows]
    x = wide["x"] @ wide["w"].reshape(directions * rows, -1).T + start.reshape(-1)
    return x.astype(np.float32), own, start.astype(np.float32)


@pytest.mark.parametrize("name,direction,dropped,extra", CASES)
def test_recurrence(name, direction, dropped, extra):
    directions = 2 if direction == "bidirectional" else 1
    arrays = {k: v for k, v in _operands(name, directions).items() if k not in dropped}
    order = ["x", "w", "r", "b", "lengths", *STATES[name], *(["p"] if name == "lstm" else [])]
    x, own, _ = _projected(name, arrays, extra)
    fifth = arrays.get("c0") if name == "lstm" else own
    ours = [x, arrays["r"], arrays.get("lengths"), arrays.get("h0"), fifth, arrays.get("p") if name == "lstm" else None]
    attrs = {"direction": direction, **extra}
    node, _ = make_node(name, ours, attrs)
    shapes = [tuple(int(d) for d in v.shape) for v in node.outputs]
    found = reference(name, ours, attrs, shapes)
    expected = _run_onnx(name.upper(), arrays, order, _attrs(name, direction, extra))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name,extra", [("lstm", {}), ("gru", {"linear_before_reset": True}), ("rnn", {})])
def test_one_step_takes_the_weights_of_its_input(name, extra):
    """The same as with the product of before."""
    arrays = _operands(name, 2)
    arrays = {**arrays, "x": arrays["x"][:1]}
    x, own, start = _projected(name, arrays, extra)
    states = [None, arrays["h0"], arrays["c0"] if name == "lstm" else own, arrays["p"] if name == "lstm" else None]
    attrs = {"direction": "bidirectional", **extra}
    ours = [arrays["x"], arrays["r"], *states, arrays["w"], start]
    node, _ = make_node(name, ours, attrs)
    shapes = [tuple(int(d) for d in v.shape) for v in node.outputs]
    wanted = reference(name, [x, arrays["r"], *states], attrs, shapes)
    for a, b in zip(reference(name, ours, attrs, shapes), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name,steps,extra", [("lstm", 2, {}), ("gru", 1, {"linear_before_reset": False})], ids=["steps", "reset before"]
)
def test_weights_of_the_input_are_for_one_step_alone(name, steps, extra):
    arrays = _operands(name, 1)
    ours = [arrays["x"][:steps], arrays["r"], None, None, None, None, arrays["w"]]
    with pytest.raises(ShapeError, match=r"should have the shape \[1, 3, 4\]|takes no weights of x"):
        make_node(name, ours, {"direction": "forward", **extra})


def test_weights_of_another_size():
    arrays = _operands("lstm", 1)
    x, _, _ = _projected("lstm", arrays, {})
    with pytest.raises(ShapeError, match=r"input 0 should have the shape \[5, 3, 20\]"):
        make_node("lstm", [x, arrays["r"][:, :20, :5]], {"direction": "forward"})
