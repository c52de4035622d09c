"""Powers of two that make the channels of a value alike before it is quantised to bytes.

    sum over c of x[c] w[c]  =  sum over c of (x[c] / f[c]) (w[c] f[c])        f[c] a power of two: exact

A value has one step for all of its channels, weights have one for each channel of the result: the channel that reaches
farthest sets the step of all others. Factors pass reach on from what is read to the weights, or back. With the
reach a[c] of what is read (the largest magnitude, or the root mean square) and the largest magnitude v[c] of the
weights, as a share of the largest of their result's channel,

    f[c] = a[c]^s / v[c]^(1 - s)

for s of 1/4 to 1. Those are taken whose error is predicted to be least, or none at all. (Cross-layer equalisation:
Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019; with what data shows,
and without touching what makes the value: Xiao et al., SmoothQuant, ICML 2023.)

The error of a sum, roundings being independent: the sum of (w f)^2 e^2 and (x/f)^2 d^2/12, with e what quantising does
to x/f, which is seen on some of the data, and d the step of weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_WEIGHT_STEPS = 127
_SHARES = (0.25, 0.5, 0.75, 1.0)  # s above
_BETTER = 0.9  # of the squared error: what is predicted to gain less is left as it is
_LEAST = 1e-4  # of the largest channel: what is smaller is taken to be so large
_ORDINARY = (1e-30, 1e30)  # largest magnitudes: no factor takes others out of the range of f32
_AT_ONCE = 1 << 21  # weights
FARTHEST = 12  # the largest power, to either side

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ReadingWeights:
    """Constant weights that a value is multiplied by: of `conv` [result, read / groups, *window], of `matmul`
    [read, result]; their groups.
    """

    op: str
    array: np.ndarray
    groups: int = 1

    @property
    def channels(self) -> int:
        """Of what is read."""
        return int(self.array.shape[0] if self.op == "matmul" else self.array.shape[1] * self.groups)

    def rows(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Some of the result's channels at once, of one group: which channels they read, and their weights
        [result, read, window].
        """
        whole = self.array.T[:, :, None] if self.op == "matmul" else self.array.reshape(*self.array.shape[:2], -1)
        each, width = max(whole.shape[0] // self.groups, 1), whole.shape[1]
        some = max(1, _AT_ONCE // max(width * whole.shape[2], 1))
        for group in range(self.groups):
            read = slice(group * width, (group + 1) * width)
            for start in range(0, each, some):
                end = min(start + some, each)
                yield read, np.abs(whole[group * each + start : group * each + end]).astype(np.float64)

    def scaled(self, powers: Sequence[int]) -> np.ndarray:
        """The weights, those of each channel that is read multiplied by its power of two."""
        if not powers:
            return self.array
        factors = np.exp2(np.asarray(powers, np.float32))
        if self.op == "matmul":
            return self.array * factors[:, None]
        each = self.array.shape[0] // self.groups
        of_result = factors.reshape(self.groups, -1).repeat(each, axis=0)
        made: np.ndarray = self.array * of_result.reshape(*of_result.shape, *(1,) * (self.array.ndim - 2))
        return made


def groups_of(attrs: Mapping[str, Any]) -> int:
    """Of a convolution; a matrix product is one."""
    return int(attrs.get("group", 1))


def factors_tried(largest: Floats, squares: Floats, readers: Sequence[ReadingWeights]) -> Floats:
    """Rows of factors, a column for each channel, by the largest magnitudes that were seen and the means of squares.
    The first row is of ones; it is the only one where channels cannot be told apart.
    """
    ones, most = np.ones((1, len(largest))), float(largest.max(initial=0.0))
    if len(largest) < 2 or not readers or not _ORDINARY[0] < most < _ORDINARY[1]:
        return ones
    weighed = _shares_of_weights(len(largest), readers)
    every = [
        _factors(np.maximum(reach, _LEAST * reach.max()), weighed, share)
        for reach in (largest, np.sqrt(squares))
        for share in _SHARES
    ]
    return np.concatenate([ones, *(row[None] for row in every if np.isfinite(row).all())])


def powers_of(tried: Floats, noise: Floats, squares: Floats, readers: Sequence[ReadingWeights]) -> tuple[int, ...]:
    """The powers of the best factors of those tried; (): none are worth it. noise: what quantising does to each channel
    once it was divided by them, the mean of squares.
    """
    errors = sum((_errors(tried, noise, squares, reader) for reader in readers), np.zeros(len(tried)))
    if not np.isfinite(errors).all():
        return ()
    best = int(np.argmin(errors))
    powers: list[int] = np.log2(tried[best]).astype(int).tolist()
    return tuple(powers) if errors[best] < _BETTER * errors[0] else ()


def _shares_of_weights(channels: int, readers: Sequence[ReadingWeights]) -> Floats:
    """Of each channel that is read: its largest weight as a share of the largest beside it."""
    found = np.zeros(channels)
    for reader in readers:
        for read, w in reader.rows():
            each = w.max(axis=2, initial=0.0)
            shares = each / np.maximum(each.max(axis=1, initial=0.0), 1e-300)[:, None]
            found[read] = np.maximum(found[read], shares.max(axis=0, initial=0.0))
    return np.maximum(found, 1e-3 * max(float(found.max()), 1e-3))


def _factors(reach: Floats, weighed: Floats, share: float) -> Floats:
    """Powers of two whose geometric mean is about one."""
    wide = share * np.log2(reach) - (1 - share) * np.log2(weighed)
    found: Floats = np.exp2(np.clip(np.rint(wide - wide.mean()), -FARTHEST, FARTHEST))
    return found


def _errors(tried: Floats, noise: Floats, size: Floats, reader: ReadingWeights) -> Floats:
    """With each of the factors tried: the sum, over the result's channels, of squares of errors over those of sums."""
    found = np.zeros(len(tried))
    for read, w in reader.rows():
        largest, squares = w.max(axis=2, initial=0.0), (w**2).sum(axis=2)
        signal = squares @ size[read]
        some = signal > 0
        if not some.any():
            continue
        for at, factors in enumerate(tried[:, read]):
            own = ((largest[some] * factors).max(axis=1) / _WEIGHT_STEPS) ** 2 / 12
            of_weights = own * (w.shape[2] * (size[read] / factors**2).sum())
            found[at] += math.fsum((squares[some] @ (factors**2 * noise[at, read]) + of_weights) / signal[some])
    return found
