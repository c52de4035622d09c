"""Whether one thing takes less time than another, by times that were taken in pairs, one right after the other.

What else a machine does changes from second to second, and both of a pair see about the same of it: their ratio is
looked at, and in how many pairs it is below 1. No distribution is assumed (a sign test).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

TimedPair = tuple[float, float]  # seconds of the old and of the new

# How likely it may be that as many pairs would be won by something that is no faster.
DOUBT = 0.01


def share_of(pairs: Sequence[TimedPair]) -> float:
    """The new time over the old one: the median of the pairs; 1 where there are none."""
    return statistics.median(new / old for old, new in pairs) if pairs else 1.0


def luck(pairs: Sequence[TimedPair]) -> float:
    """The probability that something that is no faster wins as many pairs, or more."""
    count, won = len(pairs), sum(new < old for old, new in pairs)
    return float(sum(math.comb(count, k) for k in range(won, count + 1)) / 2**count)


def is_faster(pairs: Sequence[TimedPair], least: float) -> bool:
    """Whether the new takes less by this share of the time, and not by luck."""
    return share_of(pairs) <= 1.0 - least and luck(pairs) <= DOUBT
