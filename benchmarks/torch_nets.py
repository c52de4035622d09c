"""Modules of torch that `benchmarks.modules` measures besides its own: what people bring, in sizes that they bring."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


def _normed(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside))


class Inverted(nn.Module):
    """An inverted residual block with squeeze and excitation (Howard et al., "Searching for MobileNetV3", 2019)."""

    def __init__(self, inside: int, middle: int, outside: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.expand, self.depth = _normed(inside, middle, 1), _normed(middle, middle, kernel, stride, middle)
        self.less, self.more = nn.Conv2d(middle, middle // 4, 1), nn.Conv2d(middle // 4, middle, 1)
        self.project, self.adds = _normed(middle, outside, 1), stride == 1 and inside == outside

    def forward(self, x: Any) -> Any:
        y = functional.hardswish(self.depth(functional.hardswish(self.expand(x))))
        scale = self.more(functional.relu(self.less(functional.adaptive_avg_pool2d(y, 1))))
        y = self.project(y * functional.hardsigmoid(scale))
        return x + y if self.adds else y


class MobileNet(nn.Module):
    """Seven such blocks, at 1/2 to 1/16 of an image's size."""

    def __init__(self) -> None:
        super().__init__()
        widths = ((16, 16, 16, 3, 1), (16, 72, 24, 3, 2), (24, 88, 24, 3, 1), (24, 96, 40, 5, 2), (40, 240, 40, 5, 1))
        blocks = [Inverted(*each) for each in (*widths, (40, 240, 96, 5, 2), (96, 576, 96, 5, 1))]
        self.stem, self.blocks, self.last = _normed(3, 16, 3, 2), nn.Sequential(*blocks), _normed(96, 576, 1)
        self.head = nn.Sequential(nn.Linear(576, 256), nn.Hardswish(), nn.Linear(256, 10))

    def forward(self, x: Any) -> Any:
        y = functional.hardswish(self.last(self.blocks(functional.hardswish(self.stem(x)))))
        return self.head(y.mean((2, 3)))


class Unet(nn.Module):
    """Down twice and up twice, with what was before beside it (Ronneberger et al., 2015), and a class of the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = self._double(3, 32), self._double(32, 64), self._double(64, 128)
        self.up2, self.up1 = nn.ConvTranspose2d(128, 64, 2, 2), nn.ConvTranspose2d(64, 32, 2, 2)
        self.join2, self.join1, self.last = self._double(128, 64), self._double(64, 32), nn.Conv2d(32, 10, 1)

    @staticmethod
    def _double(inside: int, outside: int) -> nn.Sequential:
        return nn.Sequential(_normed(inside, outside, 3), nn.ReLU(), _normed(outside, outside, 3), nn.ReLU())

    def forward(self, x: Any) -> Any:
        a = self.down1(x)
        b = self.down2(functional.max_pool2d(a, 2))
        y = self.bottom(functional.max_pool2d(b, 2))
        y = self.join2(torch.cat([self.up2(y), b], dim=1))
        return self.last(self.join1(torch.cat([self.up1(y), a], dim=1))).mean((2, 3))


class LlamaBlock(nn.Module):
    """Grouped queries, rotary places, RMS norms, a gated unit (Touvron et al., 2023)."""

    def __init__(self, width: int, heads: int, groups: int, inside: int) -> None:
        super().__init__()
        self.heads, self.groups, self.each = heads, groups, width // heads
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.q, self.o = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * groups * self.each, bias=False)
        self.gate, self.up = nn.Linear(width, inside, bias=False), nn.Linear(width, inside, bias=False)
        self.down = nn.Linear(inside, width, bias=False)

    def forward(self, x: Any, cos: Any, sin: Any) -> Any:
        batch, length, width = x.shape
        h = self.norm1(x)
        q = self.q(h).view(batch, length, self.heads, self.each).transpose(1, 2)
        k, v = self.kv(h).view(batch, length, 2, self.groups, self.each).permute(2, 0, 3, 1, 4)
        q, k = (t * cos + torch.cat([-t[..., self.each // 2 :], t[..., : self.each // 2]], -1) * sin for t in (q, k))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).reshape(batch, length, width))
        h = self.norm2(x)
        return x + self.down(functional.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    """Two such blocks."""

    def __init__(self, width: int = 256, heads: int = 8, groups: int = 2) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(LlamaBlock(width, heads, groups, 688) for _ in range(2))
        self.norm, self.head = nn.RMSNorm(width, eps=1e-5), nn.Linear(width, 10, bias=False)
        self.register_buffer("speeds", 10000.0 ** (-torch.arange(0, width // heads, 2) / (width // heads)))

    def forward(self, x: Any) -> Any:
        angles = torch.outer(torch.arange(x.shape[1]).float(), self.speeds)
        cos, sin = (torch.cat([f(angles)] * 2, dim=-1) for f in (torch.cos, torch.sin))
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.head(self.norm(x).mean(1))


class Vit(nn.Module):
    """Patches of 8x8 of an image of 96x96, six layers 192 wide (Dosovitskiy et al., 2021)."""

    def __init__(self, width: int = 192) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.1)
        self.places = nn.Parameter(torch.randn(1, 145, width) * 0.1)
        layer = nn.TransformerEncoderLayer(
            width, 3, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Any) -> Any:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        return self.head(self.norm(self.encoder(x))[:, 0])
