"""OpenCL C's types and literals for the loop language's.

A value of more lanes than OpenCL has is held in parts of 16, 8, 4, 2 or 1 lanes. A mask is an int vector of 0 and -1
(a scalar one: an int, 0 or 1). f16 and bf16 are held as their bits in ushort: OpenCL's `half` is optional.
"""

from __future__ import annotations

import math

import numpy as np

from mapsto.ir.dtypes import DType

_NAMES = {
    DType.F16: "ushort",
    DType.BF16: "ushort",
    DType.F32: "float",
    DType.F64: "double",
    DType.I8: "char",
    DType.I16: "short",
    DType.I32: "int",
    DType.I64: "long",
    DType.U8: "uchar",
    DType.U16: "ushort",
    DType.U32: "uint",
    DType.U64: "ulong",
    DType.BOOL: "int",
    **{dtype: "uchar" for dtype in DType if dtype.is_storage},  # no more than their bits
}
_SIGNED = {1: "char", 2: "short", 4: "int", 8: "long"}


def split(lanes: int) -> list[int]:
    """The widths of a value's parts."""
    widths = []
    while lanes:
        width = next(w for w in (16, 8, 4, 2, 1) if w <= lanes)
        widths.append(width)
        lanes -= width
    return widths


def type_name(element: DType, width: int = 1) -> str:
    return _NAMES[element] + ("" if width == 1 else str(width))


def memory_name(element: DType) -> str:
    """The element type of a buffer: a bool takes a byte."""
    return "uchar" if element is DType.BOOL else _NAMES[element]


def signed_name(element: DType, width: int = 1) -> str:
    """The signed integers of an element's size: what vector comparisons give and `select` asks for."""
    return _SIGNED[DType.I32.size if element is DType.BOOL else element.size] + ("" if width == 1 else str(width))


def unsigned_name(element: DType, width: int = 1) -> str:
    return "u" + signed_name(element, width)


def short_name(element: DType, width: int) -> str:
    """For the names of helper functions."""
    return f"{element.value}x{width}"


def literal(value: float | int | bool, element: DType, width: int = 1) -> str:
    """A constant in every lane, exact to the bit."""
    scalar = _scalar_literal(value, element, width > 1)
    return scalar if width == 1 else f"({type_name(element, width)})({scalar})"


def _scalar_literal(value: float | int | bool, element: DType, vector: bool) -> str:
    if element is DType.BOOL:
        return ("-1" if vector else "1") if value else "0"
    if element.is_half:
        return f"(ushort){int(np.array(value, element.numpy).view(np.uint16))}"
    if element.is_float:
        return _float_literal(float(value), element)
    number = int(value)
    if element is DType.I64 and number == -(2**63):
        return "(-9223372036854775807L - 1)"
    if element is DType.I32 and number == -(2**31):
        return "(-2147483647 - 1)"
    suffix = {DType.I64: "L", DType.U64: "UL", DType.U32: "U"}.get(element, "")
    text = f"{number}{suffix}"
    if element.size < 4:
        return f"({_NAMES[element]})({text})"
    return f"({text})" if number < 0 else text


def _float_literal(value: float, element: DType) -> str:
    if element is DType.F32:
        with np.errstate(over="ignore"):
            value = float(np.float32(value))
    if math.isfinite(value):
        digits, exponent = value.hex().split("p")
        text = f"{digits.rstrip('0').rstrip('.')}p{exponent}" + ("f" if element is DType.F32 else "")
        return f"({text})" if text.startswith("-") else text
    if element is DType.F32:
        return f"as_float(0x{np.float32(value).view(np.uint32):08x}U)"
    return f"as_double(0x{np.float64(value).view(np.uint64):016x}UL)"


def lane_numbers(first: int, width: int, name: str) -> str:
    """(first, first+1, ...) as a vector of integer type `name`."""
    return f"({name}{width})({', '.join(str(first + k) for k in range(width))})"
