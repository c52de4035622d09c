"""Planes at points: behind one another, and in different sets of the nearest cache."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from mapsto.devices.contraction.planes import LINE, plane

_SETS = 64  # of the first-level caches of today's cores, with lines of 64 bytes


@given(st.integers(0, 1 << 20), st.sampled_from([1, 2, 4, 8]))
def test_planes(elements: int, size: int) -> None:
    apart = plane(elements, size)
    assert elements <= apart < elements + 2 * LINE // size + 1
    assert apart * size % LINE == 0
    lines = apart * size // LINE
    assert len({number * lines % _SETS for number in range(_SETS)}) == _SETS
