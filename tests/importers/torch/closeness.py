"""When results are those of torch: structure, shapes and types the same, numbers within 1e-5 of the largest."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree


def assert_close(ours: Any, theirs: Any, tolerance: float = 1e-5, what: str = "") -> None:
    found, spec = pytree.tree_flatten(ours)
    wanted, other = pytree.tree_flatten(theirs)
    assert spec == other, f"{what}: {spec} is not {other}"
    for k, (a, b) in enumerate(zip(found, wanted, strict=True)):
        if not isinstance(b, torch.Tensor):
            assert type(a) is type(b) and a == b, f"{what}[{k}]: {a!r} is not {b!r}"
            continue
        assert isinstance(a, torch.Tensor) and a.shape == b.shape and a.dtype == b.dtype, f"{what}[{k}]: {a} {b}"
        a, b = a.detach(), b.detach()
        if not b.is_floating_point():
            assert torch.equal(a, b), f"{what}[{k}]"
            continue
        a, b = a.double(), b.double()
        finite = b.isfinite()
        assert torch.equal(a[~finite].nan_to_num(0.125), b[~finite].nan_to_num(0.125)), f"{what}[{k}]: {a} {b}"
        largest = max(1.0, float(b[finite].abs().max())) if finite.any() else 1.0
        off = float((a[finite] - b[finite]).abs().max()) if finite.any() else 0.0
        assert off <= tolerance * largest, f"{what}[{k}]: off by {off:.3g} of {largest:.3g}"
