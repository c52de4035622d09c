"""Number formats that products can be computed in, and what a user asks of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from mapsto.arguments import brief
from mapsto.errors import ArgumentError
from mapsto.ir.dtypes import DType


@dataclass(frozen=True)
class ProductFormat:
    """What operands of a product are rounded to (round half to even; IEEE 754-2019 binary16, or the upper half of
    binary32), and summed in f32; or, of integers, quantised to, by ranges that calibration finds, and summed in 32
    bits. `weights_only`: operands that are computed in a run stay f32. `unit`: of rounding; of integers about, as a
    share of the usual elements of an operand, of which the largest is some ten times one. Integers of weights
    alone have a scale for each block of them.
    """

    name: str
    operands: DType
    unit: float
    weights_only: bool = False

    @property
    def is_quantised(self) -> bool:
        """Whether values of a run are."""
        return not self.operands.is_float and not self.weights_only

    @property
    def is_in_blocks(self) -> bool:
        return not self.operands.is_float and self.weights_only

    @property
    def is_of_shorts(self) -> bool:
        return self.operands is DType.I16


_EVERY = (
    ProductFormat("bf16", DType.BF16, 2.0**-9),
    ProductFormat("f16", DType.F16, 2.0**-12),
    ProductFormat("bf16-weights", DType.BF16, 2.0**-9, weights_only=True),
    ProductFormat("f16-weights", DType.F16, 2.0**-12, weights_only=True),
    ProductFormat("int8-weights", DType.I8, 2.0**-8, weights_only=True),
    ProductFormat("int4-weights", DType.I4, 2.0**-4, weights_only=True),
    ProductFormat("int8", DType.U8, 2.0**-6),
    ProductFormat("int16", DType.I16, 2.0**-10),
)
# `integers`: of products that a model has quantised already, as it has them; `f32`: those too in floats.
FORMATS: Mapping[str, ProductFormat | None] = {
    "f32": None, **{each.name: each for each in _EVERY}, "integers": None
}  # fmt: skip


BYTE_STEPS = 255  # from the least byte to the greatest


@dataclass(frozen=True)
class Quantisation:
    """A real number is scale * (integer - zero), rounded half to even; what is beyond is the nearest there is. The
    scale is a float32. Integers are bytes, zero among them; where `most` is given, from -most to most, and zero is 0.
    powers: of bytes, for each channel of what is summed over: its scale is so many times doubled (`equalise`); none:
    all channels have one scale.
    """

    scale: float
    zero: int = 0
    most: int | None = None
    powers: tuple[int, ...] = ()

    @property
    def lowest(self) -> int:
        """Of integer - zero."""
        return -self.zero if self.most is None else -self.most

    @property
    def highest(self) -> int:
        return BYTE_STEPS - self.zero if self.most is None else self.most


ALL = ""  # the pattern of all products, none of which is named


@dataclass(frozen=True)
class WantedFormats:
    """Formats by patterns of the names of the model's nodes; the last one that fits counts. A format for all products,
    of which none is named, is one for those that take less in it (`ALL`). known: how nodes' operands are quantised, by
    name, where that is not found by calibration.
    """

    pairs: tuple[tuple[str, str], ...] = ()
    known: tuple[tuple[str, Quantisation], ...] = ()

    def __bool__(self) -> bool:
        return any(FORMATS[name] is not None for _, name in self.pairs)

    def of(self, names: Iterable[str]) -> ProductFormat | None:
        """The format of a node that these source nodes stand for; None: as the model says."""
        name = self.name_of(names)
        return None if name is None else FORMATS[name]

    def name_of(self, names: Iterable[str]) -> str | None:
        """The name of what is asked for of such a node; None: nothing is."""
        found = self._fitting(names)
        return None if found is None else found[1]

    def is_for_all(self, names: Iterable[str]) -> bool:
        """Whether what is asked for of such a node was asked for without naming any."""
        found = self._fitting(names)
        return found is not None and found[0] == ALL

    def _fitting(self, names: Iterable[str]) -> tuple[str, str] | None:
        every = tuple(names)
        for pattern, name in reversed(self.pairs):
            if pattern == ALL or any(fnmatchcase(each, pattern) for each in every):
                return pattern, name
        return None

    @property
    def of_quantised(self) -> WantedFormats:
        """What is asked of products that a model has quantised already: f32 or integers."""
        return WantedFormats(tuple((pattern, name if name == "f32" else "integers") for pattern, name in self.pairs))

    @property
    def needs_ranges(self) -> bool:
        """Whether values have to be seen before they can be quantised."""
        asked = (FORMATS[name] for _, name in self.pairs)
        return not self.known and any(each is not None and each.is_quantised for each in asked)

    def quantisation_of(self, names: Iterable[str]) -> Quantisation | None:
        known = dict(self.known)
        return next((known[name] for name in names if name in known), None)

    def unmet(self, names: Iterable[str]) -> tuple[str, list[str]] | None:
        """A pattern that fits none of these names, and names that are like it."""
        known = list(dict.fromkeys(names))
        for pattern, _ in self.pairs:
            if pattern != ALL and not any(fnmatchcase(each, pattern) for each in known):
                import difflib  # not for every start

                return pattern, difflib.get_close_matches(pattern, known, 3)
        return None


AS_IT_IS = WantedFormats()


def wanted(given: Any) -> WantedFormats:
    """From a format's name, for all products that take less in it, or a mapping from patterns to names. Raises
    ArgumentError.
    """
    if given is None:
        return AS_IT_IS
    if isinstance(given, WantedFormats):
        return given
    found = {ALL: given} if isinstance(given, str) else given
    if not isinstance(found, Mapping):
        expected = "expected a format's name, or a dict from patterns of nodes to names"
        raise ArgumentError(f"formats: {expected}, got {brief(given)}")
    for pattern, name in found.items():
        if not isinstance(pattern, str) or not isinstance(name, str) or name not in FORMATS:
            what = f"{brief(pattern)}: {brief(name)} is no format"
            raise ArgumentError(f"formats: {what}; there are {', '.join(FORMATS)}")
    return WantedFormats(tuple(found.items()))
