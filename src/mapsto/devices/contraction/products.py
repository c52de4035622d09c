"""How a core multiplies: the types in which operands of a contraction meet, and how many of them in a lane.

Where no instruction takes operands as they lie, B is packed in a wider type, and A is brought to it a few channels at a
time (see `stage`).
"""

from __future__ import annotations

from dataclasses import dataclass

from mapsto.devices.contraction.core import Core
from mapsto.ir.dtypes import DType


@dataclass(frozen=True)
class Multiply:
    """Types of A and B when they are multiplied; `interleave` neighbouring channels go into a lane of the sum."""

    a: DType
    b: DType
    interleave: int


_F32 = Multiply(DType.F32, DType.F32, 1)
_I32 = Multiply(DType.I32, DType.I32, 1)
_BF16 = Multiply(DType.BF16, DType.BF16, 2)
_BYTES = Multiply(DType.U8, DType.I8, 4)
_SHORTS = Multiply(DType.I16, DType.I16, 2)  # every core has them; no sum saturates on the way


def multiply(core: Core, a: DType, b: DType, is_open: bool = False) -> Multiply:
    """For operands of these types in memory. is_open: how many channels there are only a run knows; they may not fill
    the last lane, and nobody has put zeros there.
    """
    if a.is_float:
        return _BF16 if a is b is DType.BF16 and core.has("dot_bf16") and not is_open else _F32
    if is_open:
        return _I32
    return _BYTES if (a, b) == (DType.U8, DType.I8) and core.has("dot_u8s8") else _SHORTS


def dot_of(element: DType) -> str:
    """The kind of dot product (`loop.ast.Dot`) of A's elements."""
    return {DType.BF16: "bf16", DType.I16: "s16"}.get(element, "u8s8")
