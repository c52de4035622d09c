"""Nine families of models against torch, at sizes that nothing is compiled again for."""

from __future__ import annotations

import pytest

from tests.pytorch import torch  # isort: skip  (first: it skips the file where there is no torch)

from tests.importers.torch.closeness import assert_close
from tests.importers.torch.families import FAMILIES, module_of

import mapsto

SIZES = [(2, 5), (1, 1), (0, 3), (3, 0), (4, 9)]


@pytest.mark.parametrize("name", FAMILIES)
def test_forward(name: str) -> None:
    family, module = FAMILIES[name], module_of(name)
    places = [p.data_ptr() for p in module.parameters()]
    exe = mapsto.compile(module, family.shapes, example_inputs=family.inputs(3, 6), threads=1, cache=False)
    for batch, length in SIZES:
        inputs = family.inputs(batch, length)
        if not family.empty and 0 in (batch, length):
            continue
        with torch.no_grad():
            wanted = module(*inputs)
        assert_close(exe(*inputs), wanted, what=f"{name} {batch} {length}")
    assert exe.compilations == 1
    assert places == [p.data_ptr() for p in module.parameters()]
