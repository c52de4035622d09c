"""The benchmark of the template finds the template: each format's kernels, made the whole way, are one contraction."""

from __future__ import annotations

import pytest
from benchmarks.contraction.cases import BF16, FP32, INT8, Convolution, Format, Product
from benchmarks.contraction.whole import compile_whole

from mapsto.devices.cpu.workers import Workers

SHAPES = (Convolution(24, 40, (9, 8)), Convolution(64, 64, 28), Product(13, 48, 72))


@pytest.mark.parametrize("fmt", [FP32, BF16, INT8], ids=lambda fmt: fmt.name)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_format_reaches_the_template(shape: Convolution | Product, fmt: Format, workers: Workers) -> None:
    """`compile_whole` itself ends where the result is not numpy's, or where no work is a contraction."""
    whole = compile_whole(shape, fmt, workers)
    assert whole.schedule.startswith("tile ") and whole.extent > 0
