"""Which layout a value is given, by the dim that is to lie innermost and the border that windows want."""

from __future__ import annotations

import pytest

from mapsto.devices.cpu.traits import TRAITS
from mapsto.ir.expr import sym
from mapsto.plan.home import Border, layout_for, same_places
from mapsto.plan.layout import DimBlock, blocked, permuted, plain
from mapsto.plan.votes import wider

NONE: Border = ((0, 0), (0, 0), (0, 0))


@pytest.mark.parametrize(
    ("shape", "inner", "border", "block"),
    [
        ((1, 32, 6), 1, NONE, DimBlock(1, 16)),
        ((1, 32, 6), 1, ((0, 0), (0, 0), (2, 1)), DimBlock(1, 16)),
        ((1, 32, 6), 1, ((0, 0), (1, 0), (0, 0)), None),  # zeros would lie inside of blocks
        ((1, 32, 6), 1, ((0, 0), (0, 1), (0, 0)), None),
        ((1, 7, 6), 1, NONE, None),  # shorter than half a block
        ((1, 8, 6), 1, NONE, DimBlock(1, 16)),
        ((1, sym("c"), 6), 1, NONE, None),
        ((1, 6, 32), 2, NONE, None),  # innermost as it is
        ((1, 6, 32), None, NONE, None),
    ],
)
def test_long_dims_without_a_border_lie_in_blocks(shape: tuple, inner: int, border: Border, block: object) -> None:  # type: ignore[type-arg]
    layout = layout_for(shape, inner, TRAITS, border)
    assert layout.block == block and layout.border == border
    if block is None and inner is not None:
        assert layout.axes[-1].dim == inner and layout.axes[-1].stride == 1


@pytest.mark.parametrize("extent", [*range(8, 50)])
def test_a_block_has_a_tail_where_any_of_its_lanes_is_past_the_end(extent: int) -> None:
    assert blocked((1, extent, 4), 1, 16).has_tail == bool(extent % 16)
    assert not permuted((1, extent, 4), (0, 2, 1)).has_tail


def test_a_tail_is_not_ruled_out_for_an_open_extent() -> None:
    assert blocked((1, sym("c"), 4), 1, 16).has_tail


def test_an_uneven_border_begins_before_the_first_element() -> None:
    layout = permuted((2, 3), (0, 1), ((0, 0), (2, 1)))
    assert [layout.place((0, at)) for at in range(-2, 4)] == list(range(6)) and layout.place((1, 0)) == 8


def test_the_wider_border_on_each_side() -> None:
    assert wider(((1, 0), (2, 5)), ((0, 3), (4, 1))) == ((1, 3), (4, 5))
    assert wider(((0, 3), (4, 1)), ((1, 0), (2, 5))) == ((1, 3), (4, 5))
    assert wider(None, ((1, 0),)) == ((1, 0),)


def test_where_an_extent_is_one_its_stride_does_not_matter() -> None:
    assert same_places(permuted((4, 1, 5), (1, 0, 2)), plain((4, 1, 5)))
    assert not same_places(permuted((4, 2, 5), (1, 0, 2)), plain((4, 2, 5)))
