"""Buffers alive together never overlap, whatever the sizes; layouts stay near the lower bound."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.runtime.arena import Arena, lower_bound, round_sizes


@st.composite
def _lifetimes(draw):
    count = draw(st.integers(1, 25))
    spans = draw(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 8)), min_size=count, max_size=count))
    first = np.array([start for start, _ in spans])
    last = np.array([start + length for start, length in spans])
    sizes = [draw(st.lists(st.integers(0, 3000), min_size=count, max_size=count)) for _ in range(3)]
    return first, last, [np.array(s) for s in sizes]


def _check(first, last, sizes, offsets, total):
    sizes = round_sizes(sizes)
    assert (offsets >= 0).all() and (offsets % 64 == 0).all()
    assert total == (offsets + sizes).max()
    for i in range(len(sizes)):
        for j in range(i):
            together = first[i] <= last[j] and first[j] <= last[i]
            apart = offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]
            assert not together or apart or not (sizes[i] and sizes[j])


@settings(max_examples=150, deadline=None)
@given(_lifetimes())
def test_buffers_alive_together_lie_apart(case):
    first, last, several = case
    arena = Arena(first, last)
    for sizes in several:  # the second and third are laid out by the order that the first found
        offsets, total, least = arena.layout(sizes)
        _check(first, last, sizes, offsets, total)
        assert least <= total
        assert least == max(
            sum(int(s) for s, a, b in zip(round_sizes(sizes), first, last, strict=True) if a <= t <= b)
            for t in range(30)
        )


def test_a_chain_needs_two_buffers_of_room():
    first = np.arange(100)
    offsets, total, least = Arena(first, first + 1).layout(np.full(100, 1000))
    assert total == least == 2048


def test_a_known_order_is_kept_for_other_sizes():
    rng = np.random.default_rng(0)
    first = np.sort(rng.integers(0, 300, 300))
    last = first + rng.integers(0, 12, 300)
    sizes = rng.integers(1, 100_000, 300)
    arena = Arena(first, last)
    _, total, least = arena.layout(sizes)
    assert total <= 1.15 * least
    packing = arena._packing
    _, total, least = arena.layout(sizes * 3)
    assert arena._packing is packing and total <= 1.2 * least


def test_a_negative_size_is_no_size():
    first = np.array([0, 0])
    offsets, total, _ = Arena(first, first).layout(np.array([-400, 64]))
    assert total == 64 and offsets.tolist() == [0, 0]


def test_nothing_needs_nothing():
    empty = np.zeros(0, np.int64)
    assert lower_bound(empty, empty, empty) == 0
    assert Arena(empty, empty).layout(empty)[1] == 0
