"""What values were seen to be while data ran through a network, and the range that each is quantised by.

Four ways to choose one (*calibrators*), of a histogram of what was seen:

    min-max       all of it
    percentile    but for 1 of 100,000 on either side
    mse           the least mean square of what quantising does to it
    entropy       the least Kullback-Leibler divergence of the quantised distribution (Migacz, 8-bit inference with
                  TensorRT, GTC 2017)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mapsto.formats.equalise import ReadingWeights, factors_tried, powers_of
from mapsto.formats.format import Quantisation
from mapsto.formats.stored import quantisation_of

_BINS = 2048
_OUTSIDE = 1e-5
_TRIED = 64  # shares of the farthest
_LEAST = 0.05  # of them that is tried
_LEVELS = 256
_KEPT_OF_RUN, _KEPT = 1 << 16, 1 << 18  # elements that are kept to see what quantising does to channels

Histogram = npt.NDArray[np.float64]


@dataclass
class SeenValue:
    """Finite elements of one value: the lowest and the highest of each channel and the mean of squares, and, once these
    are known of all data, a histogram. axis: that of the channels (None: all are one). powers: of two, that elements of
    each channel are divided by where the value is quantised to bytes (none: they are not).
    """

    axis: int | None = None
    lows: Histogram = field(default_factory=lambda: np.full(1, np.inf))
    highs: Histogram = field(default_factory=lambda: np.full(1, -np.inf))
    sums: Histogram = field(default_factory=lambda: np.zeros(1))  # of squares
    elements: int = 0  # of a channel
    some: list[np.ndarray] = field(default_factory=list)  # elements, a row for each channel
    powers: tuple[int, ...] = ()
    counts: Histogram = field(default_factory=lambda: np.zeros(_BINS))

    def widen(self, array: np.ndarray) -> None:
        rows = self._channels(array)
        finite = np.isfinite(rows)
        self.lows = np.minimum(self.lows, rows.min(axis=1, initial=np.inf, where=finite))
        self.highs = np.maximum(self.highs, rows.max(axis=1, initial=-np.inf, where=finite))
        self.sums = self.sums + np.square(rows, dtype=np.float64).sum(axis=1, where=finite)
        self.elements += rows.shape[1]
        if self.axis is not None and sum(each.size for each in self.some) < _KEPT and finite.all():
            step = max(1, rows.size // _KEPT_OF_RUN)
            self.some.append(rows[:, int(rows.shape[1] % step) :: step].copy())

    def equalise(self, readers: Sequence[ReadingWeights], calibrator: str | None = None) -> None:
        """Chooses powers, once all data was widened to, by the weights that the value is multiplied by."""
        some = np.concatenate(self.some or [np.zeros((1, 0))], axis=1)
        if not some.size or not all(np.isfinite(each.array).all() for each in readers):
            return
        largest, squares = np.maximum(np.abs(self.lows), np.abs(self.highs)), self.sums / max(self.elements, 1)
        tried = factors_tried(largest, squares, readers)
        noise = np.stack([_noise(some / factors[:, None], calibrator) for factors in tried])
        self.powers, self.some = powers_of(tried, noise, squares, readers), []

    def count(self, array: np.ndarray) -> None:
        """Into the histogram, of what was widened to before. Zeros are left out: they are exact in any range."""
        if self.high > self.low:
            if self.powers:
                array = self._channels(array) / self._factors[:, None]
            self.counts += np.histogram(array[np.isfinite(array) & (array != 0)], _BINS, (self.low, self.high))[0]

    @property
    def low(self) -> float:
        """Of all elements, divided by their channels' factors."""
        return float((self.lows / self._factors).min())

    @property
    def high(self) -> float:
        return float((self.highs / self._factors).max())

    @property
    def edges(self) -> Histogram:
        return np.linspace(self.low, self.high, _BINS + 1)

    @property
    def reach(self) -> float:
        """The largest magnitude, as it is."""
        low, high = float(self.lows.min()), float(self.highs.max())
        return max(abs(low), abs(high)) if high >= low else 0.0

    @property
    def _factors(self) -> Histogram:
        return np.exp2(np.asarray(self.powers or (0,), np.float64))

    def _channels(self, array: np.ndarray) -> np.ndarray:
        if self.axis is None:
            return array.reshape(1, -1)
        return np.moveaxis(array, self.axis, 0).reshape(array.shape[self.axis], -1)


@dataclass(frozen=True)
class SeenRange:
    """How a value is quantised to bytes by what was seen of it, and its largest finite magnitude."""

    bytes: Quantisation
    reach: float


def seen_range(seen: SeenValue, calibrator: str | None = None) -> SeenRange:
    """Raises KeyError for a calibrator that is not there."""
    return SeenRange(quantisation(seen, calibrator), seen.reach)


def quantisation(seen: SeenValue, calibrator: str | None = None) -> Quantisation:
    """How a value of which this was seen is quantised to bytes. Raises KeyError for a calibrator that is not there."""
    way = CALIBRATORS[calibrator or USUAL]
    if not seen.high > seen.low:
        return quantisation_of(seen.low, seen.high) if seen.high == seen.low else quantisation_of(0.0, 0.0)
    return replace(quantisation_of(*way(seen)), powers=seen.powers)


def _noise(rows: np.ndarray, calibrator: str | None) -> Histogram:
    """The mean of the squares of what quantising all of it does to each row."""
    seen = SeenValue()
    seen.widen(rows)
    seen.count(rows)
    by = quantisation(seen, calibrator)
    whole = np.clip(np.rint(rows / by.scale) + by.zero, 0, _LEVELS - 1)
    noise: Histogram = np.square((whole - by.zero) * by.scale - rows).mean(axis=1)
    return noise


def _min_max(seen: SeenValue) -> tuple[float, float]:
    return seen.low, seen.high


def _percentile(seen: SeenValue) -> tuple[float, float]:
    below = seen.counts.cumsum() / seen.counts.sum()
    first = int(np.searchsorted(below, _OUTSIDE, side="right"))
    last = int(np.searchsorted(below, 1 - _OUTSIDE, side="left"))
    return float(seen.edges[first]), float(seen.edges[last + 1])


def _least(seen: SeenValue, loss: Callable[[SeenValue, float, float], float]) -> tuple[float, float]:
    """Where what is farther from 0 than a share of the farthest is cut, the share of the least loss; the widest of
    equals.
    """
    farthest = max(abs(seen.low), abs(seen.high))
    cut = [(max(seen.low, -reach), min(seen.high, reach)) for reach in farthest * np.geomspace(1.0, _LEAST, _TRIED)]
    losses = [loss(seen, low, high) for low, high in cut]
    return cut[int(np.argmin(losses))]


def _square(seen: SeenValue, low: float, high: float) -> float:
    middles = (seen.edges[:-1] + seen.edges[1:]) / 2
    by = quantisation_of(low, high)
    whole = np.clip(np.rint(middles / by.scale) + by.zero, 0, _LEVELS - 1)
    inside = (whole > 0) & (whole < _LEVELS - 1)
    # inside, elements of a bin lie anywhere in it: their mean error is that of a step
    error = np.where(inside, by.scale**2 / 12, ((whole - by.zero) * by.scale - middles) ** 2)
    return float(seen.counts @ error)


def _divergence(seen: SeenValue, low: float, high: float) -> float:
    edges, counts = seen.edges, seen.counts
    first, last = np.searchsorted(edges, [low, high], side="left").clip(0, _BINS)
    inside = slice(max(int(first) - 1, 0), max(int(last), int(first) + 1))
    cut = counts[inside].copy()
    cut[0] += counts[: inside.start].sum()
    cut[-1] += counts[inside.stop :].sum()
    levels = np.minimum(np.arange(len(cut)) * _LEVELS // len(cut), _LEVELS - 1)
    filled = counts[inside] > 0
    sums, bins = np.bincount(levels, counts[inside], _LEVELS), np.bincount(levels, filled, _LEVELS)
    spread = np.where(filled, sums[levels] / np.maximum(bins[levels], 1), 0.0)
    p, q = cut / cut.sum(), spread / max(spread.sum(), 1.0)
    some = p > 0
    return float((p[some] * np.log(p[some] / np.maximum(q[some], 1e-12))).sum())


USUAL = "mse"
CALIBRATORS: Mapping[str, Callable[[SeenValue], tuple[float, float]]] = {
    USUAL: lambda seen: _least(seen, _square),
    "min-max": _min_max,
    "percentile": _percentile,
    "entropy": lambda seen: _least(seen, _divergence),
}
