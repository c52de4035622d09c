"""A small convolutional network for handwritten digits, as an ONNX model with random weights.

    conv 3x3, 1 -> 32 / relu / max-pool 2x2
    conv 3x3, 32 -> 64 / relu / max-pool 2x2
    linear 3136 -> 128 / relu / linear 128 -> 10

Input `image`: float32 [batch, 1, 28, 28], values 0 to 1. Output `logits`: float32 [batch, 10]. 421,642 parameters.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def network(seed: int = 0) -> onnx.ModelProto:
    """The network with weights drawn by a seed (He et al., 2015: variance 2 / fan-in) and biases of 0."""
    rng = np.random.default_rng(seed)
    shapes = {"conv1": (32, 1, 3, 3), "conv2": (64, 32, 3, 3), "fc1": (128, 64 * 7 * 7), "fc2": (10, 128)}
    weights = {}
    for name, shape in shapes.items():
        spread = np.sqrt(2 / np.prod(shape[1:]))
        weights[f"{name}.weight"] = (rng.standard_normal(shape) * spread).astype(np.float32)
        weights[f"{name}.bias"] = np.zeros(shape[0], np.float32)

    def layer(op: str, name: str, source: str, **attributes: object) -> onnx.NodeProto:
        inputs = [source, f"{name}.weight", f"{name}.bias"]
        return helper.make_node(op, inputs, [f"{name}_out"], name=name, **attributes)

    def conv(name: str, source: str) -> onnx.NodeProto:
        return layer("Conv", name, source, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    def relu(name: str, source: str) -> onnx.NodeProto:
        return helper.make_node("Relu", [source], [f"{name}_out"], name=name)

    def pool(name: str, source: str) -> onnx.NodeProto:
        return helper.make_node("MaxPool", [source], [f"{name}_out"], name=name, kernel_shape=[2, 2], strides=[2, 2])

    nodes = [
        conv("conv1", "image"), relu("relu1", "conv1_out"), pool("pool1", "relu1_out"),
        conv("conv2", "pool1_out"), relu("relu2", "conv2_out"), pool("pool2", "relu2_out"),
        helper.make_node("Flatten", ["pool2_out"], ["flat"], name="flatten", axis=1),
        layer("Gemm", "fc1", "flat", transB=1), relu("relu3", "fc1_out"),
        layer("Gemm", "fc2", "relu3_out", transB=1),
        helper.make_node("Identity", ["fc2_out"], ["logits"], name="logits"),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "mnist",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    return proto
