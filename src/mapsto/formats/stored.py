"""How a value of f32 lies in memory in another format: rounded to a float of 16 bits, or quantised to 8."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mapsto.formats.format import Quantisation
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder
from mapsto.ops.quantisation import dequantise, quantise


def quantisation_of(low: float, high: float) -> Quantisation:
    """The finest one of this range, which 0 is always in: a border of zeros is exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255)
    if not scale > np.finfo(np.float32).tiny or not np.isfinite(scale):
        return Quantisation(1.0, 0)
    return Quantisation(float(scale), int(np.clip(np.rint(-low / float(scale)), 0, 255)))


@dataclass(frozen=True)
class Stored:
    """dtype: of the elements in memory. by: of bytes."""

    dtype: DType
    by: Quantisation | None = None

    def narrow(self, b: Builder, value: Value) -> Value:
        """A value as it is stored."""
        if self.by is None:
            return b.one("cast", [value], to=self.dtype)
        return quantise(b, value, self._scale(b), self._zero(b), self.dtype)

    def wide(self, b: Builder, value: Value) -> Value:
        """What is stored, as f32."""
        if self.by is None:
            return b.one("cast", [value], to=DType.F32)
        return dequantise(b, value, self._scale(b), self._zero(b), DType.F32)

    def centred(self, b: Builder, value: Value) -> Value:
        """Bytes less their zero point, in 32 bits."""
        assert self.by is not None
        whole = b.one("cast", [value], to=DType.I32)
        return b.one("sub", [whole, b.constant(np.asarray(self.by.zero, np.int32), "zero")]) if self.by.zero else whole

    def _scale(self, b: Builder) -> Value:
        assert self.by is not None
        return b.constant(np.asarray(self.by.scale, np.float32), "scale")

    def _zero(self, b: Builder) -> Value:
        assert self.by is not None
        return b.constant(np.asarray(self.by.zero, np.uint8), "zero")
