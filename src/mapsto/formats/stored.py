"""How a value of f32 lies in memory in another format: rounded to a float of 16 bits, or quantised to 8 or 16."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mapsto.formats.format import BYTE_STEPS, Quantisation
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder
from mapsto.ops.quantisation import dequantise


def _scale(reach: float, steps: int) -> float | None:
    """Of which so many steps reach so far; None where a float32 has no such number."""
    scale = np.float32(reach / steps)
    return float(scale) if scale > np.finfo(np.float32).tiny and np.isfinite(scale) else None


def quantisation_of(low: float, high: float) -> Quantisation:
    """The finest one of this range in bytes. 0 is always in it: a border of zeros is exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = _scale(high - low, BYTE_STEPS)
    if scale is None:
        return Quantisation(1.0, 0)
    return Quantisation(scale, int(np.clip(np.rint(-low / scale), 0, BYTE_STEPS)))


def symmetric(reach: float, most: int) -> Quantisation:
    """The finest one that reaches so far from 0 to either side, in integers from -most to most."""
    return Quantisation(_scale(reach, most) or 1.0, 0, most)


@dataclass(frozen=True)
class Stored:
    """dtype: of the elements in memory. by: of quantised ones, as bytes, or less their zero points in 16 bits. after:
    how many axes come after that of the channels that have scales of their own.
    """

    dtype: DType
    by: Quantisation | None = None
    after: int = 0

    @property
    def has_channels(self) -> bool:
        """Whether channels have scales of their own."""
        return self.by is not None and bool(self.by.powers)

    def of(self, channels: slice) -> Stored:
        """Some channels of it."""
        assert self.by is not None
        return replace(self, by=replace(self.by, powers=self.by.powers[channels]))

    def narrow(self, b: Builder, value: Value) -> Value:
        """A value as it is stored."""
        if self.by is None:
            return b.one("cast", [value], to=self.dtype)
        return self._quantised(b, value, self.by)

    def _quantised(self, b: Builder, value: Value, by: Quantisation) -> Value:
        steps = b.one("mul", [value, b.constant(np.float32(1) / self._scales(by), "steps")])
        whole = b.one("round", [steps])
        zero = by.zero if self.dtype is DType.U8 else 0
        if zero:
            whole = b.one("add", [whole, b.constant(np.asarray(zero, np.float32), "zero")])
        for op, limit in (("max", by.lowest + zero), ("min", by.highest + zero)):
            whole = b.one(op, [whole, b.constant(np.asarray(limit, np.float32), "limit")])
        return b.one("cast", [whole], to=self.dtype)

    def wide(self, b: Builder, value: Value) -> Value:
        """What is stored, as f32."""
        if self.by is None:
            return b.one("cast", [value], to=DType.F32)
        scale = b.constant(self._scales(self.by), "scale")
        zero = b.constant(np.asarray(self.by.zero, np.uint8), "zero") if self.dtype is DType.U8 else None
        return dequantise(b, value, scale, zero, DType.F32)

    def centred(self, b: Builder, value: Value) -> Value:
        """What is stored less its zero point, in 32 bits."""
        assert self.by is not None
        whole = b.one("cast", [value], to=DType.I32)
        if self.dtype is not DType.U8 or not self.by.zero:
            return whole
        return b.one("sub", [whole, b.constant(np.asarray(self.by.zero, np.int32), "zero")])

    def _scales(self, by: Quantisation) -> np.ndarray:
        """Of all elements one, or one for each channel."""
        if not by.powers:
            return np.asarray(by.scale, np.float32)
        return np.ldexp(np.float32(by.scale), by.powers).astype(np.float32).reshape(-1, *(1,) * self.after)
