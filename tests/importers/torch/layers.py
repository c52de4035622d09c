"""Layers and losses of torch.nn, each with an input: what the importer and the backend are held to, one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Case = tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]


def _x(*shape: int) -> Callable[[], tuple[Any, ...]]:
    return lambda: (torch.randn(*shape),)


def _pair(*shape: int) -> Callable[[], tuple[Any, ...]]:
    return lambda: (torch.randn(*shape), torch.randn(*shape))


def _classes(n: int, classes: int, *space: int) -> Callable[[], tuple[Any, ...]]:
    return lambda: (torch.randn(n, classes, *space), torch.randint(0, classes, (n, *space)))


def _logs() -> tuple[Any, ...]:
    return torch.randn(4, 5).log_softmax(1), torch.randn(4, 5).softmax(1)


def _signs() -> tuple[Any, ...]:
    return torch.randn(6, 5), torch.randint(0, 2, (6, 5)).float() * 2 - 1


LAYERS: dict[str, Case] = {
    "Linear": (lambda: nn.Linear(6, 5), _x(3, 6)),
    "Bilinear": (lambda: nn.Bilinear(4, 3, 5), lambda: (torch.randn(2, 4), torch.randn(2, 3))),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, 2, 1), _x(2, 4, 11)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, 1, 2, dilation=2, groups=2), _x(2, 4, 9, 8)),
    "Conv2d reflect": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), _x(1, 3, 6, 7)),
    "Conv2d circular": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), _x(1, 3, 6, 7)),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 2), _x(1, 2, 4, 5, 4)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 3, 3, 2), _x(2, 4, 7)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2), _x(1, 4, 5, 6)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 3, 2, 2), _x(1, 2, 3, 3, 3)),
    "MaxPool1d": (lambda: nn.MaxPool1d(3, 2), _x(2, 3, 10)),
    "MaxPool2d": (lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True), _x(2, 3, 8, 9)),
    "AvgPool1d": (lambda: nn.AvgPool1d(3, 2, 1), _x(2, 3, 10)),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), _x(2, 3, 8, 9)),
    "AvgPool2d ceil": (lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True), _x(1, 2, 8, 8)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d((3, 2)), _x(2, 3, 8, 7)),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d(4), _x(2, 3, 8, 8)),
    "LPPool2d": (lambda: nn.LPPool2d(2, 2), _x(1, 3, 6, 6)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(5), _x(6, 5)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4), _x(3, 4, 5, 6)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 6), _x(2, 6, 5, 4)),
    "LayerNorm": (lambda: nn.LayerNorm((4, 5)), _x(2, 3, 4, 5)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4, affine=True), _x(2, 4, 5, 5)),
    "RMSNorm": (lambda: nn.RMSNorm(6), _x(3, 6)),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(3), _x(2, 5, 4, 4)),
    "Embedding": (lambda: nn.Embedding(9, 4), lambda: (torch.randint(0, 9, (3, 5)),)),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(9, 4), lambda: (torch.randint(0, 9, (8,)), torch.tensor([0, 3, 3, 7]))),
    "MultiheadAttention": (
        lambda: _First(nn.MultiheadAttention(8, 2, batch_first=True)), lambda: (torch.randn(2, 5, 8),) * 3
    ),
    "TransformerDecoderLayer": (
        lambda: nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        lambda: (torch.randn(2, 4, 8), torch.randn(2, 5, 8)),
    ),
    "LSTMCell": (lambda: nn.LSTMCell(4, 5), _x(3, 4)),
    "GRUCell": (lambda: nn.GRUCell(4, 5), _x(3, 4)),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), _x(1, 8, 3, 4)),
    "Upsample nearest": (lambda: nn.Upsample(scale_factor=2), _x(1, 2, 3, 4)),
    "Upsample bilinear": (lambda: nn.Upsample(size=(7, 5), mode="bilinear", align_corners=True), _x(1, 2, 3, 4)),
    "Upsample bicubic": (lambda: nn.Upsample(scale_factor=1.5, mode="bicubic"), _x(1, 2, 4, 6)),
    "Upsample linear": (lambda: nn.Upsample(scale_factor=2, mode="linear"), _x(1, 2, 5)),
    "ReflectionPad2d": (lambda: nn.ReflectionPad2d((1, 2, 0, 1)), _x(1, 2, 4, 5)),
    "ReplicationPad2d": (lambda: nn.ReplicationPad2d(2), _x(1, 2, 4, 5)),
    "ZeroPad2d": (lambda: nn.ZeroPad2d((1, -1, 2, 0)), _x(1, 2, 4, 5)),
    "Fold": (lambda: nn.Fold((4, 5), (2, 2)), _x(1, 12, 12)),
    "Unfold": (lambda: nn.Unfold((2, 3), padding=1, stride=2), _x(1, 2, 5, 6)),
    "CosineSimilarity": (lambda: nn.CosineSimilarity(dim=1), _pair(4, 6)),
    "PairwiseDistance": (lambda: nn.PairwiseDistance(2), _pair(4, 6)),
    "GLU": (lambda: nn.GLU(), _x(3, 8)),
    "PReLU": (lambda: nn.PReLU(4), _x(2, 4, 3)),
    "Softmax": (lambda: nn.Softmax(1), _x(3, 5)),
    "LogSoftmax": (lambda: nn.LogSoftmax(1), _x(3, 5, 2)),
    "Softmin": (lambda: nn.Softmin(1), _x(3, 5)),
    "activations": (
        lambda: _All(
            nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(), nn.ELU(), nn.SELU(), nn.CELU(0.7), nn.GELU(), nn.GELU("tanh"),
            nn.SiLU(), nn.Mish(), nn.Hardswish(), nn.Hardsigmoid(), nn.Hardtanh(), nn.Hardshrink(), nn.Softshrink(),
            nn.Softplus(2.0), nn.Softsign(), nn.Tanhshrink(), nn.Threshold(0.1, 20.0), nn.LogSigmoid(), nn.Sigmoid(),
            nn.Tanh(),
        ),
        _x(6, 7),
    ),
    "MSELoss": (lambda: nn.MSELoss(), _pair(4, 5)),
    "L1Loss": (lambda: nn.L1Loss(reduction="sum"), _pair(4, 5)),
    "SmoothL1Loss": (lambda: nn.SmoothL1Loss(beta=0.5), _pair(4, 5)),
    "HuberLoss": (lambda: nn.HuberLoss(delta=0.7), _pair(4, 5)),
    "CrossEntropyLoss": (lambda: nn.CrossEntropyLoss(label_smoothing=0.1), _classes(4, 5)),
    "CrossEntropyLoss space": (lambda: nn.CrossEntropyLoss(ignore_index=1), _classes(2, 4, 3, 3)),
    "NLLLoss": (lambda: nn.NLLLoss(weight=torch.rand(5) + 0.5), _classes(4, 5)),
    "BCEWithLogitsLoss": (lambda: nn.BCEWithLogitsLoss(), lambda: (torch.randn(4, 3), torch.rand(4, 3))),
    "BCELoss": (lambda: nn.BCELoss(), lambda: (torch.rand(4, 3) * 0.9 + 0.05, torch.rand(4, 3))),
    "KLDivLoss": (lambda: nn.KLDivLoss(reduction="batchmean"), _logs),
    "SoftMarginLoss": (lambda: nn.SoftMarginLoss(), _signs),
    "HingeEmbeddingLoss": (lambda: nn.HingeEmbeddingLoss(), _signs),
    "CosineEmbeddingLoss": (
        lambda: nn.CosineEmbeddingLoss(), lambda: (*_pair(4, 6)(), torch.tensor([1.0, -1.0, 1.0, -1.0]))
    ),
    "TripletMarginLoss": (lambda: nn.TripletMarginLoss(), lambda: (*_pair(4, 6)(), torch.randn(4, 6))),
    "PoissonNLLLoss": (lambda: nn.PoissonNLLLoss(), lambda: (torch.randn(4, 3), torch.rand(4, 3))),
}  # fmt: skip


class _First(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any) -> Any:
        return self.inner(*args)[0]


class _All(nn.Module):
    """Several functions of one tensor."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.ModuleList(inner)

    def forward(self, x: Any) -> Any:
        return [layer(x) for layer in self.inner]
