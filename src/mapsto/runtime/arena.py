"""Addresses in the arena: buffers that are alive together lie apart, others share memory.

A first packing is best-fit, largest first, or earliest first where that needs less. What it found, "this buffer lies
below that one", is kept as an order that any other sizes can be laid out by in a fraction of a millisecond: each buffer
starts where the highest one below it ends (a longest path).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mapsto.runtime.program import ALIGNMENT

_GOOD_ENOUGH = 1.05  # times the lower bound: no other packing is tried
_TOLERATED = (
    1.25  # times the lower bound: a known order is kept for other sizes, as packing anew takes tens of milliseconds
)
_LARGEST = 1 << 48  # bytes: beyond any address; keeps sums within 64 bits


def round_sizes(sizes: np.ndarray) -> np.ndarray:
    """Sizes as they are laid out: multiples of the alignment. Less than nothing (in a branch that these sizes rule out)
    is nothing.
    """
    rounded: np.ndarray = -(-np.clip(sizes, 0, _LARGEST) // ALIGNMENT) * ALIGNMENT
    return rounded


def lower_bound(sizes: np.ndarray, first: np.ndarray, last: np.ndarray) -> int:
    """The most bytes alive at once: no layout can do with fewer."""
    if not len(sizes):
        return 0
    change = np.zeros(int(last.max()) + 2, np.int64)
    np.add.at(change, first, sizes)
    np.add.at(change, last + 1, -sizes)
    return int(np.cumsum(change).max())


def best_fit(sizes: np.ndarray, first: np.ndarray, last: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Offsets: each buffer in turn goes into the tightest gap between those placed already and alive with it, else on
    top of them.
    """
    offsets = np.zeros(len(sizes), np.int64)
    placed = np.zeros(len(sizes), bool)
    for i in order:
        beside = np.flatnonzero(placed & (first <= last[i]) & (last >= first[i]) & (sizes > 0))
        offsets[i] = _tightest_gap(int(sizes[i]), offsets[beside], offsets[beside] + sizes[beside])
        placed[i] = True
    return offsets


def _tightest_gap(size: int, starts: np.ndarray, stops: np.ndarray) -> int:
    if not len(starts) or size == 0:
        return 0
    order = np.argsort(starts, kind="stable")
    starts = starts[order]
    floor = np.concatenate(([0], np.maximum.accumulate(stops[order])))
    room = starts - floor[:-1]
    fitting = np.flatnonzero(room >= size)
    if not len(fitting):
        return int(floor[-1])
    return int(floor[fitting[np.argmin(room[fitting])]])


@dataclass(frozen=True)
class Stacking:
    """An order of buffers from the bottom up: by levels, each buffer with those that lie below it."""

    levels: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]
    """(buffers of the level, all buffers below them in one array, where in it each one's begin)"""

    def offsets(self, sizes: np.ndarray) -> np.ndarray:
        stops = sizes.copy()
        for buffers, below, starts in self.levels:
            stops[buffers] += np.maximum.reduceat(stops[below], starts)
        starts_at: np.ndarray = stops - sizes
        return starts_at


def find_order(offsets: np.ndarray, first: np.ndarray, last: np.ndarray) -> Stacking:
    """What lies below what in a layout, among buffers alive together."""
    level = np.zeros(len(offsets), np.int64)
    below: list[np.ndarray] = [np.zeros(0, np.int64)] * len(offsets)
    done = np.zeros(len(offsets), bool)
    for i in np.lexsort((np.arange(len(offsets)), offsets)):
        below[i] = np.flatnonzero(done & (first <= last[i]) & (last >= first[i]))
        if len(below[i]):
            level[i] = level[below[i]].max() + 1
        done[i] = True
    levels = []
    for number in range(1, int(level.max(initial=0)) + 1):
        buffers = np.flatnonzero(level == number)
        lengths = [len(below[b]) for b in buffers]
        starts = np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.int64)
        levels.append((buffers, np.concatenate([below[b] for b in buffers]), starts))
    return Stacking(tuple(levels))


class Arena:
    """Lays out one chunk of memory for buffers of given lifetimes, for whatever sizes a run brings."""

    def __init__(self, first: np.ndarray, last: np.ndarray) -> None:
        self._first = first
        self._last = last
        self._packing: Stacking | None = None
        self._tolerated = _TOLERATED

    def layout(self, sizes: np.ndarray) -> tuple[np.ndarray, int, int]:
        """(offsets, bytes in all, lower bound) for these sizes."""
        sizes = round_sizes(sizes)
        least = lower_bound(sizes, self._first, self._last)
        if self._packing is not None:
            offsets = self._packing.offsets(sizes)
            total = int((offsets + sizes).max(initial=0))
            if total <= least * self._tolerated:
                return offsets, total, least
        total, offsets = self._pack(sizes, least)
        self._packing = find_order(offsets, self._first, self._last)
        self._tolerated = max(_TOLERATED, 1.1 * total / max(least, 1))
        return offsets, total, least

    def _pack(self, sizes: np.ndarray, least: int) -> tuple[int, np.ndarray]:
        by_size = np.lexsort((self._first, -sizes))
        by_time = np.lexsort((-sizes, self._first))
        best: tuple[int, np.ndarray] | None = None
        for order in (by_size, by_time):
            offsets = best_fit(sizes, self._first, self._last, order)
            total = int((offsets + sizes).max(initial=0))
            if best is None or total < best[0]:
                best = (total, offsets)
            if best[0] <= least * _GOOD_ENOUGH:
                break
        assert best is not None
        return best
