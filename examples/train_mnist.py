"""Trains the small convolutional network of this folder on MNIST, and writes it as ONNX.

    pip install . torch onnxruntime
    python examples/train_mnist.py              # writes examples/mnist-cnn.onnx and examples/digits.npz

Data: MNIST, as `examples/mnist/fetch.py` fetches it. The test images are used once, at the end, for the printed
accuracy: the number of epochs is fixed, no weights are chosen by them.

The ONNX graph is written node by node with `onnx.helper`, not by `torch.onnx`: its exporter folds batch normalization
into the convolutions, and this file is an example for a compiler that does so itself.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from mnist.fetch import DEFAULT_FOLDER, load_mnist

HERE = Path(__file__).resolve().parent

OPSET = 17
IR_VERSION = 8  # the IR version that belongs to opset 17
EXAMPLE_DIGITS = 64


class DigitNet(nn.Module):
    """Image [batch, 1, 28, 28] with values 0..1 -> logits [batch, 10]. About 107,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(32)
        self.fc1 = nn.Linear(32 * 7 * 7, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.max_pool2d(torch.relu(self.norm1(self.conv1(image))), 2)
        x = torch.max_pool2d(torch.relu(self.norm2(self.conv2(x))), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


def shifted(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """The batch moved by the same random offset of up to `pixels` in each direction; what leaves is lost."""
    dy, dx = torch.randint(-pixels, pixels + 1, (2,), generator=generator).tolist()
    padded = nn.functional.pad(images, (pixels,) * 4)
    top, left = pixels + dy, pixels + dx
    return padded[:, :, top : top + images.shape[2], left : left + images.shape[3]]


def train(images: np.ndarray, labels: np.ndarray, epochs: int, batch: int, seed: int) -> DigitNet:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = DigitNet()
    steps_per_epoch = len(images) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=epochs * steps_per_epoch)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for epoch in range(epochs):
        model.train()
        started, total = time.perf_counter(), 0.0
        order = torch.randperm(len(x), generator=generator)
        for step in range(steps_per_epoch):
            chosen = order[step * batch : (step + 1) * batch]
            loss = nn.functional.cross_entropy(model(shifted(x[chosen], 1, generator)), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1}/{epochs}: mean loss {total / steps_per_epoch:.4f}, {seconds:.1f} s", flush=True)
    return model.eval()


def to_onnx(model: DigitNet) -> onnx.ModelProto:
    """The trained network in ONNX opset 17, with a batch dim of any size and with its batch normalizations kept."""
    weights = {name: value.detach().numpy() for name, value in model.state_dict().items() if value.dim() > 0}

    def norm(name: str, source: str, target: str) -> onnx.NodeProto:
        inputs = [source, *(f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var"))]
        epsilon = getattr(model, name).eps
        return helper.make_node("BatchNormalization", inputs, [target], name=name, epsilon=epsilon)

    def conv(name: str, source: str, target: str) -> onnx.NodeProto:
        inputs = [source, f"{name}.weight", f"{name}.bias"]
        return helper.make_node("Conv", inputs, [target], name=name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    def pool(name: str, source: str, target: str) -> onnx.NodeProto:
        return helper.make_node("MaxPool", [source], [target], name=name, kernel_shape=[2, 2], strides=[2, 2])

    def linear(name: str, source: str, target: str) -> onnx.NodeProto:
        inputs = [source, f"{name}.weight", f"{name}.bias"]
        return helper.make_node("Gemm", inputs, [target], name=name, transB=1)

    nodes = [
        conv("conv1", "image", "conv1_out"),
        norm("norm1", "conv1_out", "norm1_out"),
        helper.make_node("Relu", ["norm1_out"], ["relu1_out"], name="relu1"),
        pool("pool1", "relu1_out", "pool1_out"),
        conv("conv2", "pool1_out", "conv2_out"),
        norm("norm2", "conv2_out", "norm2_out"),
        helper.make_node("Relu", ["norm2_out"], ["relu2_out"], name="relu2"),
        pool("pool2", "relu2_out", "pool2_out"),
        helper.make_node("Flatten", ["pool2_out"], ["flat"], name="flatten", axis=1),
        linear("fc1", "flat", "fc1_out"),
        helper.make_node("Relu", ["fc1_out"], ["relu3_out"], name="relu3"),
        linear("fc2", "relu3_out", "logits"),
    ]
    graph = helper.make_graph(
        nodes,
        "mnist-cnn",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="train_mnist.py"
    )
    onnx.checker.check_model(proto, full_check=True)
    return proto


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of MNIST's files; fetched if missing")
    parser.add_argument("--into", type=Path, default=HERE, help="folder for mnist-cnn.onnx and digits.npz")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    model = train(*load_mnist(args.data, "train"), args.epochs, args.batch, args.seed)
    test_images, test_labels = load_mnist(args.data, "t10k")
    with torch.no_grad():
        expected = torch.cat([model(part) for part in torch.from_numpy(test_images).split(500)]).numpy()

    args.into.mkdir(parents=True, exist_ok=True)
    model_path = args.into / "mnist-cnn.onnx"
    onnx.save(to_onnx(model), model_path)
    session = onnxruntime.InferenceSession(model_path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": test_images})
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)

    chosen = np.linspace(0, len(test_images) - 1, EXAMPLE_DIGITS).astype(np.int64)
    np.savez_compressed(args.into / "digits.npz", image=test_images[chosen], label=test_labels[chosen])

    correct = int((logits.argmax(1) == test_labels).sum())
    correct_chosen = int((logits[chosen].argmax(1) == test_labels[chosen]).sum())
    print(f"test accuracy: {100 * correct / len(test_labels):.2f} % ({correct} of {len(test_labels)} held-out digits)")
    print(f"digits.npz: {correct_chosen} of {EXAMPLE_DIGITS} right")
    print(f"{model_path}: {model_path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
