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


class Attends(torch.nn.Module):
    """A projection whose parts are taken apart as heads, attention, and a projection of what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.outside = torch.nn.Linear(8, 24), torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.inside(x).view(3, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return torch.relu(self.outside(y.transpose(1, 2).reshape(12, 8)))


def _kept_by(module: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The module's result, and the tensors that are kept for its backward graph."""
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        return module(x), kept


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def test_what_is_kept_is_looked_at_where_it_is() -> None:
    """Turned weights in the weights, heads in what was projected: no tensors of their own."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    theirs = Attends()
    ours = copy.deepcopy(theirs)
    x = torch.randn(12, 8)
    y, kept = _kept_by(torch.compile(ours, backend=mapsto.torch.backend, options={"threads": 1, "cache": False}), x)
    weights = {_storage(p) for p in ours.parameters()}
    turned = [t for t in kept if _storage(t) in weights]
    heads = [t for t in kept if tuple(t.shape) == (3, 2, 4, 4) and _storage(t) not in weights]
    assert turned
    assert len(heads) >= 3 and len({_storage(t) for t in heads}) < len(heads)
    assert any(not t.is_contiguous() for t in heads)
    z = theirs(x)
    assert_close(y, z, what="result")
    for result in (y, z):
        (result * torch.linspace(-1, 1, result.numel()).view(result.shape)).sum().backward()
    for (key, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert_close(a.grad, b.grad, what=f"gradient of {key}")


def test_a_weight_that_is_written_into_before_the_backward_graph_is_an_error_as_in_torch() -> None:
    torch._dynamo.reset()
    module = Attends()
    run = torch.compile(module, backend=mapsto.torch.backend, options={"threads": 1, "cache": False})
    y = run(torch.randn(12, 8, requires_grad=True))
    with torch.no_grad():
        module.outside.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("lying", [torch.contiguous_format, torch.channels_last])
def test_tensors_in_another_order_of_axes(lying: torch.memory_format) -> None:
    """Weights, inputs, and what is kept of both, as the user has laid them."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    conv = torch.nn.Conv2d
    theirs = torch.nn.Sequential(conv(3, 8, 3, 2), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), conv(8, 4, 1)).train()
    theirs.to(memory_format=lying)
    ours = copy.deepcopy(theirs)
    run = torch.compile(ours, backend=mapsto.torch.backend, options={"threads": 1, "cache": False})
    for seed in range(2):
        x = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(seed)).to(memory_format=lying)
        for module in (run, theirs):
            y = module(x)
            (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
    scale = max(float(p.grad.abs().max()) for p in theirs.parameters())
    for (key, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert_close(a.grad / scale, b.grad / scale, what=f"gradient of {key}")


def test_what_is_kept_of_a_copy_is_not_what_was_copied() -> None:
    """A copy of what comes in stays as it was where that is written into before the backward graph runs."""
    torch._dynamo.reset()

    def squares(x: torch.Tensor) -> torch.Tensor:
        y = x.t().clone()
        return y * y.detach().clone() * 3

    run = torch.compile(squares, backend=mapsto.torch.backend, options={"threads": 1, "cache": False})
    start, found = torch.linspace(-1, 1, 12).view(3, 4), []
    for each in (run, squares):
        x = start.clone().requires_grad_()
        y = each(x)
        with torch.no_grad():
            x.mul_(5)
        y.sum().backward()
        found.append(x.grad)
    assert_close(found[0], found[1], what="gradient")
