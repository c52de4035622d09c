"""Numbers held as unevaluated sums of two floats (Dekker 1971; Knuth; with fused multiply-add)."""

from __future__ import annotations

from dataclasses import dataclass

from mapsto.loop.math.block import Lanes


@dataclass(frozen=True)
class Pair:
    """high + low, |low| at most half an ulp of high."""

    high: Lanes
    low: Lanes

    def __add__(self, other: Pair) -> Pair:
        high, low = _two_sum(self.high, other.high)
        return quick_two_sum(high, low + (self.low + other.low))

    def __mul__(self, other: Pair) -> Pair:
        high, low = two_product(self.high, other.high)
        return quick_two_sum(high, self.high.fma(other.low, self.low.fma(other.high, low)))


def two_product(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """a*b exactly, as (product, error)."""
    product = a * b
    return product, a.fma(b, -product)


def _two_sum(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    total = a + b
    t = total - a
    return total, (a - (total - t)) + (b - t)


def two_sum(a: Lanes, b: Lanes) -> Pair:
    """a + b exactly."""
    return Pair(*_two_sum(a, b))


def quick_two_sum(a: Lanes, b: Lanes) -> Pair:
    """a + b exactly, for |a| >= |b| or a = 0."""
    total = a + b
    return Pair(total, b - (total - a))


def divide(a: Pair, b: Pair) -> Pair:
    """a/b; the error is some 2^-104 of it."""
    quotient = a.high / b.high
    rest = quotient.fma(-b.high, a.high) + (a.low - quotient * b.low)
    return quick_two_sum(quotient, rest / b.high)
