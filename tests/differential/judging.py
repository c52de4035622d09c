"""Whether results are those that the standard asks for.

"exact": every bit, but any NaN is NaN; "equal": the same where zeros are alike; "each": to some units in the last
place of each element; "sum": to rounding at the scale of the same op on magnitudes; "whole": at the scale of the
largest element of result and inputs; "norm": the same with room for a quotient of two sums, in f32; "rounded": as
"whole", and integers may be one off; "flushed": as "each", and what a denormal sigmoid goes into may be 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from tests.differential.drawing import is_float

UNITS = {"each": 24.0, "flushed": 24.0, "sum": 24.0, "whole": 64.0, "rounded": 64.0, "norm": 2000.0}


def difference(
    found: Sequence[Any], expected: Sequence[Any], rule: str, feed: Mapping[str, Any], magnitudes: Sequence[Any] | None
) -> str:
    """Where they differ, in words; "" where they do not. `magnitudes`: the op's results on absolute values."""
    if len(found) != len(expected):
        return f"{len(found)} results, expected {len(expected)}"
    for k, (ours, right) in enumerate(zip(found, expected, strict=True)):
        ours, right = np.asarray(ours), np.asarray(right)
        if ours.dtype != right.dtype:
            return f"result {k} is {ours.dtype}, expected {right.dtype}"
        if ours.shape != right.shape:
            return f"result {k} has shape {list(ours.shape)}, expected {list(right.shape)}"
        off = _off(ours, right, rule, feed, None if magnitudes is None else magnitudes[k])
        if off.any():
            place = tuple(int(i) for i in np.argwhere(off)[0])
            said = f"{ours[place]!r}, expected {right[place]!r}"
            return f"result {k}, {int(off.sum())} of {off.size}, at {list(place)}: {said}"
    return ""


def _off(ours: Any, right: Any, rule: str, feed: Mapping[str, Any], magnitude: Any) -> Any:
    if not is_float(right.dtype):
        near = rule == "rounded" and right.dtype.kind in "iu"
        return np.abs(ours.astype(np.float64) - right.astype(np.float64)) > 1 if near else np.asarray(ours != right)
    info = ml_dtypes.finfo(right.dtype)
    a, b = ours.astype(np.float64), right.astype(np.float64)
    with np.errstate(all="ignore"):
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        if rule == "equal":
            return ~same
        if rule == "exact":
            return ~same | (np.signbit(a) != np.signbit(b)) & ~np.isnan(b)
        eps = max(float(info.eps), 2.0**-23 if right.dtype != np.float64 or rule == "norm" else 0.0)
        # AVX-512's conversion to bf16 takes subnormal numbers for zero
        least = float(info.tiny) if right.dtype.name == "bfloat16" else 64 * float(info.smallest_subnormal)
        if rule == "flushed":  # times an argument of at most 104, or 746
            least = max(least, 2048 * float(np.finfo(np.float64 if right.dtype == np.float64 else np.float32).tiny))
        room = UNITS[rule] * eps * _scale(b, rule, feed, magnitude) + least
        near = np.abs(a - b) <= room
        top = float(info.max)  # what rounds to infinity on one side of the type's largest only
        edge = np.isinf(a) & (np.abs(b) > top * (1 - 8 * eps)) | np.isinf(b) & (np.abs(a) > top * (1 - 8 * eps))
        return ~(same | near | edge & (np.sign(a) == np.sign(b)))


def _scale(right: Any, rule: str, feed: Mapping[str, Any], magnitude: Any) -> Any:
    own = np.where(np.isfinite(right), np.abs(right), 0)
    if rule in ("each", "flushed"):
        return own
    if rule == "sum" and magnitude is not None:
        return np.maximum(own, np.abs(np.asarray(magnitude, np.float64)))
    largest = max((_largest(a) for a in (*feed.values(), right)), default=0.0)
    return np.maximum(own, largest)


def _largest(array: Any) -> float:
    array = np.asarray(array)
    if not is_float(array.dtype) or not array.size:
        return 0.0
    wide = np.abs(array.astype(np.float64))
    return float(np.max(wide, initial=0.0, where=np.isfinite(wide)))
