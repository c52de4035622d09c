"""The kernels that the template is measured on, and the share of the peak that each must reach."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.contraction.cases import Convolution, Product


@dataclass(frozen=True)
class Goal:
    """A kernel and the least share of the measured peak: in fp32, and in bf16 and int8."""

    shape: Convolution | Product
    fp32: float = 0.90
    narrow: float = 0.85


GOALS = (
    Goal(Convolution(64, 64, 56)),
    Goal(Convolution(128, 128, 28)),
    Goal(Convolution(256, 256, 14)),
    Goal(Convolution(64, 256, 56, kernel=1)),
    Goal(Convolution(256, 1024, 14, kernel=1)),
    Goal(Convolution(512, 2048, 7, kernel=1), fp32=0.85),
    Goal(Convolution(96, 96, 40), fp32=0.75),
    Goal(Convolution(24, 40, 26), fp32=0.75),
    Goal(Product(128, 768, 3072)),
)
