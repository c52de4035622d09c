"""What the search keeps of many partial assignments."""

from __future__ import annotations

import numpy as np
import pytest

from mapsto.placement.search import _OF_A_KIND, _spread


@pytest.mark.parametrize(
    "group", [[0] * 9 + [1] * 3 + [2] * 7, [2, 0, 1] * 8, [5, 5, 5, 5, 5, 5, 0, 5, 1], [3], []], ids=str
)
def test_the_first_of_each_kind_come_before_all_others_in_their_order(group: list[int]) -> None:
    before: dict[int, int] = {}
    first, others = [], []
    for row, kind in enumerate(group):
        before[kind] = before.get(kind, 0) + 1
        (first if before[kind] <= _OF_A_KIND else others).append(row)
    assert _spread(np.array(group, np.intp)).tolist() == first + others
