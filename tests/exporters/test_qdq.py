"""Models written with a plan's integers: what onnxruntime and we ourselves compute of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from tests.importers.models import model, node

import mapsto
from mapsto.errors import ArgumentError, ModelError

EXAMPLES = Path(__file__).parents[2] / "examples"
RNG = np.random.default_rng(11)


def array(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def network() -> onnx.ModelProto:
    """Convolutions with and without bias and normalisation, one value read by two, a Gemm and a MatMul."""
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"], "conv_1", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"], "relu_1"),
        node("Conv", ["b", "w2"], ["c"], "conv_2", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "g", "s", "m", "v"], ["d"], "norm"),
        node("Conv", ["b", "w3"], ["e"], "conv_3"),
        node("Add", ["d", "e"], ["f"], "sum"),
        node("GlobalAveragePool", ["f"], ["h"], "mean"),
        node("Flatten", ["h"], ["i"], "flat"),
        node("Gemm", ["i", "w4", "b4"], ["j"], "gemm", transB=1),
        node("Relu", ["j"], ["k"], "relu_2"),
        node("MatMul", ["k", "w5"], ["y"], "head"),
    ]
    constants = {
        "w1": array(8, 3, 3, 3), "b1": array(8), "w2": array(8, 8, 3, 3), "w3": array(8, 8, 1, 1),
        "g": -array(8), "s": array(8), "m": array(8), "v": np.abs(array(8)) + 1,
        "w4": array(6, 8), "b4": array(6), "w5": array(6, 5),
    }  # fmt: skip
    return model(nodes, {"x": [2, 3, 10, 10]}, ["y"], constants)


def examples() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((12, 3, 10, 10)).astype(np.float32)


def run_by_onnxruntime(made: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """As the operators say: fused, it sums bytes in 16 bits where a processor has no instruction for their sums."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {session.get_inputs()[0].name: x})[0]
    return result


@pytest.mark.parametrize(("name", "near"), [("int8", 0.02), ("int16", 1e-3)])
def test_other_engines_compute_the_same(name: str, near: float) -> None:
    """A value may be on the other side of a step where quotients and products with the reciprocal are rounded apart."""
    source, x = network(), examples()[:2]
    before = source.SerializeToString()
    exe = mapsto.compile(source, formats={"*": name}, calibration={"x": examples()})
    made = mapsto.to_qdq(source, exe.plan)
    assert source.SerializeToString() == before
    assert set(made.quantised) == {"conv_1", "conv_2", "conv_3", "gemm", "head"}
    assert not made.left
    read = mapsto.compile(made.model)
    assert np.abs(exe(x) - mapsto.compile(source)(x)).max() > 1e-6 * np.abs(exe(x)).max()
    for fed in (x, 4 * x):  # what is farther than calibration saw is cut
        ours = exe(fed)
        size = np.abs(ours).max()
        assert np.abs(run_by_onnxruntime(made.model, fed) - ours).max() <= near * size
        assert np.abs(read(fed) - ours).max() <= near * size


@pytest.mark.parametrize("op", ["Conv", "Gemm"])
def test_channels_that_have_scales_of_their_own_are_divided_before(op: str) -> None:
    size = np.exp2(np.arange(8) % 7 - 3).astype(np.float32)
    if op == "Conv":
        shape, w = [2, 8, 6, 6], array(12, 4, 3, 3)
        nodes = [node("Mul", ["x", "s"], ["a"], "scale"), node("Conv", ["a", "w"], ["y"], "product", group=2)]
        size = size.reshape(8, 1, 1)
    else:
        shape, w = [8, 8], array(12, 8)
        nodes = [node("Mul", ["x", "s"], ["a"], "scale"), node("Gemm", ["a", "w"], ["y"], "product", transB=1)]
    nodes.insert(0, node("Relu", ["in"], ["x"], "relu"))
    source = model(nodes, {"in": shape}, ["y"], {"s": size, "w": w})
    feeds = [{"in": array(*shape)} for _ in range(8)]
    exe = mapsto.compile(source, formats={"*": "int8"}, calibration=feeds)
    assert exe.plan.formats[0].powers
    made = mapsto.to_qdq(source, exe.plan)
    assert made.quantised == ("product",) and "Mul" in [each.op_type for each in made.model.graph.node]
    for engine in (run_by_onnxruntime(made.model, feeds[0]["in"]), mapsto.compile(made.model)(feeds[0]["in"])):
        assert np.abs(engine - exe(feeds[0]["in"])).max() <= 0.01 * np.abs(engine).max()
    wrong = exe.plan.text().replace(" because", ",0 because", 1)
    with pytest.raises(ArgumentError, match="reads 8 channels; the plan has powers of 9"):
        mapsto.to_qdq(source, wrong)


def test_weights_are_integers_and_no_floats_are_left_of_them() -> None:
    exe = mapsto.compile(network(), formats={"*": "int8"}, calibration={"x": examples()})
    made = mapsto.to_qdq(network(), exe.plan.text()).model
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    assert stored["w1_quantized"].dtype == np.int8
    assert np.abs(stored["w1_quantized"]).max() == 127
    assert stored["b1_quantized"].dtype == np.int32
    product = stored["w1_quantized_scale"] * stored["x_scale"]  # by which engines know that sums and bias add up
    np.testing.assert_array_equal(stored["b1_scale"], product)
    assert not {"w1", "w2", "w3", "w4", "w5", "b1"} & set(stored)
    assert sum(each.op_type == "QuantizeLinear" for each in made.graph.node) == 4  # one value is read by two


def test_what_stays_is_said() -> None:
    exe = mapsto.compile(
        network(), formats={"*": "int8", "head": "bf16", "gemm": "f32"}, calibration={"x": examples()}
    )
    made = mapsto.to_qdq(network(), exe.plan)
    assert set(made.quantised) == {"conv_1", "conv_2", "conv_3"}
    assert made.left == {"head": "bf16 is no format of integers"}


def test_an_input_that_was_scaled_on_the_way() -> None:
    nodes = [
        node("Mul", ["x", "s"], ["a"], "scale"),
        node("Conv", ["a", "w"], ["y"], "conv"),
    ]
    scaled = model(nodes, {"x": [1, 3, 4, 4]}, ["y"], {"s": array(3, 1, 1) + 2, "w": array(4, 3, 1, 1)})
    plan = "plan g for cpu\nformat int8 of scale, conv scale 0.01 zero 0\n"
    made = mapsto.to_qdq(scaled, plan)
    assert not made.quantised
    assert "was joined with it" in made.left["scale, conv"]


def test_old_models_are_refused() -> None:
    old = network()
    old.opset_import[0].version = 11
    with pytest.raises(ModelError, match="of opset 11; quantised channels need 13"):
        mapsto.to_qdq(old, "plan g for cpu\nformat int8 of conv_1 scale 0.01 zero 0\n")


def test_digits_written_and_read_again(tmp_path: Path) -> None:
    digits = dict(np.load(EXAMPLES / "digits.npz"))
    exe = mapsto.compile(EXAMPLES / "mnist-cnn.onnx", formats={"*": "int8"}, calibration=mapsto.Calibration(digits))
    made = mapsto.to_qdq(EXAMPLES / "mnist-cnn.onnx", exe.plan)
    assert made.quantised
    found = run_by_onnxruntime(made.model, digits["image"])
    assert (found.argmax(1) == digits["label"]).mean() > 0.97
