"""What is drawn: sizes, types and values, zero extents, extremes and what is not a number among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx

Array = Any
FLOATS = ("float32", "float64", "float16", "bfloat16")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
# Extents by how often they are drawn; larger ones where a form has little work an element.
EXTENTS = (0, 1, 1, 2, 2, 3, 3, 4, 5, 7, 8, 9, 16, 17, 31, 33)
HUGE = (127, 257, 1000, 4099, 70001)


def dtype_of(name: str) -> Any:
    return np.dtype(getattr(ml_dtypes, name)) if hasattr(ml_dtypes, name) else np.dtype(name)


def is_float(dtype: Any) -> bool:
    return np.dtype(dtype).name in FLOATS


@dataclass
class Draw:
    """Draws for one form, the same for the same seed."""

    seed: int
    wild: bool = field(init=False)
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.wild = self.chance(0.2)  # whether values hold NaN, infinities and extremes where the form takes them

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def integer(self, least: int, most: int) -> int:
        """From `least` to `most`, both among them."""
        return int(self.rng.integers(least, most + 1))

    def one_of(self, choices: Sequence[Any]) -> Any:
        return choices[self.integer(0, len(choices) - 1)]

    def several(self, choices: Sequence[Any], least: int = 0) -> list[Any]:
        """Different ones, in any order."""
        count = self.integer(min(least, len(choices)), len(choices))
        return [choices[i] for i in self.rng.permutation(len(choices))[:count]]

    def extent(self, least: int = 0, most: int = 33) -> int:
        return max(least, min(most, int(self.one_of(EXTENTS))))

    def shape(self, rank: int, least: int = 0, elements: int = 20000) -> tuple[int, ...]:
        """Extents of `rank` axes with at most about so many elements; one in ten has a huge axis."""
        extents = [self.extent(least) for _ in range(rank)]
        if rank and self.chance(0.1):
            extents[self.integer(0, rank - 1)] = self.one_of(HUGE)
        while np.prod(extents, dtype=np.float64) > elements:
            k = int(np.argmax(extents)) if self.chance(0.3) else self.integer(0, rank - 1)
            extents[k] = max(1, extents[k] // 2)
        return tuple(extents)

    def axis(self, rank: int) -> int:
        """Counted from either end."""
        return self.integer(-rank, rank - 1)

    def axes(self, rank: int, least: int = 0) -> list[int]:
        return [a - rank if self.chance(0.3) else a for a in self.several(range(rank), least)]

    def values(
        self, shape: Sequence[int], dtype: Any, tame: bool = False, least: Any = None, most: Any = None
    ) -> Array:
        """Elements of any type. `tame`: finite floats of a size that sums can take; integers between bounds."""
        dtype = dtype_of(dtype) if isinstance(dtype, str) else np.dtype(dtype)
        if dtype == np.bool_:
            return self.rng.random(shape) < 0.5
        if is_float(dtype):
            return self._floats(shape, dtype, tame)
        info = np.iinfo(dtype)
        low = info.min if least is None else max(info.min, least)
        high = info.max if most is None else min(info.max, most)
        if (least is None and most is None) and (tame or self.chance(0.6)):
            low, high = max(low, -9), min(high, 9)
        return self.rng.integers(low, high, shape, dtype, endpoint=True)

    def _floats(self, shape: Sequence[int], dtype: Any, tame: bool) -> Array:
        found = self.rng.standard_normal(shape)
        kind = self.integer(0, 4)
        if kind == 0:
            found = np.round(found * 3)  # ties, exact sums, zeros
        elif kind == 1 and not tame:
            found = found * 10.0 ** self.rng.integers(-4, 3, shape)
        if self.wild and not tame and found.size:
            info = ml_dtypes.finfo(dtype)
            odd = [
                np.nan,
                np.inf,
                -np.inf,
                -0.0,
                0.0,
                info.max,
                info.min,
                info.tiny,
                info.smallest_subnormal,
                0.5,
                -1.5,
            ]
            where = self.rng.random(shape) < 0.3
            found = np.where(where, np.array(odd, np.float64)[self.rng.integers(0, len(odd), shape)], found)
        with np.errstate(all="ignore"):
            return np.asarray(found).astype(dtype)

    def opset(self, op: str, least: int = 7, domain: str = "") -> int:
        """The newest opset, or one at which the op changed."""
        versions = sorted({int(s.since_version) for s in SCHEMAS[domain, op] if s.since_version >= least})
        return NEWEST if self.chance(0.6) or not versions else int(self.one_of(versions))

    def kind(self, op: str, opset: int, formal: int = 0, domain: str = "", among: Sequence[str] = ()) -> str:
        """A type that an operand may have there; f32 half of the time, where it may."""
        names = [n for n in types_of(op, opset, formal, domain) if not among or n in among]
        return "float32" if "float32" in names and self.chance(0.4) else str(self.one_of(names))


NEWEST = 24  # of the opsets that ONNX Runtime and the reference both know
SCHEMAS: dict[tuple[str, str], list[Any]] = {}
for _schema in onnx.defs.get_all_schemas_with_history():
    SCHEMAS.setdefault((_schema.domain, _schema.name), []).append(_schema)
_NAMES = {
    f"tensor({n})": {"float": "float32", "double": "float64"}.get(n, n)
    for n in ("float", "double", "float16", "bfloat16", "bool", *INTEGERS)
}


def types_of(op: str, opset: int, formal: int = 0, domain: str = "") -> list[str]:
    """Names of numpy types of an operand, in an opset."""
    schema = onnx.defs.get_schema(op, opset, domain)
    return sorted(_NAMES[t] for t in schema.inputs[formal].types if t in _NAMES)
