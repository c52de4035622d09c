"""Nine families of models as people write them in torch, small: what the importer, the module's door and the backend of
torch's compiler are held to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mapsto.arguments import Shapes


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding="same")
        self.fc1, self.fc2 = nn.Linear(16 * 7 * 7, 32), nn.Linear(32, 10)
        self.drop = nn.Dropout(0.25)

    def forward(self, x: Any) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return F.log_softmax(self.fc2(self.drop(F.relu(self.fc1(torch.flatten(x, 1))))), dim=1)


class Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.down: nn.Module | None = None
        if stride != 1 or inside != outside:
            self.down = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Any) -> Any:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += x if self.down is None else self.down(x)
        return F.relu(y)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        first = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.stem = nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2), Block(16, 16, 1))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 10)

    def forward(self, x: Any) -> Any:
        return self.fc(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))


class Excitation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Any) -> Any:
        return x * F.hardsigmoid(self.fc2(F.relu(self.fc1(self.pool(x)))))


class Inverted(nn.Module):
    def __init__(self, inside: int, middle: int, outside: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(inside, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.Hardswish())
        self.depth = nn.Sequential(
            nn.Conv2d(middle, middle, kernel, stride, kernel // 2, groups=middle, bias=False), nn.BatchNorm2d(middle)
        )
        self.squeeze = Excitation(middle)
        self.project = nn.Sequential(nn.Conv2d(middle, outside, 1, bias=False), nn.BatchNorm2d(outside))
        self.adds = stride == 1 and inside == outside

    def forward(self, x: Any) -> Any:
        y = self.project(self.squeeze(F.hardswish(self.depth(self.expand(x)))))
        return x + y if self.adds else y


class MobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.blocks = nn.Sequential(Inverted(8, 16, 8, 3, 1), Inverted(8, 24, 12, 5, 2), Inverted(12, 24, 12, 3, 1))
        self.head = nn.Sequential(nn.Linear(12, 16), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(16, 10))

    def forward(self, x: Any) -> Any:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Unet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = self._double(3, 8), self._double(8, 16)
        self.bottom = self._double(16, 16)
        self.up2 = nn.ConvTranspose2d(16, 16, 2, 2)
        self.join2, self.join1 = self._double(32, 8), self._double(16, 8)
        self.last = nn.Conv2d(8, 2, 1)

    @staticmethod
    def _double(inside: int, outside: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inside, outside, 3, padding=1), nn.GroupNorm(4, outside), nn.SiLU(),
            nn.Conv2d(outside, outside, 3, padding=1), nn.InstanceNorm2d(outside, affine=True), nn.LeakyReLU(0.1),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.bottom(F.avg_pool2d(b, 2))
        y = self.join2(torch.cat([self.up2(c), b], dim=1))
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        return self.last(self.join1(torch.cat([y, a], dim=1)))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 50)
        self.register_buffer("places", _waves(64, 16))

    def forward(self, ids: Any) -> Any:
        x = self.embed(ids) * math.sqrt(16) + self.places[: ids.shape[1]]
        return self.head(self.encoder(x))


def _waves(length: int, width: int) -> Any:
    at = torch.arange(length).unsqueeze(1) * torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    return torch.stack([at.sin(), at.cos()], dim=-1).flatten(1)


class Llama(nn.Module):
    """A block with grouped queries, rotary places, RMS norms and a gated unit."""

    def __init__(self, width: int = 32, heads: int = 4, groups: int = 2) -> None:
        super().__init__()
        self.heads, self.groups, self.each = heads, groups, width // heads
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.q, self.o = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, groups * self.each, bias=False)
        self.v = nn.Linear(width, groups * self.each, bias=False)
        self.gate, self.up = nn.Linear(width, 64, bias=False), nn.Linear(width, 64, bias=False)
        self.down = nn.Linear(64, width, bias=False)
        self.register_buffer("speeds", 10000.0 ** (-torch.arange(0, self.each, 2) / self.each))

    def _turned(self, x: Any, cos: Any, sin: Any) -> Any:
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], dim=-1) * sin

    def forward(self, x: Any) -> Any:
        batch, length, width = x.shape
        angles = torch.outer(torch.arange(length).float(), self.speeds)
        cos, sin = (torch.cat([f(angles)] * 2, dim=-1) for f in (torch.cos, torch.sin))
        h = self.norm1(x)
        q = self.q(h).view(batch, length, self.heads, self.each).transpose(1, 2)
        k, v = (m(h).view(batch, length, self.groups, self.each).transpose(1, 2) for m in (self.k, self.v))
        q, k = self._turned(q, cos, sin), self._turned(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).reshape(batch, length, width))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 12, num_layers=2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(24, 10, batch_first=True)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Any) -> Any:
        y, (h, c) = self.lstm(x)
        z, last = self.gru(y)
        return self.head(z), h + c, last


class Dlrm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 8), nn.ReLU())
        self.tables = nn.ModuleList([nn.EmbeddingBag(20, 8, mode="sum") for _ in range(3)])
        self.top = nn.Sequential(nn.Linear(8 + 6, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())
        self.register_buffer("pairs", torch.tril_indices(4, 4, offset=-1))

    def forward(self, dense: Any, sparse: Any) -> Any:
        x = self.bottom(dense)
        found = [table(sparse[:, k]) for k, table in enumerate(self.tables)]
        t = torch.stack([x, *found], dim=1)
        products = torch.bmm(t, t.transpose(1, 2))
        return self.top(torch.cat([x, products[:, self.pairs[0], self.pairs[1]]], dim=1))


class Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 16) * 0.1)
        self.places = nn.Parameter(torch.randn(1, 17, 16) * 0.1)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, x: Any) -> Any:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        return self.head(self.norm(self.encoder(x))[:, 0])


@dataclass(frozen=True)
class Family:
    """A model, inputs for a batch and a length, and the shapes that stay open. empty: whether torch's own layers take a
    batch or a length of 0.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[int, int], tuple[Any, ...]]
    shapes: Shapes
    empty: bool = True


def _images(side: int, channels: int = 3) -> Callable[[int, int], tuple[Any, ...]]:
    return lambda batch, length: (torch.randn(batch, channels, side, side),)


FAMILIES = {
    "cnn": Family(Cnn, _images(28, 1), {"x": ("batch", 1, 28, 28)}),
    "resnet": Family(ResNet, _images(32), {"x": ("batch", 3, 32, 32)}),
    "mobilenet": Family(MobileNet, _images(24), {"x": ("batch", 3, 24, 24)}),
    "unet": Family(Unet, _images(16), {"x": ("batch", 3, 16, 16)}, False),
    "encoder": Family(Encoder, lambda b, n: (torch.randint(0, 50, (b, n)),), {"ids": ("batch", "length")}),
    "llama": Family(Llama, lambda b, n: (torch.randn(b, n, 32),), {"x": ("batch", "length", 32)}),
    "recurrent": Family(Recurrent, lambda b, n: (torch.randn(b, n, 8),), {"x": ("batch", "length", 8)}, False),
    "dlrm": Family(
        Dlrm,
        lambda b, n: (torch.randn(b, 13), torch.randint(0, 20, (b, 3, 4))),
        {"dense": ("batch", 13), "sparse": ("batch", 3, 4)},
    ),
    "vit": Family(Vit, _images(32), {"x": ("batch", 3, 32, 32)}),
}


def module_of(name: str) -> nn.Module:
    """A family's model in evaluation, with weights and running statistics that differ from channel to channel."""
    torch.manual_seed(7)
    module = FAMILIES[name].make().eval()
    with torch.no_grad():
        for key, value in [*module.named_parameters(), *module.named_buffers()]:
            if key.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.dim() == 1 and value.is_floating_point():
                value.add_(torch.randn_like(value) * 0.1)
    return module
