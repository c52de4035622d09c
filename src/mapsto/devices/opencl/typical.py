"""What an OpenCL device typically does, by the little that it says of itself: rough figures."""

from __future__ import annotations

import math

from mapsto.devices.opencl.device import Device
from mapsto.ir.dtypes import DType
from mapsto.machine.spec import MOVES, DeviceSpec, Level

# Simple vector operations that a function of a class takes; a driver's libraries decide, which nobody has looked at.
_RATES = {
    "add": 1, "max": 2, "divide": 8, "sqrt": 8, "exp": 20, "log": 25, "tanh": 40, "erf": 50, "sigmoid": 30, "pow": 80,
    "sin": 60, "convert": 1, "truncate": 4, "integer_divide": 40,
}  # fmt: skip
_SLOWEST = 1.0e9  # cycles a second of a device that says nothing
_CACHE, _MEMORY = 16.0, 4.0  # bytes a cycle that a unit gets from the cache, and from memory
_SHARED = 8  # units that memory serves at full speed
_LATENCY, _LOOP = 4.0, 20.0  # cycles
_LAUNCH = 5e-6  # seconds: a command goes through a queue; PoCL takes 2 us
_LEAST_CACHE = 1 << 15


def typical(device: Device) -> DeviceSpec:
    """The description of a device: lanes, units and clock as it says, the rest by rule of thumb."""
    cycle = 1 / max(device.clock, _SLOWEST)
    simple = cycle / device.lanes
    cache = max(device.cache_bytes, _LEAST_CACHE)
    units = max(device.compute_units, 1)
    near, far = _CACHE / cycle, _MEMORY / cycle
    return DeviceSpec(
        name="opencl",
        maker="opencl",
        model=device.name,
        code="opencl",
        peaks={(DType.F32, DType.F32, DType.F32): 1 / simple},
        rates={name: count * simple for name, count in _RATES.items()},
        moves={name: simple if name in ("contiguous", "store") else cycle for name in MOVES},
        levels=(
            Level("cache", float(cache), near, near / 2, 1, near),
            Level("memory", math.inf, far, far / 2, units, far * min(units, _SHARED)),
        ),
        lanes=device.lanes,
        scalar=cycle,
        latency=_LATENCY * cycle,
        loop=_LOOP * cycle,
        units=units,
        launch=_LAUNCH,
        barrier=_LAUNCH / 100,  # a queue in order: work-items of a step do not wait for those of the next
        source="typical",
    )
