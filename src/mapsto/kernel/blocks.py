"""Weights in blocks: small integers, and a scale for each block of them along what is summed over.

    w[k, n] = f32(q[k, n]) * scale[k // block, n]        q of 8 bits, or of 4 (the low ones of a byte)
"""

from __future__ import annotations

from mapsto.ir.dtypes import DType
from mapsto.kernel.ast import Cast, Const, Load, Op, Scalar

BLOCK_INTEGERS = frozenset({DType.I8, DType.I4})


def low_bits(value: Scalar, bits: int) -> Scalar:
    """The low bits of a byte, with a sign in an i8."""
    if value.dtype is DType.U8:
        return Op("bitand", (value, Const((1 << bits) - 1, DType.U8)), DType.U8)
    by = Const(8 - bits, DType.I8)
    return Op("shr", (Op("shl", (value, by), DType.I8), by), DType.I8)


def real_of(q: Load) -> Scalar:
    """The f32 that a stored integer is."""
    whole = q if q.dtype is DType.I8 else low_bits(Op("bitcast", (q,), DType.I8), q.dtype.bits)
    return Cast(whole, DType.F32)


def integer_of(e: Scalar) -> Load | None:
    """The stored integer that an expression makes an f32 of, as `real_of` does; None for any other expression."""
    inner: Scalar = e
    while isinstance(inner, Cast | Op):
        inner = inner.arg if isinstance(inner, Cast) else inner.args[0]
    found = isinstance(inner, Load) and inner.dtype in BLOCK_INTEGERS and real_of(inner) == e
    return inner if found and isinstance(inner, Load) else None
