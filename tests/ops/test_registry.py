"""When two extents broadcast only where they are equal."""

from __future__ import annotations

import pytest

from mapsto.ir.expr import Dim, maximum, minimum, sym
from mapsto.ops.registry import _equal_or_nothing

N, M = sym("n"), sym("m")


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        (2, 3, True),
        (maximum(N, 2), maximum(M, 2), True),
        (0, 5, True),
        (minimum(N, 8), N, True),  # where it is 1, so is n
        (minimum(N, 1), N, False),  # 1 beside any n
        (minimum(N, M), N, False),  # m may be 1
        (minimum(N, maximum(M, 2)), N, True),
        (minimum(N, 8) + 1, N, False),
        (N, M, False),
        (1, N, False),
        (N, 5, False),
    ],
)
def test_extents_that_are_equal_or_do_not_go_together(a: Dim, b: Dim, wanted: bool) -> None:
    assert _equal_or_nothing(a, b) == _equal_or_nothing(b, a) == wanted
