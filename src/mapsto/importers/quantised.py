"""Which values of a model are dequantised integers, scale * (q - zero point): rows that know of one may compute with
the integers. Constants are folded to floats as soon as they are dequantised: a later look at the graph finds none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder

_BYTES = (DType.U8, DType.I8)


@dataclass(frozen=True)
class Quantised:
    """scale * (q - zero point). scale (floats) and zero (of q's type; None: 0) hold one element, or one for each index
    of `axis`.
    """

    q: Value
    scale: Value
    zero: Value | None
    axis: int | None = None

    @property
    def is_bytes(self) -> bool:
        return self.q.dtype in _BYTES

    def holding(self, q: Value) -> Quantised:
        """Other integers of the same meaning."""
        return replace(self, q=q)

    def is_like(self, b: Builder, other: Quantised) -> bool:
        """Whether an integer means the same number in both: both have one scale and zero point, and these are equal."""
        return (
            self.axis is None
            and other.axis is None
            and self.q.dtype is other.q.dtype
            and _is_equal(b, self.scale, other.scale)
            and _is_equal(b, self.zero, other.zero)
        )

    def farthest(self, b: Builder) -> int:
        """The largest distance of an integer from its zero point, as far as is known."""
        low, high = (0, 255) if self.q.dtype is DType.U8 else (-128, 127)
        if self.zero is None:
            return max(-low, high)
        array = b.array(self.zero)
        if array is None or not array.size:
            return high - low
        return max(high - int(array.min()), int(array.max()) - low)


def _is_equal(b: Builder, first: Value | None, second: Value | None) -> bool:
    """Whether two values of one element are the same value, or equal constants. None is 0."""
    if first is second:
        return True
    arrays = [np.zeros(1) if v is None else b.array(v) for v in (first, second)]
    return all(a is not None and a.size == 1 for a in arrays) and bool(arrays[0].item() == arrays[1].item())  # type: ignore[union-attr]


class QuantisedValues:
    """What an import knows of its values. A value is known by itself, not by its name: nested graphs repeat names."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[Value, Quantised]] = {}

    def note(self, value: Value, quantised: Quantised) -> None:
        self._found[id(value)] = value, quantised

    def of(self, value: Value) -> Quantised | None:
        found = self._found.get(id(value))
        return None if found is None else found[1]
