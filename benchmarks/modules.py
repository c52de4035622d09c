"""Modules of torch by `torch.compile(backend="mapsto")`, beside eager torch and torch's own compiler, by turns: one run
in inference, or one step of training (forward, loss, backward; SGD).

    python -m benchmarks.modules [--train] [--threads 1] [--only NAME] [--seconds 20]

Torch's own compiler (inductor) needs a C++ compiler; where there is none, its column is empty. A sample is a run, or a
step. Medians of samples that are quiet (`benchmarks.quiet`), or of all where too few are.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import mapsto.torch
from benchmarks.models import machine_line
from benchmarks.quiet import by_turns
from benchmarks.torch_nets import Llama, MobileNet, Unet, Vit
from benchmarks.two import opened_cores
from mapsto.cli.output import seconds_text, table

HEADERS = ["module", "eager", "inductor", "mapsto", "times eager", "times inductor", "quiet"]


class Residual(nn.Module):
    """Two 3x3 convolutions with batch normalization, and the way past them."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside)
        self.conv2, self.norm2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside)
        self.past = nn.Sequential()
        if stride != 1 or inside != outside:
            self.past = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Any) -> Any:
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(y + self.past(x))


class Encoder(nn.Module):
    """Four layers of a transformer's encoder (width 256, 1024 within, 8 heads), and a class of their mean."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(256, 8, 1024, dropout=0.0, batch_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), nn.Linear(256, 10)

    def forward(self, x: Any) -> Any:
        return self.head(self.layers(x).mean(1))


class Recurrent(nn.Module):
    """A bidirectional LSTM and a GRU behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(64, 128, batch_first=True, bidirectional=True)
        self.second, self.head = nn.GRU(256, 128, batch_first=True), nn.Linear(128, 10)

    def forward(self, x: Any) -> Any:
        return self.head(self.second(self.first(x)[0])[0][:, -1])


def mnist() -> nn.Module:
    pooled = [nn.ReLU(), nn.MaxPool2d(2)]
    first, second = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
    return nn.Sequential(
        first, *pooled, second, *pooled, nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def resnet20() -> nn.Module:
    widths = ((16, 16, 1), (16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1))
    blocks = [Residual(*each) for each in (*widths, (64, 64, 1))]
    stem = (nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 10))


@dataclass(frozen=True)
class Work:
    """made: the module, which gives ten classes; shapes of what it takes in inference and in training."""

    made: Callable[[], nn.Module]
    inference: tuple[int, ...]
    training: tuple[int, ...]


WORKS = {
    "MNIST CNN": Work(mnist, (1, 1, 28, 28), (128, 1, 28, 28)),
    "ResNet-20": Work(resnet20, (1, 3, 32, 32), (64, 3, 32, 32)),
    "encoder, 128 tokens": Work(Encoder, (1, 128, 256), (16, 128, 256)),
    "BiLSTM and GRU, 100 steps": Work(Recurrent, (1, 100, 64), (16, 100, 64)),
    "MobileNet": Work(MobileNet, (1, 3, 96, 96), (16, 3, 96, 96)),
    "U-Net": Work(Unet, (1, 3, 96, 96), (4, 3, 96, 96)),
    "Llama blocks, 128 tokens": Work(Llama, (1, 128, 256), (8, 128, 256)),
    "ViT, 145 tokens": Work(Vit, (1, 3, 96, 96), (8, 3, 96, 96)),
    "perceptron": Work(perceptron, (1, 256), (128, 256)),
}


def _run(module: Any, x: Any) -> float:
    with torch.no_grad():
        begun = time.perf_counter()
        module(x)
        return time.perf_counter() - begun


def _step(module: Any, x: Any, labels: Any, optimizer: torch.optim.Optimizer) -> float:
    begun = time.perf_counter()
    optimizer.zero_grad()
    functional.cross_entropy(module(x), labels).backward()
    optimizer.step()
    return time.perf_counter() - begun


def row_of(name: str, work: Work, train: bool, threads: int, seconds: float, cores: list[int]) -> list[str]:
    torch.manual_seed(0)
    torch._dynamo.reset()
    module = work.made().train(train)
    x = torch.randn(work.training if train else work.inference)
    options = {"threads": threads, "fallback": False}
    compiled = torch.compile(module, backend=mapsto.torch.backend, options=options)
    ways: dict[str, Any] = {"eager": module, "mapsto": compiled, "inductor": torch.compile(module)}
    if train:
        optimizer = torch.optim.SGD(module.parameters(), 1e-4)
        labels = torch.randint(0, 10, (len(x),))
        samples = {key: partial(_step, way, x, labels, optimizer) for key, way in ways.items()}
    else:
        samples = {key: partial(_run, way, x) for key, way in ways.items()}
    try:
        samples["inductor"]()
    except Exception as error:  # no compiler, or none that it can use
        warnings.warn(f"{name}: inductor: {type(error).__name__}", stacklevel=1)
        del samples["inductor"]
    found = by_turns(samples, cores, seconds)
    took = {key: each.median for key, each in found.items()}
    ratios = [f"{took[key] / took['mapsto']:.2f}" if key in took else "" for key in ("eager", "inductor")]
    times = [seconds_text(took[key]) if key in took else "" for key in ("eager", "inductor", "mapsto")]
    return [name, *times, *ratios, str(min(each.quiet for each in found.values()))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true", help="a step of training, not a run in inference")
    parser.add_argument("--threads", type=int, default=1, help="of each way (default 1)")
    parser.add_argument("--only", action="append", default=[], help="this module only; may be repeated")
    parser.add_argument("--seconds", type=float, default=20.0, help="at most, for quiet samples of each")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    cores = opened_cores()[: asked.threads]
    os.sched_setaffinity(0, cores)
    rows = [
        row_of(name, work, asked.train, asked.threads, asked.seconds, cores)
        for name, work in WORKS.items()
        if not asked.only or name in asked.only
    ]
    print(table(HEADERS, rows))
    print(machine_line(asked.threads), f"torch {torch.__version__}", mapsto.torch.report(), sep="\n")


if __name__ == "__main__":
    main()
