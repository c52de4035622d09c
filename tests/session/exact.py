"""Integer ops in Python's own integers: what every path of an op must give, and the numbers where such paths break."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from mapsto.ir.dtypes import DType

Array = np.ndarray[Any, Any]
INTEGERS = [d for d in DType if d.is_integer]


def bits(dtype: DType) -> int:
    return 8 * dtype.size


def limits(dtype: DType) -> tuple[int, int]:
    return (-(1 << bits(dtype) - 1), (1 << bits(dtype) - 1) - 1) if dtype.is_signed else (0, (1 << bits(dtype)) - 1)


def wrapped(value: int, dtype: DType) -> int:
    """The number of the type that is congruent modulo 2^bits."""
    low, _ = limits(dtype)
    return (value - low) % (1 << bits(dtype)) + low


def saturated(value: int, dtype: DType) -> int:
    low, high = limits(dtype)
    return min(max(value, low), high)


def edges(dtype: DType) -> list[int]:
    """The ends of the type, small numbers, the width and its neighbours, and what a smaller type or a float loses."""
    low, high = limits(dtype)
    found = {0, 1, 2, 3, 5, 10, bits(dtype) - 1, bits(dtype), bits(dtype) + 1, low, low + 1, high, high - 1, high // 3}
    for power in (7, 15, 24, 31, 32, 53, 62):
        found |= {(1 << power) - 1, (1 << power), (1 << power) + 1}
    found |= {-v for v in (1, 2, 3, 7, high // 5, (1 << 53) + 1, (1 << 31) + 1)}
    return sorted(v for v in found if low <= v <= high)


def divided(a: int, b: int) -> int:
    """Towards zero; 0 by zero."""
    if b == 0:
        return 0
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def power(a: int, e: int) -> int:
    if e >= 0:
        return a**e if abs(a) < 2 or e < 200 else pow(a, e, 1 << 64)
    return {1: 1, -1: 1 if e % 2 == 0 else -1}.get(a, 0)


def shifted(a: int, by: int, dtype: DType, left: bool) -> int:
    """By the width or more: what so many single shifts give. A count below zero is read as a large one."""
    by %= 1 << bits(dtype)
    by = min(by, bits(dtype))
    return a << by if left else a >> by


BINARY: dict[str, Callable[[int, int, DType], int | bool]] = {
    "add": lambda a, b, t: a + b,
    "sub": lambda a, b, t: a - b,
    "mul": lambda a, b, t: a * b,
    "div": lambda a, b, t: divided(a, b),
    "mod": lambda a, b, t: a % b if b else 0,
    "fmod": lambda a, b, t: a - divided(a, b) * b if b else 0,
    "pow": lambda a, b, t: power(a, b),
    "min": lambda a, b, t: min(a, b),
    "max": lambda a, b, t: max(a, b),
    "eq": lambda a, b, t: a == b,
    "ne": lambda a, b, t: a != b,
    "lt": lambda a, b, t: a < b,
    "le": lambda a, b, t: a <= b,
    "gt": lambda a, b, t: a > b,
    "ge": lambda a, b, t: a >= b,
    "bitand": lambda a, b, t: a & b,
    "bitor": lambda a, b, t: a | b,
    "bitxor": lambda a, b, t: a ^ b,
    "shl": lambda a, b, t: shifted(a, b, t, True),
    "shr": lambda a, b, t: shifted(a, b, t, False),
}
COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
UNARY: dict[str, Callable[[int], int]] = {
    "neg": lambda a: -a,
    "abs": abs,
    "sign": lambda a: (a > 0) - (a < 0),
    "bitnot": lambda a: -1 - a,
    "relu": lambda a: max(a, 0),
}


def array(values: Sequence[int], dtype: DType, shape: Sequence[int] | None = None) -> Array:
    """Integers as a tensor, each wrapped into the type."""
    flat = np.array([wrapped(int(v), dtype) for v in values], dtype=dtype.numpy)
    return flat if shape is None else flat.reshape(shape)


def integers(tensor: Array) -> list[int]:
    return [int(v) for v in tensor.reshape(-1)]


def binary(name: str, a: Array, b: Array, dtype: DType) -> Array:
    """A binary op on tensors that broadcast."""
    rule = BINARY[name]
    a, b = np.broadcast_arrays(a, b)
    results = [rule(x, y, dtype) for x, y in zip(integers(a), integers(b), strict=True)]
    if name in COMPARISONS:
        return np.array(results, dtype=np.bool_).reshape(a.shape)
    return array(results, dtype, a.shape)


def truncated_mean(values: Sequence[int]) -> int:
    return divided(sum(values), len(values))


def rounded(value: int, digits: int) -> Fraction:
    """To `digits` binary digits, ties to even."""
    exponent = max(abs(value).bit_length() - digits, 0)
    return Fraction(round(Fraction(value, 1 << exponent)) << exponent)
