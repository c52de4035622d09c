"""Samples at places of a grid: right in all modes, and read as few times as ONNX's operator is."""

from __future__ import annotations

from typing import Any

import pytest
from tests.pytorch import torch

import mapsto
from mapsto.importers.torch import load

MODES = [(2, "bilinear"), (2, "nearest"), (2, "bicubic"), (3, "bilinear"), (3, "nearest")]


class Sampled(torch.nn.Module):
    def __init__(self, **asked: Any) -> None:
        super().__init__()
        self.asked = asked

    def forward(self, x: Any, grid: Any) -> Any:
        return torch.nn.functional.grid_sample(x, grid, **self.asked)


def examples(rank: int) -> tuple[Any, Any]:
    """An image, and places in it and around it."""
    torch.manual_seed(rank)
    return torch.randn(2, 3, *(5, 7, 4)[:rank]), torch.rand(2, *(6, 3, 2)[:rank], rank) * 3 - 1.5


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize(("rank", "mode"), MODES)
def test_a_grid(rank: int, mode: str, padding: str, aligned: bool) -> None:
    module, given = Sampled(mode=mode, padding_mode=padding, align_corners=aligned), examples(rank)
    made = mapsto.compile(module, given, threads=1, cache=False)(*given)
    torch.testing.assert_close(made, module(*given), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(("rank", "reads"), [(2, 4), (3, 8)])
def test_each_neighbour_is_read_once_by_one_index(rank: int, reads: int) -> None:
    """Torch takes it apart to an index for each axis, the batch's and the channels' too, each of which is checked."""
    ops = [node.op for node in load(Sampled(align_corners=False), examples(rank)).nodes]
    assert ops.count("gather_elements") == reads
    assert not {"gather_nd", "bounds_check"} & set(ops)
