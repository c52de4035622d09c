"""What a division takes: each of its parts by itself, and runs of all of it, on numbers at random."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mapsto.errors import MapstoError
from mapsto.ir.expr import evaluate, symbols
from mapsto.ir.graph import Value
from mapsto.runtime.divided import DividedExecutable
from mapsto.runtime.divisions import DividedPart, Division, Whole
from mapsto.session.agreeing import agreed_least

_AGREEING, _MOST = 2, 8  # runs of each part
_WHOLE = 7  # runs of all, one after the other, whose median counts
_STREAM, _FIRST = 12, 4  # or stretches of so many of a stream, after the first ones, which fill it
_STRETCHES, _ENOUGH = 9, 2.0  # so many, or seconds of them: their median counts
_CLOSE = 1.25  # times as long as the best: what is tried once more
_TURNS, _FEWEST = 15, 3  # of each of them, at most and at least
_LONGEST = 2.0  # seconds of all parts
_MOST_BYTES = 1 << 30  # of the inputs


@dataclass(frozen=True)
class TriedRuns:
    """Seconds of a run. parts: of each, while all devices are at work (empty: they were not)."""

    seconds: float
    parts: tuple[float, ...]


class Trials:
    """Of divisions of one model."""

    def __init__(self, whole: Whole, sizes: Mapping[str, int], devices: Sequence[str]) -> None:
        """sizes: what to take open ones for."""
        self._whole = replace(whole, updates=())
        self._sizes, self._devices = sizes, devices
        rng = np.random.default_rng(0)
        shapes = [self._shape(value) for value in whole.inputs]
        known = all(shape is not None for shape in shapes)
        count = sum(math.prod(s) * v.dtype.size for v, s in zip(whole.inputs, shapes, strict=True) if s is not None)
        self._feed: dict[str, np.ndarray] | None = None
        if known and count <= _MOST_BYTES:
            pairs = zip(whole.inputs, shapes, strict=True)
            self._feed = {value.name: _some(value, shape, rng) for value, shape in pairs if shape is not None}

    def part_seconds(self, division: Division) -> list[float] | None:
        """Seconds of each part by itself, with its copies; None where that cannot be found out: data decides sizes, a
        part refuses such numbers, or it takes long.
        """
        if self._feed is None:
            return None
        values = dict(self._feed)
        end = time.perf_counter() + _LONGEST
        found = []
        try:
            for part in division.parts:
                if any(size not in self._sizes for size in part.told.values()):
                    return None
                told = {name: np.zeros((self._sizes[size], 0), bool) for name, size in part.told.items()}
                found.append(_taken(part, values, told))
                if time.perf_counter() > end:
                    return None
        except MapstoError:
            return None
        return found

    def runs(self, division: Division, is_stream: bool) -> TriedRuns:
        """Runs by themselves or in a stream of them, of a division whose parts could be tried."""
        assert self._feed is not None
        feed, exe = self._feed, DividedExecutable(self._whole, division, self._devices)
        if is_stream:
            return _streamed(exe, feed)
        taken = []
        for _ in range(_WHOLE):
            begun = time.perf_counter()
            exe.run(feed)
            taken.append(time.perf_counter() - begun)
        return TriedRuns(statistics.median(taken), ())

    def once_more(self, divisions: Sequence[Division], seconds: Sequence[float], is_stream: bool) -> list[float]:
        """The seconds of runs of divisions, where the best two are close those two by turns: what disturbed one of them
        for a second is not the division's.
        """
        found = list(seconds)
        best = sorted(range(len(found)), key=lambda k: found[k])[:2]
        if self._feed is not None and len(best) > 1 and found[best[1]] < found[best[0]] * _CLOSE:
            for k, again in zip(best, self.by_turns([divisions[k] for k in best], is_stream), strict=True):
                found[k] = again
        return found

    def by_turns(self, divisions: Sequence[Division], is_stream: bool) -> list[float]:
        """Seconds of a run of each, the median of turns."""
        assert self._feed is not None
        executables = [DividedExecutable(self._whole, each, self._devices) for each in divisions]
        taken: list[list[float]] = [[] for _ in executables]
        end = time.perf_counter() + _ENOUGH * len(executables)
        while len(taken[0]) < _TURNS and not (len(taken[0]) >= _FEWEST and time.perf_counter() > end):
            for executable, own in zip(executables, taken, strict=True):
                own.append(_turn(executable, self._feed, is_stream))
        return [statistics.median(own) for own in taken]

    def _shape(self, value: Value) -> tuple[int, ...] | None:
        known = [evaluate(dim, self._sizes) if symbols(dim) <= self._sizes.keys() else None for dim in value.shape]
        return None if None in known else tuple(int(str(dim)) for dim in known)


def _turn(exe: DividedExecutable, feed: dict[str, np.ndarray], is_stream: bool) -> float:
    """Seconds of a run, after one, or after the first ones of a stream: caches hold what another one left."""
    before, counted = (_FIRST, _STREAM) if is_stream else (1, 1)
    begun = 0.0
    runs = itertools.repeat(feed, before + counted)
    for at, _ in enumerate(exe.stream(runs) if is_stream else map(exe.run, runs), 1 - before):
        if at == 0:
            begun = time.perf_counter()
    return (time.perf_counter() - begun) / counted


def _streamed(exe: DividedExecutable, feed: dict[str, np.ndarray]) -> TriedRuns:
    """The medians of stretches of one stream."""
    stretches: list[float] = []
    parts: list[list[float]] = []
    end = 0.0

    def feeds() -> Iterator[dict[str, np.ndarray]]:
        while len(stretches) < _STRETCHES and not (stretches and time.perf_counter() > end):
            yield feed

    begun = 0.0
    for at, _ in enumerate(exe.stream(feeds()), 1 - _FIRST):
        now = time.perf_counter()
        if at == 0:
            begun, end = now, now + _ENOUGH
        elif at > 0 and at % _STREAM == 0:
            parts.append([spent.lately.seconds for spent in exe.times])
            stretches.append((now - begun) / _STREAM)
            begun = now
    return TriedRuns(statistics.median(stretches), tuple(map(statistics.median, zip(*parts, strict=True))))


def _taken(part: DividedPart, values: dict[str, np.ndarray], told: Mapping[str, np.ndarray]) -> float:
    """Its seconds; what it yields is put to the values."""
    names = [port.name for port in part.executable.program.inputs]
    feed = {name: told[name] if name in told else values[name] for name in names}
    made: dict[str, np.ndarray] = {}

    def run() -> float:
        begun = time.perf_counter()
        found = part.executable.run(feed)
        seconds = time.perf_counter() - begun
        made.update(found)
        return seconds

    run()  # it touches memory for the first time
    least = agreed_least(run, _AGREEING, _AGREEING, _MOST)
    values.update(made)
    return least


def _some(value: Value, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Zeros where they are no floats: what indices may be, nobody knows."""
    if value.dtype.is_float:
        return rng.standard_normal(shape).astype(value.dtype.numpy)
    return np.zeros(shape, value.dtype.numpy)
