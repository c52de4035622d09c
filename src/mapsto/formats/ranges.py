"""What values were seen to be while data ran through a network, and the range that each is quantised by.

Four ways to choose one (*calibrators*), of a histogram of what was seen:

    min-max       all of it
    percentile    but for 1 of 100,000 on either side
    mse           the least mean square of what quantising does to it
    entropy       the least Kullback-Leibler divergence of the quantised distribution (Migacz, 8-bit inference with
                  TensorRT, GTC 2017)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mapsto.formats.format import Quantisation
from mapsto.formats.stored import quantisation_of

_BINS = 2048
_OUTSIDE = 1e-5
_TRIED = 64  # shares of the farthest
_LEAST = 0.05  # of them that is tried
_LEVELS = 256

Histogram = npt.NDArray[np.float64]


@dataclass
class SeenValue:
    """Finite elements of one value: the lowest and the highest, and, once these are known of all data, a histogram."""

    low: float = np.inf
    high: float = -np.inf
    counts: Histogram = field(default_factory=lambda: np.zeros(_BINS))

    def widen(self, array: np.ndarray) -> None:
        finite = array[np.isfinite(array)]
        if finite.size:
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))

    def count(self, array: np.ndarray) -> None:
        """Into the histogram, of what was widened to before. Zeros are left out: they are exact in any range."""
        if self.high > self.low:
            self.counts += np.histogram(array[np.isfinite(array) & (array != 0)], _BINS, (self.low, self.high))[0]

    @property
    def edges(self) -> Histogram:
        return np.linspace(self.low, self.high, _BINS + 1)


@dataclass(frozen=True)
class SeenRange:
    """How a value is quantised to bytes by what was seen of it, and its largest finite magnitude."""

    bytes: Quantisation
    reach: float


def seen_range(seen: SeenValue, calibrator: str | None = None) -> SeenRange:
    """Raises KeyError for a calibrator that is not there."""
    reach = max(abs(seen.low), abs(seen.high)) if seen.high >= seen.low else 0.0
    return SeenRange(quantisation(seen, calibrator), reach)


def quantisation(seen: SeenValue, calibrator: str | None = None) -> Quantisation:
    """How a value of which this was seen is quantised to bytes. Raises KeyError for a calibrator that is not there."""
    way = CALIBRATORS[calibrator or USUAL]
    if not seen.high > seen.low:
        return quantisation_of(seen.low, seen.high) if seen.high == seen.low else quantisation_of(0.0, 0.0)
    return quantisation_of(*way(seen))


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
