"""Layers and losses of torch.nn, one by one, through torch's compiler: results, gradients, and what is written."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.pytorch import torch  # isort: skip  (first: it skips the file where there is no torch)

from tests.importers.torch.closeness import assert_close
from tests.importers.torch.layers import LAYERS
from torch.utils import _pytree as pytree

import mapsto.torch


def _step(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, list[Any]]:
    """The results, and the gradients of what can have one."""
    given = [x.clone().requires_grad_() if x.is_floating_point() and k == 0 else x for k, x in enumerate(inputs)]
    results = module(*given)
    parts = [r for r in pytree.tree_leaves(results) if r.requires_grad]
    sum((part * torch.linspace(-1, 2, part.numel()).view(part.shape)).sum() for part in parts).backward()
    own = [*module.parameters(), *(x for x in given if x.requires_grad)]
    return results, [p.grad for p in own]


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    torch._dynamo.reset()
    mapsto.torch.reset()
    torch.manual_seed(11)
    make, inputs = LAYERS[name]
    theirs, given = make(), inputs()
    ours = copy.deepcopy(theirs)
    compiled = torch.compile(
        ours, backend=mapsto.torch.backend, fullgraph=True, options={"threads": 1, "cache": False}
    )
    results, gradients = _step(compiled, given)
    wanted, expected = _step(theirs, given)
    assert_close(results, wanted, what=name)
    assert_close(gradients, expected, what=f"gradients of {name}")
    assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()), what=f"buffers of {name}")
    assert "1 backward" in mapsto.torch.report()
