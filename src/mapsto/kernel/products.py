"""Types of products that are summed: of the operands, of the sums, and of the results.

    result = as result( sum over k of as accumulator(a[k]) * as accumulator(b[k]) )

Operands of at most 16 bits lose nothing on the way: f32 holds every f16 and bf16, and i32 holds products of such
integers modulo 2^32, which is what sums of i32 are.
"""

from __future__ import annotations

from dataclasses import dataclass

from mapsto.ir.dtypes import DType

FLOAT_OPERANDS = frozenset({DType.F16, DType.BF16, DType.F32})
INTEGER_OPERANDS = frozenset({DType.U8, DType.I8, DType.I16})


@dataclass(frozen=True)
class Product:
    """Element types of two operands, of the sums of their products, and of the results."""

    a: DType
    b: DType
    accumulator: DType
    result: DType


def accumulator_of(a: DType, b: DType) -> DType | None:
    """What products of two types are summed in where operands may be narrower than sums; None for other types."""
    if a in FLOAT_OPERANDS and b in FLOAT_OPERANDS:
        return DType.F32
    return DType.I32 if a in INTEGER_OPERANDS and b in INTEGER_OPERANDS else None


def product_of(a: DType, b: DType, result: DType | None = None) -> Product | None:
    """The product of two types, with results of a type (None: that of the operands); None where there is none such.

    Sums of halves are f32 ones. Without another type of the results, integers are summed in their own.
    """
    wide = accumulator_of(a, b)
    if result is None or (a is b is result):
        return Product(a, a, wide if wide is not None and a.is_float else a, a) if a is b else None
    if wide is None or result not in ((wide,) if wide is DType.I32 else FLOAT_OPERANDS):
        return None
    return Product(a, b, wide, result)


def widens(narrow: DType, wide: DType) -> bool:
    """Whether a factor that is converted so may be multiplied as it was before."""
    return narrow is not wide and accumulator_of(narrow, narrow) is wide
