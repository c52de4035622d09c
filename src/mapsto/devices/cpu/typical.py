"""What a core with an instruction set typically does, until `mapsto devices --measure` has looked: rough figures.

One frequency and one count of instructions a cycle for all; a class of operations differs by how many instructions its
code takes on a vector. Good to a factor of two.
"""

from __future__ import annotations

import math

from mapsto.devices.cpu.caches import caches
from mapsto.devices.cpu.isa import Isa
from mapsto.ir.dtypes import DType
from mapsto.machine.spec import DeviceSpec, Level, rounded

_CYCLE = 1 / 3.2e9  # seconds
_SIMPLE = 2.0  # simple vector instructions a cycle
# Instructions on a vector of 32-bit elements.
_RATES = {
    "add": 1, "max": 3, "divide": 8, "sqrt": 10, "exp": 22, "log": 30, "tanh": 40, "erf": 50, "sigmoid": 34, "pow": 160,
    "sin": 160,
    "convert": 1, "truncate": 12, "integer_divide": 60,
}  # fmt: skip
# Cycles of a vector, and of an element.
_CONTIGUOUS, _STORE, _STRIDED_LOAD, _STRIDED_STORE, _GATHER = 0.5, 1.0, 0.8, 1.2, 1.2
_LATENCY, _LOOP = 4.0, 20.0  # cycles
_LAUNCH, _BARRIER = 25e-9, 400e-9  # seconds
_NEAR = (64.0, 32.0, 8.0)  # bytes a cycle from the caches, nearest first
_COUNTED_ON = 16 << 20  # bytes a core: of a cache that is larger, cores of other systems have a part
_MEMORY = 10e9  # bytes a second of one core; three share what there is


def typical(isa: Isa, units: int) -> DeviceSpec:
    """The description of a processor about which nothing but its instruction set and its caches is known."""
    lanes = isa.accumulator_lanes
    simple = _CYCLE / _SIMPLE / lanes
    known = caches()
    levels = [
        Level(c.name, min(c.bytes, _COUNTED_ON * c.units), rate, rate / 2, own := min(c.units, units), own * rate)
        for c, rate in zip(known, (r / _CYCLE for r in (*_NEAR, *[_NEAR[-1]] * len(known))), strict=False)
    ]
    levels.append(Level("memory", math.inf, _MEMORY, _MEMORY / 2, units, _MEMORY * min(units, 3)))
    return DeviceSpec(
        name="cpu",
        maker="cpu",
        model="unknown",
        code=isa.name,
        peaks=_peaks(isa),
        rates={name: rounded(count * simple) for name, count in _RATES.items()},
        moves={
            "contiguous": _CONTIGUOUS * _CYCLE / lanes,
            "store": _STORE * _CYCLE / lanes,
            "strided_load": _STRIDED_LOAD * _CYCLE,
            "strided_store": _STRIDED_STORE * _CYCLE,
            "gather": _GATHER * _CYCLE,
        },
        levels=tuple(levels),
        lanes=lanes,
        scalar=_CYCLE / _SIMPLE,
        latency=_LATENCY * _CYCLE,
        loop=_LOOP * _CYCLE,
        units=units,
        launch=_LAUNCH,
        barrier=_BARRIER,
        source="typical",
    )


def _peaks(isa: Isa) -> dict[tuple[DType, DType, DType], float]:
    f32 = isa.accumulator_lanes * isa.fma_per_cycle / _CYCLE / (1 if isa.has("fma") else 2)
    # pairs of 16 bits: a multiplication and an addition, of which some three are started in a cycle where two
    # multiply-adds of f32 are; or both in one instruction
    shorts = isa.accumulator_lanes * isa.fma_per_cycle / _CYCLE * (2 if isa.has("dot_u8s8") else 1.5)
    found = {
        (DType.F32, DType.F32, DType.F32): f32,
        (DType.F64, DType.F64, DType.F64): f32 / 2,
        (DType.I16, DType.I16, DType.I32): shorts,
    }
    if isa.has("dot_bf16"):
        found[DType.BF16, DType.BF16, DType.F32] = 2 * f32
    if isa.has("dot_u8s8"):
        found[DType.U8, DType.I8, DType.I32] = 4 * f32
    return found
