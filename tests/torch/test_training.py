"""Steps of training through `torch.compile(backend=mapsto.torch.backend)`, forward and backward, against torch."""

from __future__ import annotations

import copy

import pytest

from tests.pytorch import torch  # isort: skip  (first: it skips the file where there is no torch)

from tests.importers.torch.closeness import assert_close
from tests.importers.torch.families import FAMILIES, module_of

import mapsto.torch


@pytest.mark.parametrize("name", FAMILIES)
def test_a_step(name: str) -> None:
    """Loss, gradients, and what is written into buffers, in training with dropout by torch's generator."""
    torch._dynamo.reset()
    mapsto.torch.reset()
    theirs = module_of(name).train()
    ours = copy.deepcopy(theirs)
    inputs = FAMILIES[name].inputs(3, 6)
    compiled = torch.compile(ours, backend=mapsto.torch.backend, options={"threads": 1, "cache": False})
    found = []
    for module in (compiled, theirs):
        torch.manual_seed(3)
        results = module(*inputs)
        parts = results if isinstance(results, tuple) else (results,)
        loss = sum((part * torch.linspace(-1, 1, part.numel()).view(part.shape)).sum() for part in parts)
        loss.backward()
        found.append(loss.detach())
    assert_close(found[0], found[1], what="loss")
    scale = max(float(p.grad.abs().max()) for p in theirs.parameters())
    for (key, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert_close(a.grad / scale, b.grad / scale, what=f"gradient of {key}")
    for (key, a), (_, b) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        assert_close(a, b, what=key)
    said = mapsto.torch.report()
    assert "left to torch: none" in said, said
