"""What a device is: the figures that decide how work is mapped onto it. Data only; no processor is named here.

A *unit* is what runs one thread of a kernel by itself: a core, a compute unit. Times are seconds, rates are per second
and per unit unless it says otherwise. Figures come from a measurement (rounded to 5 %, so that a second one gives the
same file more often than not), from a table of typical ones, or from a file that describes a device that is not there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mapsto.ir.dtypes import DType
from mapsto.kernel.products import accumulator_of

ProductTypes = tuple[DType, DType, DType]  # element types of (a, b, the sum of products)

# Classes of scalar functions that cost about the same, each named after the one that is measured.
# `max` keeps NaNs; `truncate` is float to integer, `convert` every other conversion.
RATES = (
    "add", "max", "divide", "sqrt", "exp", "log", "tanh", "erf", "sigmoid", "pow", "sin", "convert", "truncate",
    "integer_divide",
)  # fmt: skip
# A product that is added to a sum, in one operation where the processor has it: its figure is the peak's.
MULTIPLY_ADD = "multiply_add"
# Ways to touch elements: neighbours in one vector; evenly apart; at places that are computed or loaded.
MOVES = ("contiguous", "store", "strided_load", "strided_store", "gather")


@dataclass(frozen=True)
class Level:
    """One level of memory. `bytes`: what fits in it (inf: everything). `read`, `write`: bytes a second of one unit.

    `units`: how many units share one; `together`: bytes a second that all units that share it get at most.
    """

    name: str
    bytes: float
    read: float
    write: float
    units: int
    together: float


@dataclass(frozen=True)
class Power:
    """Watts: of the device doing nothing, and of each unit at work on top. On top of both, joules: of a byte that comes
    from the farthest level or goes there, and of a multiply-add by its types.
    """

    idle: float
    unit: float
    byte: float = 0.0
    products: Mapping[ProductTypes, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DeviceSpec:
    """One device.

    name: what a plan calls it. maker: the room under devices/ that makes code for it. model: the maker's name for the
    hardware. code: the instruction set or language level that code is made for.

    peaks: multiply-adds a second by (type of a, of b, of the sum), operands in registers.
    rates: seconds an element of 32 bits for each class of `RATES`, in vectors (an element of 64 bits takes two).
    moves: seconds an element of 32 bits, all in the nearest level, for each of `MOVES`.
    levels: memory, nearest first; the last one holds everything.
    lanes: elements of 32 bits in a vector (a warp, a subgroup). scalar: seconds of a simple operation on one element.
    latency: seconds until a sum can be added to again. loop: seconds to enter and leave a loop.
    units: units that work at once. launch: seconds of a step that does nothing. barrier: seconds until units that wait
    for one another go on. source: "measured", "typical" or "described".
    """

    name: str
    maker: str
    model: str
    code: str
    peaks: Mapping[ProductTypes, float]
    rates: Mapping[str, float]
    moves: Mapping[str, float]
    levels: tuple[Level, ...]
    lanes: int
    scalar: float
    latency: float
    loop: float
    units: int
    launch: float
    barrier: float
    source: str
    power: Power | None = None

    def __hash__(self) -> int:
        return hash((self.name, self.maker, self.model, self.code, self.source, self.lanes, self.units))

    def peak(self, a: DType, b: DType, total: DType) -> float:
        """Multiply-adds a second of one unit. Types that are not listed are multiplied as the widest that sum so (bytes
        in 16 bits), else as the sum's type; where that is not listed either, by one multiplication and one addition a
        lane.
        """
        found = self.peaks.get((a, b, total))
        if found is None and total is DType.I32 and accumulator_of(a, b) is total:
            found = self.peaks.get((DType.I16, DType.I16, total))
        found = found or self.peaks.get((total, total, total))
        return found if found is not None else 1.0 / (2.0 * self.rates["add"] * max(total.size / 4, 1.0))

    def rate(self, cls: str) -> float:
        """Seconds an element of 32 bits, in vectors, for a class of `RATES` or `MULTIPLY_ADD`."""
        return 1.0 / self.peak(DType.F32, DType.F32, DType.F32) if cls == MULTIPLY_ADD else self.rates[cls]

    def found_in(self, distance: float) -> list[tuple[Level, float]]:
        """(level, share) of an operand between whose uses `distance` bytes are touched, its own included.

        A level holds all of it up to its size, and less and less up to twice that: caches do not evict strictly what
        was used longest ago. No cliffs, so that a little more never costs a lot.
        """
        found, left = [], 1.0
        for level in self.levels:
            share = left * min(max(2.0 - distance / level.bytes, 0.0), 1.0)
            if share > 0:
                found.append((level, share))
            left -= share
        return found


@dataclass(frozen=True)
class Link:
    """A way from one device's memory to another's: bytes a second (inf: the memory is shared, and nothing is copied),
    and seconds before the first arrives. Links of one bus carry one transfer at a time; "": one of the two ends' own.
    """

    source: str
    target: str
    bytes: float
    latency: float
    bus: str = ""


@dataclass(frozen=True)
class Machine:
    """Devices that may be used together. The first one is the host, which runs the table of steps."""

    devices: tuple[DeviceSpec, ...]
    links: tuple[Link, ...] = ()
    _by_name: Mapping[str, DeviceSpec] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        assert self.devices, "a machine has at least one device"
        found = {device.name: device for device in self.devices}
        assert len(found) == len(self.devices), "devices of one machine have names of their own"
        faults = [fault for device in self.devices for fault in faults_of(device)]
        assert not faults, "; ".join(faults)
        object.__setattr__(self, "_by_name", found)

    @property
    def host(self) -> DeviceSpec:
        return self.devices[0]

    def device(self, name: str) -> DeviceSpec:
        """The device that a plan calls so. Raises KeyError."""
        return self._by_name[name]

    def link(self, source: str, target: str) -> Link | None:
        """The direct way between two devices, if there is one."""
        return next((link for link in self.links if (link.source, link.target) == (source, target)), None)


def rounded(figure: float) -> float:
    """A measured figure on a grid of steps of 5 %, with three digits: noise below that leaves no trace."""
    if figure <= 0 or not math.isfinite(figure):
        return figure
    step = math.log(1.05)
    return float(f"{math.exp(step * round(math.log(figure) / step)):.3g}")


LEAST_FIGURE, MOST_FIGURE = 1e-30, 1e30  # of what a machine is described by: costs made of them stay numbers
SOURCES = ("measured", "typical", "described")


def faults_of(spec: DeviceSpec) -> list[str]:
    """What is wrong with a description: each figure is a positive number that some machine may have, each class has
    one, levels grow.
    """
    found = [f"{what}: no figure for {key}" for what, key in _missing(spec)]
    for what, value in _figures(spec):
        if not LEAST_FIGURE <= value <= MOST_FIGURE:
            found.append(f"{what} is {value!r}; it must be a positive number, from {LEAST_FIGURE} to {MOST_FIGURE}")
    if spec.source not in SOURCES:
        found.append(f"source is {spec.source!r}; it must be one of {', '.join(SOURCES)}")
    if not spec.levels or spec.levels[-1].bytes != math.inf:
        found.append("levels: the last one must hold everything (bytes inf)")
    sizes = [level.bytes for level in spec.levels]
    if any(not a < b for a, b in zip(sizes, sizes[1:], strict=False)) or not all(s > 0 for s in sizes):
        found.append("levels: each must hold more bytes than the one before")
    return found


def _missing(spec: DeviceSpec) -> list[tuple[str, str]]:
    rates = [("rates", key) for key in RATES if key not in spec.rates]
    return rates + [("moves", key) for key in MOVES if key not in spec.moves]


def _figures(spec: DeviceSpec) -> list[tuple[str, float]]:
    found = [(f"peaks of {'*'.join(t.value for t in key)}", figure) for key, figure in spec.peaks.items()]
    found += [(f"rates of {key}", figure) for key, figure in spec.rates.items()]
    found += [(f"moves of {key}", figure) for key, figure in spec.moves.items()]
    for level in spec.levels:
        own = {"read": level.read, "write": level.write, "units": level.units, "together": level.together}
        found += [(f"{key} of level {level.name}", figure) for key, figure in own.items()]
    found += [(key, getattr(spec, key)) for key in ("lanes", "scalar", "latency", "loop", "units", "launch", "barrier")]
    return found
