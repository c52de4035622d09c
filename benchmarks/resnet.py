"""A ResNet-50 (He et al., 2015; stride in the 3x3 convolutions) with random weights, as an ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # channels inside, blocks, stride of the first
_WIDER = 4  # channels of a block's result, over those inside


class _Net:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def constant(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def convolution(self, x: str, channels: int, filters: int, size: int, stride: int = 1) -> str:
        """With its normalisation; weights keep the scale of what goes through."""
        scale = np.sqrt(2 / (channels * size * size))
        weights = self.constant(self.rng.standard_normal((filters, channels, size, size)) * scale)
        pads = [size // 2] * 4
        y = self.node("Conv", x, weights, kernel_shape=[size, size], strides=[stride, stride], pads=pads)
        moments = (np.ones(filters), self.rng.standard_normal(filters) / 10, np.zeros(filters), np.ones(filters))
        return self.node("BatchNormalization", y, *(self.constant(m) for m in moments))

    def block(self, x: str, channels: int, inside: int, stride: int) -> str:
        y = self.node("Relu", self.convolution(x, channels, inside, 1))
        y = self.node("Relu", self.convolution(y, inside, inside, 3, stride))
        y = self.convolution(y, inside, inside * _WIDER, 1)
        if channels != inside * _WIDER or stride != 1:
            x = self.convolution(x, channels, inside * _WIDER, 1, stride)
        return self.node("Relu", self.node("Add", y, x))


def resnet50(path: Path, size: int = 224, classes: int = 1000, seed: int = 0) -> Path:
    """Writes the network for one image of size x size."""
    net = _Net(seed)
    y = net.node("Relu", net.convolution("image", 3, 64, 7, 2))
    y = net.node("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for inside, blocks, stride in _STAGES:
        for number in range(blocks):
            y = net.block(y, channels, inside, stride if number == 0 else 1)
            channels = inside * _WIDER
    y = net.node("Flatten", net.node("GlobalAveragePool", y))
    weights = net.constant(net.rng.standard_normal((channels, classes)) / np.sqrt(channels))
    net.nodes.append(helper.make_node("Gemm", [y, weights, net.constant(np.zeros(classes))], ["logits"]))
    ports = (("image", [1, 3, size, size]), ("logits", [1, classes]))
    takes, gives = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in ports)
    graph = helper.make_graph(net.nodes, "resnet50", takes, gives, net.weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
