"""Known networks with random weights, as ONNX files: for what no package brings along.

ResNet-50 (He et al., 2015; stride in the 3x3 convolutions), MobileNetV2 (Sandler et al., 2018), EfficientNet-Lite0
(Tan, Le, 2019, without squeeze and excitation), a text detector as CRAFT (Baek et al., 2019: VGG16 with batch
normalisation and a U-net on top), BERT-base (Devlin et al., 2018). Weights keep the scale of what goes through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper


class _Net:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def constant(self, array: np.ndarray | Sequence[int]) -> str:
        name = f"w{len(self.weights)}"
        array = np.asarray(array)
        kept = array if array.dtype.kind == "i" else array.astype(np.float32)
        self.weights.append(numpy_helper.from_array(kept, name))
        return name

    def drawn(self, *shape: int, scale: float) -> str:
        return self.constant(self.rng.standard_normal(shape) * scale)

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def convolution(
        self, x: str, channels: int, filters: int, size: int, stride: int = 1, groups: int = 1, dilation: int = 1
    ) -> str:
        """With its normalisation."""
        inside = channels // groups
        weights = self.drawn(filters, inside, size, size, scale=np.sqrt(2 / (inside * size * size)))
        y = self.node(
            "Conv", x, weights, kernel_shape=[size, size], strides=[stride, stride], group=groups,
            pads=[size // 2 * dilation] * 4, dilations=[dilation, dilation],
        )  # fmt: skip
        moments = (np.ones(filters), self.rng.standard_normal(filters) / 10, np.zeros(filters), np.ones(filters))
        return self.node("BatchNormalization", y, *(self.constant(m) for m in moments))

    def relu6(self, x: str) -> str:
        return self.node("Clip", x, self.constant(np.float32(0)), self.constant(np.float32(6)))

    def dense(self, x: str, inputs: int, outputs: int, scale: float = 1.0) -> str:
        """x[..., inputs] W + b."""
        y = self.node("MatMul", x, self.drawn(inputs, outputs, scale=scale / np.sqrt(inputs)))
        return self.node("Add", y, self.drawn(outputs, scale=0.1))

    def classes(self, y: str, channels: int, count: int = 1000) -> str:
        flat = self.node("Flatten", self.node("GlobalAveragePool", y))
        weights = self.drawn(channels, count, scale=1 / np.sqrt(channels))
        return self.node("Gemm", flat, weights, self.constant(np.zeros(count)))

    def write(self, path: Path, name: str, inputs: Sequence[tuple[str, int, Sequence[int]]], output: str) -> Path:
        self.nodes.append(helper.make_node("Identity", [output], ["y"]))
        takes = [helper.make_tensor_value_info(each, kind, shape) for each, kind, shape in inputs]
        gives = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, name, takes, gives, self.weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return path


def _image(path: Path, name: str, build: Callable[[_Net, str], str], size: Sequence[int], seed: int) -> Path:
    net = _Net(seed)
    return net.write(path, name, [("image", TensorProto.FLOAT, [1, 3, *size])], build(net, "image"))


# ---- ResNet-50 -------------------------------------------------------------------------------------------------------

_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # channels inside, blocks, stride of the first
_WIDER = 4  # channels of a block's result, over those inside


def _bottleneck(net: _Net, x: str, channels: int, inside: int, stride: int) -> str:
    y = net.node("Relu", net.convolution(x, channels, inside, 1))
    y = net.node("Relu", net.convolution(y, inside, inside, 3, stride))
    y = net.convolution(y, inside, inside * _WIDER, 1)
    if channels != inside * _WIDER or stride != 1:
        x = net.convolution(x, channels, inside * _WIDER, 1, stride)
    return net.node("Relu", net.node("Add", y, x))


def resnet50(path: Path, size: int = 224, seed: int = 0) -> Path:
    """Writes the network for one image of size x size."""

    def build(net: _Net, image: str) -> str:
        y = net.node("Relu", net.convolution(image, 3, 64, 7, 2))
        y = net.node("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        channels = 64
        for inside, blocks, stride in _STAGES:
            for number in range(blocks):
                y = _bottleneck(net, y, channels, inside, stride if number == 0 else 1)
                channels = inside * _WIDER
        return net.classes(y, channels)

    return _image(path, "resnet50", build, (size, size), seed)


# ---- MobileNetV2, EfficientNet-Lite0 ---------------------------------------------------------------------------------

# widening, channels, blocks, stride of the first, size of the depthwise window
_MOBILE = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3), (6, 96, 3, 1, 3), (6, 160, 3, 2, 3),
           (6, 320, 1, 1, 3))  # fmt: skip
_LITE = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
         (6, 320, 1, 1, 3))  # fmt: skip


def _inverted(net: _Net, x: str, channels: int, made: int, widening: int, stride: int, window: int) -> str:
    wide = channels * widening
    y = x if widening == 1 else net.relu6(net.convolution(x, channels, wide, 1))
    y = net.relu6(net.convolution(y, wide, wide, window, stride, groups=wide))
    y = net.convolution(y, wide, made, 1)
    return net.node("Add", y, x) if channels == made and stride == 1 else y


def _mobile(path: Path, name: str, stages: Sequence[tuple[int, int, int, int, int]], seed: int) -> Path:
    def build(net: _Net, image: str) -> str:
        y, channels = net.relu6(net.convolution(image, 3, 32, 3, 2)), 32
        for widening, made, blocks, stride, window in stages:
            for number in range(blocks):
                y = _inverted(net, y, channels, made, widening, stride if number == 0 else 1, window)
                channels = made
        return net.classes(net.relu6(net.convolution(y, channels, 1280, 1)), 1280)

    return _image(path, name, build, (224, 224), seed)


def mobilenet_v2(path: Path, seed: int = 0) -> Path:
    """Writes the network for one image of 224 x 224."""
    return _mobile(path, "mobilenet_v2", _MOBILE, seed)


def efficientnet_lite0(path: Path, seed: int = 0) -> Path:
    """Writes the network for one image of 224 x 224."""
    return _mobile(path, "efficientnet_lite0", _LITE, seed)


# ---- a text detector -------------------------------------------------------------------------------------------------

_VGG = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def text_detector(path: Path, height: int = 320, width: int = 480, seed: int = 0) -> Path:
    """Writes a detector like CRAFT for one image; two maps of half its size."""

    def build(net: _Net, image: str) -> str:
        y, channels, taps = image, 3, []
        for number, (made, count) in enumerate(_VGG):
            if number:
                y = net.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
            for _ in range(count):
                y, channels = net.node("Relu", net.convolution(y, channels, made, 3)), made
            taps.append((y, channels))
        y, channels = net.node("Relu", net.convolution(y, channels, 1024, 3, dilation=6)), 1024
        for number, (tap, more) in enumerate(reversed(taps[1:])):
            if number:
                ends = net.constant(np.array([2])), net.constant(np.array([4]))
                sizes = net.node("Slice", net.node("Shape", tap), *ends)
                whole = net.node("Concat", net.constant(np.array([1, channels])), sizes, axis=0)
                y = net.node("Resize", y, "", "", whole, mode="linear", coordinate_transformation_mode="half_pixel")
            y, channels = net.node("Concat", y, tap, axis=1), channels + more
            half = max(more // 2, 32)
            y = net.node("Relu", net.convolution(y, channels, half * 2, 1))
            y, channels = net.node("Relu", net.convolution(y, half * 2, half, 3)), half
        for made, size in ((32, 3), (32, 3), (16, 3), (16, 1)):
            y, channels = net.node("Relu", net.convolution(y, channels, made, size)), made
        return net.convolution(y, channels, 2, 1)

    return _image(path, "text_detector", build, (height, width), seed)


# ---- BERT-base -------------------------------------------------------------------------------------------------------


def bert_base(path: Path, tokens: int = 128, seed: int = 0) -> Path:
    """Writes the encoder for one text of so many tokens (a small vocabulary: looking words up costs nothing)."""
    layers, width, heads = 12, 768, 12
    net, head = _Net(seed), width // heads
    words = net.drawn(2000, width, scale=1.0)
    y = net.node("Add", net.node("Gather", words, "ids"), net.drawn(1, tokens, width, scale=0.1))

    def normal(x: str) -> str:
        return net.node("LayerNormalization", x, net.constant(np.ones(width)), net.constant(np.zeros(width)), axis=-1)

    def parted(x: str, perm: Sequence[int]) -> str:
        shape = net.constant(np.array([1, tokens, heads, head]))
        return net.node("Transpose", net.node("Reshape", x, shape), perm=list(perm))

    def gelu(x: str) -> str:
        scaled = net.node("Erf", net.node("Div", x, net.constant(np.float32(np.sqrt(2)))))
        both = net.node("Mul", x, net.node("Add", scaled, net.constant(np.float32(1))))
        return net.node("Mul", both, net.constant(np.float32(0.5)))

    y = normal(y)
    for _ in range(layers):
        q, v = (parted(net.dense(y, width, width), (0, 2, 1, 3)) for _ in range(2))
        k = parted(net.dense(y, width, width), (0, 2, 3, 1))
        scores = net.node("Div", net.node("MatMul", q, k), net.constant(np.float32(np.sqrt(head))))
        mixed = net.node("Transpose", net.node("MatMul", net.node("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        joined = net.node("Reshape", mixed, net.constant(np.array([1, tokens, width])))
        y = normal(net.node("Add", y, net.dense(joined, width, width)))
        y = normal(net.node("Add", y, net.dense(gelu(net.dense(y, width, 4 * width)), 4 * width, width)))
    return net.write(path, "bert_base", [("ids", TensorProto.INT64, [1, tokens])], y)
