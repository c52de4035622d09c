"""What is computed when compiling is paid for out of the budget."""

from __future__ import annotations

import numpy as np
import pytest

import mapsto.ops  # noqa: F401  (registers the ops)
from mapsto.budget import Budget, Meter
from mapsto.ir.dtypes import DType
from mapsto.ops.folding import fold_constants
from mapsto.ops.registry import op


@pytest.mark.parametrize("short", ["folded_operations", "folded_bytes"])
def test_constants_are_folded_as_long_as_the_budget_lasts(short: str) -> None:
    size = 1000
    x = np.arange(size, dtype=np.float32)
    amount = {"folded_operations": 3 * size, "folded_bytes": 4 * size}[short]  # elements that are touched, and made
    meter = Meter(Budget(**{short: 2.5 * amount}))  # type: ignore[arg-type]
    made = [fold_constants(op("add"), [x, x], {}, [(DType.F32, (size,))], meter) for _ in range(4)]
    for found in made[:2]:
        assert found is not None
        np.testing.assert_array_equal(found[0], 2 * x)
    assert made[2:] == [None, None]
