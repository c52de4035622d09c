"""Whether memory still holds what it held: every change of a word, a byte or an order is seen, wherever it is."""

from __future__ import annotations

import numpy as np
import pytest

from mapsto.runtime.same import HeldMemory
from mapsto.runtime.same_ir import PAGE

SIZES = (1, 100, 1 << 14, (1 << 14) + 1, 5 * PAGE, 5 * PAGE + 17, 100_003)


def _arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in (0, *SIZES)]


def test_memory_that_nobody_wrote_is_the_same() -> None:
    assert HeldMemory([]).is_same()
    assert HeldMemory(_arrays()).is_same()


@pytest.mark.parametrize("at", range(1, len(SIZES) + 1))
def test_each_changed_bit_is_seen_and_its_return(at: int) -> None:
    arrays, rng = _arrays(), np.random.default_rng(1)
    held, array = HeldMemory(arrays), arrays[at]
    for place in {0, len(array) - 1, len(array) // 2, *rng.integers(0, len(array), 40).tolist()}:
        for bit in (1, 128):
            array[place] ^= bit
            assert not held.is_same()
            array[place] ^= bit
    assert held.is_same()


@pytest.mark.parametrize("apart", [1, 7, 8, 9, 64, 256, 511])
def test_words_that_change_places_are_seen(apart: int) -> None:
    array = np.random.default_rng(2).integers(0, 1 << 60, 8 * PAGE // 8, dtype=np.uint64)
    held = HeldMemory([array.view(np.uint8)])
    for first in (0, 5, 512 - apart - 1, 1024):
        pair, turned = [first, first + apart], [first + apart, first]
        array[pair] = array[turned]
        assert not held.is_same()
        array[pair] = array[turned]
    assert held.is_same()


def test_what_moved_is_looked_for_where_it_is_now() -> None:
    arrays = _arrays()
    held = HeldMemory(arrays)
    copy = arrays[-1].copy()
    moved = held.moved({len(SIZES): copy})
    arrays[-1][77] ^= 1
    assert moved.is_same() and not held.is_same()
    copy[77] ^= 1
    assert not moved.is_same()


def test_memory_need_not_be_aligned() -> None:
    whole = np.random.default_rng(3).integers(0, 256, 9 * PAGE, dtype=np.uint8)
    array = whole[3 : 3 + 8 * PAGE]
    held = HeldMemory([array])
    assert held.is_same()
    array[4 * PAGE + 1] ^= 1
    assert not held.is_same()
