"""Zeros of a layout: every element that is not the tensor's is written, and each of them once."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from mapsto.devices.generic.border import zero_segments
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import evaluate
from mapsto.kernel.ast import Const
from mapsto.plan.layout import Layout, blocked, permuted

BORDERS = list(itertools.product((0, 1, 2), repeat=2))


def zeros_of(layout: Layout, tail: bool = True) -> Counter[int]:
    """How often each place of the buffer is written."""
    names = (f"z{n}" for n in itertools.count())
    found: Counter[int] = Counter()
    for segment in zero_segments("t", DType.F32, layout, lambda hint: next(names), tail=tail):
        (step,) = segment.steps
        assert isinstance(step.value, Const) and step.value.value == 0
        extents = [range(evaluate(row.extent, {})) for row in segment.rows]
        for point in itertools.product(*extents):
            found[evaluate(step.place, {row.name: at for row, at in zip(segment.rows, point, strict=True)})] += 1
    return found


def elements_of(layout: Layout) -> set[int]:
    return {layout.place(index) for index in np.ndindex(*layout.shape)}  # type: ignore[arg-type, misc]


@pytest.mark.parametrize("rows, columns", list(itertools.product(BORDERS, BORDERS)))
def test_what_is_no_element_is_zero_once(rows: tuple[int, int], columns: tuple[int, int]) -> None:
    border = [(0, 0), rows, columns]
    for layout in (
        permuted((2, 3, 4), (0, 1, 2), border),
        permuted((2, 3, 4), (1, 2, 0), border),
        blocked((5, 3, 4), 0, 4, border),
        blocked((8, 3, 4), 0, 4, border),
        blocked((1, 1, 2), 0, 4, border),
    ):
        rest = set(range(layout.elements)) - elements_of(layout)  # type: ignore[arg-type]
        assert zeros_of(layout) == Counter(rest), str(layout)


def test_the_tail_is_left_to_its_writer() -> None:
    layout = blocked((5, 3), 0, 4, [(0, 0), (1, 1)])
    written = zeros_of(layout, tail=False)
    lanes = {layout.place((channel, column)) for channel in (5, 6, 7) for column in range(3)}
    assert set(written) == set(range(layout.elements)) - elements_of(layout) - lanes and set(written.values()) == {1}  # type: ignore[arg-type]
