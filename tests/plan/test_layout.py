"""Layouts: distinct elements lie in distinct places, slices and views lie where their sources do."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, evaluate, floordiv, mod, mul, sym
from mapsto.kernel.ast import Iter, Load, Stmt
from mapsto.plan.home import same_places
from mapsto.plan.layout import Layout, blocked, of_place, permuted, plain
from mapsto.plan.views import view_layout

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


def places(layout: Layout) -> list[int]:
    return [int(layout.place(index)) for index in itertools.product(*(range(int(e)) for e in layout.shape))]


@given(shapes, st.integers(0, 3), st.sampled_from([2, 4, 16]), st.integers(0, 2))
def test_elements_lie_apart_and_inside(shape: tuple[int, ...], dim: int, block: int, width: int) -> None:
    dim %= len(shape)
    border = tuple((0, 0) if d == dim else (width, width + 1) for d in range(len(shape)))
    for layout in (plain(shape), permuted(shape, range(len(shape))[::-1], border), blocked(shape, dim, block, border)):
        found = places(layout)
        assert len(set(found)) == len(found)
        assert min(found) >= 0 and max(found) < int(layout.elements)


@given(shapes, st.data())
def test_a_slice_lies_where_its_elements_lay(shape: tuple[int, ...], data: st.DataObject) -> None:
    dim = data.draw(st.integers(0, len(shape) - 1))
    start = data.draw(st.integers(0, shape[dim] - 1))
    extent = data.draw(st.integers(1, shape[dim] - start))
    whole = permuted(shape, range(len(shape)), [(1, 2)] * len(shape))
    part = whole.slice(dim, start, extent)
    for index in itertools.product(*(range(int(e)) for e in part.shape)):
        moved = tuple(i + start if d == dim else i for d, i in enumerate(index))
        assert part.place(index) == whole.place(moved)


def test_a_blocked_slice_starts_at_a_block() -> None:
    whole = blocked((1, 48, 4, 4), 1, 16)
    part = whole.slice(1, 32, 16)
    assert part.place((0, 3, 2, 1)) == whole.place((0, 35, 2, 1))


def test_a_transpose_of_a_blocked_layout_is_a_layout() -> None:
    source = blocked((1, 32, 6), 1, 16)
    view = of_place((1, 6, 32), ("n", "t", "c"), source.place((sym("n"), sym("c"), sym("t"))), 16, source.elements)
    assert view is not None and view.block == (2, 16)
    assert all(view.place((0, t, c)) == source.place((0, c, t)) for t in range(6) for c in range(32))


def test_heads_of_a_blocked_layout_are_a_view_only_where_blocks_do_not_cross_them() -> None:
    for width, fits in ((32, True), (24, False)):
        source = blocked((1, 2 * width, 5), 1, 16)
        names, shape = ("h", "d", "t"), (2, width, 5)
        place = source.place((0, sym("h") * width + sym("d"), sym("t")))
        assert (of_place(shape, names, place, 16, source.elements) is not None) == fits


@pytest.mark.parametrize("height", [7, 12])
def test_symbolic_extents_give_the_places_of_numbers(height: int) -> None:
    symbolic = blocked((1, 32, sym("h"), 9), 1, 16, ((0, 0), (0, 0), (1, 1), (2, 2)))
    numeric = blocked((1, 32, height, 9), 1, 16, ((0, 0), (0, 0), (1, 1), (2, 2)))
    for index in ((0, 17, 3, 4), (0, 31, height - 1, 8)):
        assert evaluate(symbolic.place(index), {"h": height}) == numeric.place(index)


@pytest.mark.parametrize("time, batch", [(5, 3), (5, 1), (sym("t"), sym("b")), (sym("t"), 1)])
def test_leading_axes_made_one_and_parted_again_are_plain(time: Dim, batch: Dim) -> None:
    """What a product over all rows reads and writes: no copy lies between it and what has the axes apart."""
    t, b, r, c = (sym(name) for name in "tbrc")
    apart, one = plain((time, batch, 24)), plain((mul(time, batch), 24))
    rows = Stmt(
        "y",
        DType.F32,
        (Iter("r", one.shape[0]), Iter("c", 24)),
        Load("x", (floordiv(r, batch), mod(r, batch), c), DType.F32),
    )
    merged = view_layout(rows, rows.value, apart, 16)  # type: ignore[arg-type]
    assert merged is not None and same_places(merged, one)
    assert all(axis.div == 1 and axis.size is None for axis in merged.axes)
    steps = Stmt(
        "y", DType.F32, (Iter("t", time), Iter("b", batch), Iter("c", 24)), Load("x", (t * batch + b, c), DType.F32)
    )
    parted = view_layout(steps, steps.value, one, 16)  # type: ignore[arg-type]
    assert parted is not None and same_places(parted, apart)
