"""Machine files: devices and links that are described by hand, in TOML (docs/machines.md).

What a data sheet says is enough: units, multiply-adds, memory. The rest follows from it in `_spec`, and every figure
may be given instead. Every complaint names the line and the key.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mapsto.errors import ParseError
from mapsto.ir.dtypes import DType
from mapsto.machine.spec import (
    LEAST_FIGURE,
    MOST_FIGURE,
    MOVES,
    RATES,
    DeviceSpec,
    Level,
    Link,
    Machine,
    Power,
    ProductTypes,
    faults_of,
)
from mapsto.toml import TomlReader, inside, lines_of, shown_value, toml_of

MACHINE_FORMAT = 1
MOST_BYTES = 1 << 20
_MOST_DEVICES = 64
_TYPES = {t.value: t for t in DType}

# What a figure is where a file does not say it, in simple operations (additions) of one element: what the vector units
# of processors and of GPUs alike take, to a factor of two.
_OPERATIONS = {
    "add": 1, "max": 2, "convert": 1, "truncate": 4, "divide": 8, "sqrt": 8, "exp": 16, "log": 20, "tanh": 24,
    "erf": 28, "sigmoid": 24, "pow": 48, "sin": 48, "integer_divide": 32,
}  # fmt: skip
# Times what a neighbour takes.
_APART = {"contiguous": 1.0, "store": 1.0, "strided_load": 4.0, "strided_store": 4.0, "gather": 8.0}


@dataclass(frozen=True)
class Support:
    """What a device takes. ops: of the graph (None: all); types: that operands and results may have (None: all).
    fixed: only works whose sizes are known beforehand.
    """

    ops: frozenset[str] | None = None
    types: frozenset[DType] | None = None
    fixed: bool = False


@dataclass(frozen=True)
class DescribedDevice:
    """tile: rows and columns of a product that one unit makes at once; what is not filled is lost. memory: bytes that a
    model may take of it.
    """

    spec: DeviceSpec
    support: Support = Support()
    tile: tuple[int, int] = (1, 1)
    memory: float = math.inf


@dataclass(frozen=True)
class MachineFile:
    """name: where it was read from. about: what it is, with the sources of its figures. price: of an hour, or None."""

    name: str
    about: str
    devices: tuple[DescribedDevice, ...]
    links: tuple[Link, ...]
    price: float | None = None

    @property
    def machine(self) -> Machine:
        return Machine(tuple(d.spec for d in self.devices), self.links)


def parse_machine(text: str, where: str, ops: Mapping[str, Collection[str]]) -> MachineFile:
    """The machine that a text describes. where: for messages. ops: what `ops` may name (an op, or a kind of ops), and
    what each stands for.

    Raises ParseError naming the line, the key, and what would be right there.
    """
    if len(text) > MOST_BYTES:
        raise ParseError(f"{where}: more than {MOST_BYTES:,} characters are too many for the description of a machine")
    data = toml_of(text, where, "describes a machine")
    return _MachineReader(where, lines_of(text), ops).read(data)


# ---- reading ---------------------------------------------------------------------------------------------------------

_DEVICE_KEYS = (
    "name", "model", "units", "lanes", "peaks", "rates", "moves", "levels", "launch", "barrier", "latency", "loop",
    "scalar", "memory", "tile", "ops", "types", "static", "power",
)  # fmt: skip


class _MachineReader(TomlReader):
    def __init__(self, where: str, lines: Mapping[str, int], ops: Mapping[str, Collection[str]]) -> None:
        super().__init__(where, lines)
        self.ops = ops

    def read(self, data: dict[str, Any]) -> MachineFile:
        self.only(data, ("mapsto_machine", "about", "price", "devices", "links"), "")
        if data.get("mapsto_machine") != MACHINE_FORMAT:
            found = shown_value(data.get("mapsto_machine"))
            raise self.fail("mapsto_machine", f"must be {MACHINE_FORMAT}, the version of the format; found {found}")
        about = self.word(data, "about", "") if "about" in data else ""
        price = self.number(data, "price", "") if "price" in data else None
        tables = self.tables(data, "devices", "")
        if not 1 <= len(tables) <= _MOST_DEVICES:
            raise self.fail("devices", f"there must be 1 to {_MOST_DEVICES}; there are {len(tables)}")
        devices = tuple(self.device(d, f"devices[{n}]") for n, d in enumerate(tables))
        names = [d.spec.name for d in devices]
        for n, name in enumerate(names):
            if name in names[:n]:
                raise self.fail(f"devices[{n}].name", f"there is a device {name!r} already")
        if devices[0].support != Support():
            said = next(k for k in ("ops", "types", "static") if k in tables[0])
            raise self.fail(f"devices[0].{said}", "the first device is the host; it takes all works")
        links: list[Link] = []
        for n, table in enumerate(self.tables(data, "links", "")):
            links += self.link(table, f"links[{n}]", names, links)
        return MachineFile(self.where, about.strip(), devices, tuple(links), price)

    def device(self, data: Mapping[str, Any], at: str) -> DescribedDevice:
        self.only(data, _DEVICE_KEYS, at)
        spec = self.spec(data, at)
        tile = (1, 1)
        if "tile" in data:
            pair = data["tile"]
            if not isinstance(pair, list) or len(pair) != 2 or not all(_is_whole(x) and 0 < x < 1 << 20 for x in pair):
                raise self.fail(f"{at}.tile", f"expected [rows, columns], found {shown_value(pair)}")
            tile = (pair[0], pair[1])
        memory = self.number(data, "memory", at) if "memory" in data else math.inf
        return DescribedDevice(spec, self.support(data, at), tile, memory)

    def support(self, data: Mapping[str, Any], at: str) -> Support:
        ops: frozenset[str] | None = None
        if "ops" in data:
            ops = frozenset(op for name in self.names(data, "ops", at) for op in self.known(name, self.ops, at, "ops"))
        types: frozenset[DType] | None = None
        if "types" in data:
            every = {name: (t,) for name, t in _TYPES.items()}
            types = frozenset(t for name in self.names(data, "types", at) for t in self.known(name, every, at, "types"))
        fixed = data.get("static", False)
        if not isinstance(fixed, bool):
            raise self.fail(f"{at}.static", f"expected true or false, found {shown_value(fixed)}")
        return Support(ops, types, fixed)

    def spec(self, data: Mapping[str, Any], at: str) -> DeviceSpec:
        """The figures of a device, with what follows for those that the file leaves out."""
        peaks = {
            self.types(k, f"{at}.peaks"): v for k, v in self.figures(data, "peaks", at, None).items()
        }  # per unit, multiply-adds a second
        if not peaks:
            raise self.fail(f"{at}.peaks", 'expected one figure at least, as "f32*f32*f32" = 1e11')
        rates, moves = self.figures(data, "rates", at, RATES), self.figures(data, "moves", at, MOVES)
        levels = tuple(self.level(d, f"{at}.levels[{n}]") for n, d in enumerate(self.tables(data, "levels", at)))
        simple = rates.get("add") or 1.0 / max(peaks.get((DType.F32,) * 3, 0.0), max(peaks.values()) / 8)
        near = moves.get("contiguous") or 4.0 / (levels[0].read if levels else math.inf)
        fallback = {"lanes": 16, "units": 1, "launch": 1e-6, "barrier": 1e-7, "latency": 4 * simple, "loop": 8 * simple}
        own = {key: self.number(data, key, at) if key in data else value for key, value in fallback.items()}
        lanes, units = (self.whole(data, key, at) if key in data else int(fallback[key]) for key in ("lanes", "units"))
        made = DeviceSpec(
            name=self.word(data, "name", at),
            maker="described",
            model=self.word(data, "model", at) if "model" in data else self.word(data, "name", at),
            code="none",
            peaks=peaks,
            rates={key: rates.get(key, simple * count) for key, count in _OPERATIONS.items()},
            moves={key: moves.get(key, near * times) for key, times in _APART.items()},
            levels=levels,
            lanes=lanes,
            scalar=self.number(data, "scalar", at) if "scalar" in data else simple * lanes,
            latency=own["latency"],
            loop=own["loop"],
            units=units,
            launch=own["launch"],
            barrier=own["barrier"],
            source="described",
            power=self.power(data, at),
        )
        if faults := faults_of(made):
            raise self.fail(f"{at}.levels" if faults[0].startswith("levels") else at, "; ".join(faults))
        return made

    def level(self, data: Mapping[str, Any], at: str) -> Level:
        self.only(data, ("name", "bytes", "read", "write", "units", "together"), at)
        size = self.number(data, "bytes", at) if "bytes" in data else math.inf
        units = self.whole(data, "units", at) if "units" in data else 1
        read = self.number(data, "read", at)
        write = self.number(data, "write", at) if "write" in data else read
        together = self.number(data, "together", at) if "together" in data else read * max(units, 1)
        return Level(self.word(data, "name", at), size, read, write, units, together)

    def power(self, data: Mapping[str, Any], at: str) -> Power | None:
        if "power" not in data:
            return None
        own, at = self.mapping(data["power"], f"{at}.power"), f"{at}.power"
        self.only(own, ("idle", "unit", "byte", "products"), at)
        products = {self.types(k, f"{at}.products"): v for k, v in self.figures(own, "products", at, None).items()}
        idle, unit, byte = (self.number(own, key, at, 0.0) if key in own else 0.0 for key in ("idle", "unit", "byte"))
        return Power(idle, unit, byte, products)

    def link(self, data: Mapping[str, Any], at: str, names: list[str], known: list[Link]) -> Iterator[Link]:
        self.only(data, ("between", "bytes", "latency", "shared", "bus"), at)
        ends = self.names(data, "between", at)
        if len(ends) != 2 or ends[0] == ends[1]:
            raise self.fail(f"{at}.between", f"expected two devices, found {shown_value(ends)}")
        for end in ends:
            self.known(end, {name: (name,) for name in names}, at, "between")
        if any((k.source, k.target) == tuple(ends) for k in known):
            raise self.fail(f"{at}.between", f"there is a link between {ends[0]} and {ends[1]} already")
        shared = data.get("shared", False)
        if not isinstance(shared, bool):
            raise self.fail(f"{at}.shared", f"expected true or false, found {shown_value(shared)}")
        if shared and "bytes" in data:
            raise self.fail(f"{at}.bytes", "nothing is copied where memory is shared; leave one of them out")
        rate = math.inf if shared else self.number(data, "bytes", at)
        latency = self.number(data, "latency", at, 0.0) if "latency" in data else 0.0
        bus = self.word(data, "bus", at) if "bus" in data else "-".join(sorted(ends))
        yield Link(ends[0], ends[1], rate, latency, bus)
        yield Link(ends[1], ends[0], rate, latency, bus)

    # -- pieces --------------------------------------------------------------------------------------------------------

    def number(self, data: Mapping[str, Any], key: str, at: str, least: float = LEAST_FIGURE) -> float:
        found = data.get(key)
        if isinstance(found, bool) or not isinstance(found, (int, float)):
            raise self.fail(inside(at, key), f"expected a number, found {shown_value(found)}")
        if not least <= found <= MOST_FIGURE:
            within = f" from {least} to {MOST_FIGURE}" if 0 < found < math.inf else ""
            raise self.fail(inside(at, key), f"expected a positive number{within}, found {shown_value(found)}")
        return float(found)

    def whole(self, data: Mapping[str, Any], key: str, at: str) -> int:
        found = self.number(data, key, at)
        if found != int(found):
            raise self.fail(inside(at, key), f"expected a whole number, found {found!r}")
        return int(found)

    def figures(
        self, data: Mapping[str, Any], key: str, at: str, known: Collection[str] | None
    ) -> dict[str, float]:
        own, at = self.mapping(data.get(key, {}), inside(at, key)), inside(at, key)
        if known is not None:
            self.only(own, known, at)
        return {name: self.number(own, name, at) for name in own}

    def types(self, key: str, at: str) -> ProductTypes:
        parts = key.split("*")
        if len(parts) != 3 or any(part not in _TYPES for part in parts):
            raise self.fail(inside(at, key), 'expected the types of a, of b and of their sum, as "f32*f32*f32"')
        a, b, total = (_TYPES[part] for part in parts)
        return a, b, total


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
