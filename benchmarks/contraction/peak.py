"""The most multiply-adds that one core does per second: independent accumulators, operands in registers."""

from __future__ import annotations

from benchmarks.contraction.cases import Format
from mapsto.devices.cpu import probes
from mapsto.devices.cpu.isa import Isa
from mapsto.devices.cpu.probes import ACCUMULATORS
from mapsto.loop.ast import Function

__all__ = ["ACCUMULATORS", "multiplications_per_round", "peak_function"]


def peak_function(fmt: Format, isa: Isa) -> Function:
    """end - begin rounds of `ACCUMULATORS` vector multiply-adds (dot products where the format has them)."""
    return probes.peak_function(fmt.a, fmt.b, fmt.accumulator, isa)


def multiplications_per_round(fmt: Format, isa: Isa) -> int:
    return probes.products_a_round(isa, fmt.accumulator, fmt.interleave)
