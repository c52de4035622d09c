"""Products of f32 as products of integers: a value that was quantised by constant weights, quantised here.

    sum x w  ~  sx sw[c] * sum (xq - zero) wq       x = sx (xq - zero), w = sw[c] wq along the result's channels c

The sum is exact in 32 bits. Weights are quantised symmetrically, each channel by its largest magnitude: that is 127
beside bytes. Beside 16 bits it is as large as sums allow; what is read has M steps to either side, so that with the sum
r of a channel's weights over their largest one

    M * most(wq) * r <= 2^31 - 1

Of the bits that there are, values of a run are given three more than weights: their largest one is farther from the
usual ones.
"""

from __future__ import annotations

import math

import numpy as np

from mapsto.formats.equalise import ReadingWeights, groups_of
from mapsto.formats.format import BYTE_STEPS
from mapsto.formats.stored import Stored
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder
from mapsto.passes.sites import Site

_BYTE = 127  # the largest magnitude of a weight beside bytes
_SHORT = 2**15 - 1
_SUM = 2**31 - 1
MOST_TERMS = _SUM // (BYTE_STEPS * _BYTE)  # of bytes, that 32 bits hold any sum of
_FEW = 64  # weights of a window that are sorted with those of all others at once
_MORE = 8  # times as many steps has what is read as a weight


def terms_of(op: str, w: np.ndarray) -> int:
    """How many products each sum of a convolution or a matrix product has."""
    return int(np.prod(w.shape[1:])) if op == "conv" else int(w.shape[-2])


def steps_for(op: str, w: np.ndarray) -> int:
    """How many steps to either side what these weights are multiplied with is given: M above."""
    largest, sums = _channels(op, w)
    ratio = max(1.0, float((sums / largest).max(initial=1.0)))
    beside_bytes = _SUM / (_BYTE * ratio + terms_of(op, w) / 2 + 1)  # weights are never coarser than such
    return max(1, min(_SHORT, int(math.sqrt(_MORE * _SUM / ratio)), int(beside_bytes)))


def weight_steps(op: str, w: np.ndarray, steps: int) -> np.ndarray:
    """The largest magnitude of each channel's weights (int64), beside a value of so many steps to either side."""
    largest, sums = _channels(op, w)
    # each weight is rounded by a half at most, and all of them by what their scale is rounded by
    most = (_SUM // steps - terms_of(op, w) / 2 - 1) / np.maximum(sums / largest, 1.0)
    whole: np.ndarray = np.clip(most, 0, _SHORT).astype(np.int64)
    return whole


def holds_shorts(op: str, w: np.ndarray, steps: int) -> bool:
    """Whether what is multiplied is no coarser than bytes."""
    return steps >= _BYTE and bool((weight_steps(op, w, steps) >= _BYTE).all())


def _channels(op: str, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest magnitude of each channel's weights, and the sum of all (f64); of a channel of zeros 1."""
    others = _others(op, w)
    largest = np.abs(w).max(axis=others, initial=0.0).astype(np.float64)
    return np.where(largest > 0, largest, 1.0), np.abs(w).sum(axis=others, dtype=np.float64)


def _others(op: str, w: np.ndarray) -> tuple[int, ...]:
    """Axes of weights that are not the result's channels."""
    return tuple(range(1, w.ndim)) if op == "conv" else tuple(range(w.ndim - 1))


def integer_weights(op: str, w: np.ndarray, steps: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Integers of f32 weights, and the scale of each of the result's channels (float32). steps: of what they are
    multiplied with, to either side; None: beside bytes, where each window's and each channel's errors cancel out.
    """
    others = _others(op, w)
    most = np.float64(_BYTE) if steps is None else np.expand_dims(weight_steps(op, w, steps), others)
    largest = np.abs(w).max(axis=others, keepdims=True, initial=0.0).astype(np.float64)
    scale = (largest / most).astype(np.float32)
    scale = np.where(scale > np.finfo(np.float32).tiny, scale, np.float32(1))
    whole = np.clip(np.rint(w / scale), -most, most).astype(np.int32)
    if steps is None and np.isfinite(w).all():
        exact = w.astype(np.float64) / scale
        whole = evened(whole, exact, 2) if op == "conv" else evened(whole.swapaxes(-1, -2), exact.swapaxes(-1, -2), 1)
        whole = np.ascontiguousarray(np.clip(whole if op == "conv" else whole.swapaxes(-1, -2), -_BYTE, _BYTE))
    return whole, np.asarray(scale, np.float32).reshape(-1)


def evened(whole: np.ndarray, exact: np.ndarray, first: int) -> np.ndarray:
    """Integers of which some are rounded to the other side, those that were nearest to it, so that their errors cancel
    out: first for each place along the first `first` axes (a window, where these are channels of the result and of
    what is read), then for each along the first axis alone. What is multiplied with them has a mean that is not 0,
    above all behind a ReLU, by which errors of one sign would add up (bias correction: Nagel et al., Data-Free
    Quantization Through Weight Equalization and Bias Correction, ICCV 2019; by rounding, without data: Guo et al.,
    SQuant, ICLR 2022).
    """
    made = whole.astype(np.int32)
    for axes in range(first, 0, -1):
        rows = math.prod(whole.shape[:axes])
        if rows and made.size > rows:
            made = _evened_rows(made.reshape(rows, -1), exact.reshape(rows, -1)).reshape(whole.shape)
    return made


def _evened_rows(whole: np.ndarray, exact: np.ndarray) -> np.ndarray:
    error = exact - whole
    excess = np.rint(error.sum(axis=1)).astype(np.int64)
    toward = np.sign(excess).astype(np.int32)
    gained = error * toward[:, None]  # the larger, the nearer to the other side
    made = whole.copy()
    if whole.shape[1] <= _FEW:
        order = np.argsort(-gained, axis=1, kind="stable")
        turned = np.zeros(whole.shape, bool)
        np.put_along_axis(turned, order, np.arange(whole.shape[1]) < np.abs(excess)[:, None], axis=1)
        made += (turned & (gained > 0)) * toward[:, None]
        return made
    for row in np.flatnonzero(excess):
        count = min(abs(int(excess[row])), whole.shape[1])
        nearest = np.argpartition(-gained[row], count - 1)[:count]
        made[row, nearest[gained[row, nearest] > 0]] += toward[row]
    return made


def integer_product(site: Site, x: Value, by: Stored) -> Value:
    """The node's product; x: its first operand, quantised."""
    b, op = site.builder, site.node.op
    array = b.array(site.input(1))
    assert array is not None and by.by is not None
    scaled = ReadingWeights(op, array, groups_of(site.attrs)).scaled(by.by.powers)
    whole, scales = integer_weights(op, scaled, by.by.most)
    name = site.node.output.name
    total = b.one(op, [by.centred(b, x), b.constant(whole, site.input(1).name)], **site.attrs)
    factor = scales * np.float32(by.by.scale)
    bias = site.inputs[2] if len(site.inputs) > 2 else None
    made = b.one("mul", [b.one("cast", [total], to=DType.F32), _column(b, op, factor, total)])
    if bias is None:
        return made
    return b.add("add", [made, _as_column(b, op, bias, total)], {}, (), [name])[0]


def _column(b: Builder, op: str, factor: np.ndarray, like: Value) -> Value:
    return _as_column(b, op, b.constant(factor, "factor"), like)


def _as_column(b: Builder, op: str, value: Value, like: Value) -> Value:
    """A number for each channel of the result, or for each column of a matrix."""
    after = like.rank - 2 if op == "conv" else 0
    return value if not after else b.one("reshape", [value], shape=(*value.shape, *(1,) * after))
