"""Machines as text: JSON with a version, written the same way every time, so that equal machines have equal text."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from mapsto.errors import ParseError
from mapsto.ir.dtypes import DType
from mapsto.machine.spec import MOST_FIGURE, DeviceSpec, Level, Link, Machine, Power, ProductTypes, faults_of

FORMAT_NAME = "mapsto machine"
FORMAT_VERSION = 1
_MOST_CHARACTERS = 1 << 20  # of a file; a machine of a hundred devices has some 10^5

_TYPES = {t.value: t for t in DType}
_NUMBERS = ("lanes", "scalar", "latency", "loop", "units", "launch", "barrier")
_WORDS = ("name", "maker", "model", "code", "source")
_WHOLE = ("lanes", "units")


def to_text(machine: Machine) -> str:
    """The machine as a text that `parse` reads."""
    return json.dumps(to_data(machine), indent=1, allow_nan=False) + "\n"


def digest(machine: Machine) -> str:
    """SHA-256 (64 hexadecimal digits) of every figure: plans made from equal digests are equal."""
    return hashlib.sha256(to_text(machine).encode()).hexdigest()


def to_data(machine: Machine) -> dict[str, Any]:
    """The machine as plain data; what has no bound is None there."""
    return {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        "devices": [_device_data(device) for device in machine.devices],
        "links": [_link_data(link) for link in machine.links],
    }


def _link_data(link: Link) -> dict[str, Any]:
    rate = None if link.bytes == math.inf else link.bytes
    found = {"source": link.source, "target": link.target, "bytes": rate, "latency": link.latency}
    return found | ({"bus": link.bus} if link.bus else {})


def _device_data(spec: DeviceSpec) -> dict[str, Any]:
    return {
        **{word: getattr(spec, word) for word in _WORDS},
        **{number: getattr(spec, number) for number in _NUMBERS},
        "peaks": {"*".join(t.value for t in key): figure for key, figure in sorted(spec.peaks.items(), key=str)},
        "rates": dict(sorted(spec.rates.items())),
        "moves": dict(sorted(spec.moves.items())),
        "levels": [_level_data(level) for level in spec.levels],
        "power": None if spec.power is None else power_data(spec.power),
    }


def power_data(power: Power) -> dict[str, Any]:
    """Figures of power, as files of machines have them."""
    products = {"*".join(t.value for t in key): figure for key, figure in sorted(power.products.items(), key=str)}
    more = ({"byte": power.byte} if power.byte else {}) | ({"products": products} if products else {})
    return {"idle": power.idle, "unit": power.unit, **more}


def _level_data(level: Level) -> dict[str, Any]:
    size = None if level.bytes == math.inf else level.bytes
    own = {"read": level.read, "write": level.write, "units": level.units, "together": level.together}
    return {"name": level.name, "bytes": size, **own}


# ---- reading -------------------------------------------------------------------------------------------------------


def parse(text: str, where: str = "machine") -> Machine:
    """The machine that a text describes. `where`: a name for messages.

    Raises ParseError naming the place and what would be right there.
    """
    if len(text) > _MOST_CHARACTERS:
        raise ParseError(f"{where}: {len(text)} characters are too many for the description of a machine")
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ParseError(f"{where}, line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (RecursionError, ValueError) as error:
        raise ParseError(f"{where}: this is no JSON that describes a machine ({error})") from None
    return _Reader(where).machine(data)


class _Reader:
    """Takes plain data apart; every complaint names the file and the way down to the place."""

    def __init__(self, where: str) -> None:
        self.where = where

    def fail(self, at: str, what: str) -> ParseError:
        return ParseError(f"{self.where}: {at}: {what}")

    def machine(self, data: Any) -> Machine:
        found = self.mapping(data, "the file")
        if found.get("format") != FORMAT_NAME:
            raise self.fail("format", f"expected {FORMAT_NAME!r}, found {found.get('format')!r}")
        if found.get("version") != FORMAT_VERSION:
            found_version = found.get("version")
            raise self.fail("version", f"this version of mapsto reads {FORMAT_VERSION}, the file has {found_version!r}")
        devices = tuple(self.device(d, f"devices[{n}]") for n, d in enumerate(self.listed(found, "devices")))
        names = [d.name for d in devices]
        if not devices or len(set(names)) != len(names):
            raise self.fail("devices", "there must be at least one, each with a name of its own")
        links = tuple(self.link(d, f"links[{n}]", names) for n, d in enumerate(self.listed(found, "links")))
        return Machine(devices, links)

    def device(self, data: Any, at: str) -> DeviceSpec:
        found = self.mapping(data, at)
        self.only(found, (*_WORDS, *_NUMBERS, "peaks", "rates", "moves", "levels", "power"), at)
        words: dict[str, Any] = {word: self.word(found, word, at) for word in _WORDS}
        numbers: dict[str, Any] = {name: self.number(found, name, at) for name in _NUMBERS}
        for name in _WHOLE:
            if numbers[name] != int(numbers[name]):
                raise self.fail(f"{at}.{name}", f"expected a whole number, found {numbers[name]!r}")
            numbers[name] = int(numbers[name])
        peaks = {self.types(key, f"{at}.peaks"): figure for key, figure in self.figures(found, "peaks", at).items()}
        levels = tuple(self.level(d, f"{at}.levels[{n}]") for n, d in enumerate(self.listed(found, "levels", at)))
        rates, moves = (self.figures(found, key, at) for key in ("rates", "moves"))
        power = self.power(found.get("power"), f"{at}.power")
        made = DeviceSpec(peaks=peaks, rates=rates, moves=moves, levels=levels, power=power, **words, **numbers)
        if faults := faults_of(made):
            raise self.fail(at, "; ".join(faults))
        return made

    def level(self, data: Any, at: str) -> Level:
        found = self.mapping(data, at)
        self.only(found, ("name", "bytes", "read", "write", "units", "together"), at)
        size = math.inf if found.get("bytes", 0) is None else self.number(found, "bytes", at)
        units = self.number(found, "units", at)
        if units != int(units):
            raise self.fail(f"{at}.units", f"expected a whole number, found {units!r}")
        read, write, together = (self.number(found, key, at) for key in ("read", "write", "together"))
        return Level(self.word(found, "name", at), size, read, write, int(units), together)

    def power(self, data: Any, at: str) -> Power | None:
        if data is None:
            return None
        found = self.mapping(data, at)
        self.only(found, ("idle", "unit", "byte", "products"), at)
        products = self.figures(found, "products", at) if "products" in found else {}
        byte = self.number(found, "byte", at) if "byte" in found else 0.0
        of_types = {self.types(key, f"{at}.products"): figure for key, figure in products.items()}
        return Power(self.number(found, "idle", at), self.number(found, "unit", at), byte, of_types)

    def link(self, data: Any, at: str, names: list[str]) -> Link:
        found = self.mapping(data, at)
        source, target = self.word(found, "source", at), self.word(found, "target", at)
        for end in (source, target):
            if end not in names:
                raise self.fail(at, f"there is no device {end!r}; there are: {', '.join(names)}")
        self.only(found, ("source", "target", "bytes", "latency", "bus"), at)
        rate = math.inf if found.get("bytes", 0) is None else self.number(found, "bytes", at)
        bus = self.word(found, "bus", at) if "bus" in found else ""
        return Link(source, target, rate, self.number(found, "latency", at), bus)

    # -- pieces --------------------------------------------------------------------------------------------------------

    def mapping(self, data: Any, at: str) -> Mapping[str, Any]:
        if not isinstance(data, dict):
            raise self.fail(at, f"expected an object with named members, found {_brief(data)}")
        return data

    def only(self, found: Mapping[str, Any], known: tuple[str, ...], at: str) -> None:
        unknown = [key for key in found if key not in known]
        if unknown:
            raise self.fail(at, f"{_brief(unknown[0])} means nothing here; there are: {', '.join(known)}")

    def listed(self, found: Mapping[str, Any], key: str, at: str = "the file") -> list[Any]:
        data = found.get(key, [])
        if not isinstance(data, list):
            raise self.fail(f"{at}.{key}", f"expected a list, found {_brief(data)}")
        return data

    def word(self, found: Mapping[str, Any], key: str, at: str) -> str:
        data = found.get(key)
        if not isinstance(data, str) or not data:
            raise self.fail(f"{at}.{key}", f"expected a text, found {_brief(data)}")
        return data

    def number(self, found: Mapping[str, Any], key: str, at: str) -> float:
        data = found.get(key)
        if isinstance(data, bool) or not isinstance(data, (int, float)):
            raise self.fail(f"{at}.{key}", f"expected a number, found {_brief(data)}")
        if not 0 < data <= MOST_FIGURE:
            raise self.fail(f"{at}.{key}", f"expected a positive number, found {_brief(data)}")
        return data

    def figures(self, found: Mapping[str, Any], key: str, at: str) -> dict[str, float]:
        own = self.mapping(found.get(key), f"{at}.{key}")
        return {name: float(self.number(own, name, f"{at}.{key}")) for name in own}

    def types(self, key: str, at: str) -> ProductTypes:
        parts = key.split("*")
        if len(parts) != 3 or any(part not in _TYPES for part in parts):
            raise self.fail(at, f"{_brief(key)} is no `a*b*sum` of element types, as f32*f32*f32")
        a, b, total = (_TYPES[part] for part in parts)
        return a, b, total


def _brief(data: Any) -> str:
    text = repr(data)
    return text if len(text) <= 60 else f"{text[:57]}..."
