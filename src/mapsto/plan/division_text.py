"""The text form of plans of several devices: printed, and read back to an equal plan.

    division 1 of <graph> on <device>, <device>...    1: the version of this form
    graph <digest> by mapsto <version>
    device <device> is <maker> products <factor> others <factor>
    power <device> idle <watts> unit <watts> byte <joules> [<types> <joules>]...
    objective <objective>
    placer <placer>
    pin <pattern> on <device>
    limit <device> memory <bytes>
    replicated                                        each device has all of it; works are on *
    split <value> <channels>
    split <value> <rows> of rows                      or of batch
    total <seconds> bound <seconds> by "<method>"     joules, where the objective is energy
    other "<way>" <seconds>
    work <name> on <device>                           on -: a copy, which the part that needs it makes
      nodes, ops <names>; from <sources>
      takes <device> <seconds>
      refuses <device> "<why>"
      beaten <device> by <seconds>                    the whole, with this work alone there
      because "<...>"
    part <number> on <device>                         its plan (`plan.text`) follows, to the next part

`#` starts a comment; details stand under their work, indented. A name that is no plain word is quoted as in JSON.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from mapsto.arguments import brief, text_of
from mapsto.boundary import public
from mapsto.errors import ParseError
from mapsto.ir.dtypes import DType
from mapsto.machine.spec import Power, ProductTypes
from mapsto.placement.problem import OBJECTIVES, PLACERS
from mapsto.plan.division import (
    AXES,
    CHANNELS,
    EVERYWHERE,
    NOWHERE,
    DividedPlan,
    PlacedWork,
    PlannedDevice,
    PlannedPart,
    Total,
)
from mapsto.plan.recipe import name_text
from mapsto.plan.words import (
    NAME,
    NAMES,
    TEXT,
    origin_lines,
    quoted_text,
    read_name,
    read_names,
    read_sources,
    read_text,
)

VERSION_OF_FORM = 1
_MOST_DEVICES = 64
_MOST_PINS = 1000  # each is held against each work

# ---- printing --------------------------------------------------------------------------------------------------------


@public
def division_text(plan: DividedPlan) -> str:
    """`parse_division` of it gives an equal plan."""
    return "\n".join(_lines(plan)) + "\n"


def _lines(plan: DividedPlan) -> Iterator[str]:
    yield f"division {VERSION_OF_FORM} of {name_text(plan.graph)} on {', '.join(plan.names)}"
    if plan.digest:
        yield f"graph {plan.digest} by mapsto {plan.version}"
    for d in plan.devices:
        if d.maker:
            handing = f" begins {d.begins!r} copies {d.copies!r}" if d.begins or d.copies < math.inf else ""
            yield f"device {d.name} is {d.maker} products {d.products!r} others {d.others!r}{handing}"
        if d.power is not None:
            yield _power_line(d.name, d.power)
    yield f"objective {plan.objective}"
    yield f"placer {plan.placer}"
    yield from (f"pin {name_text(pattern)} on {device}" for pattern, device in plan.pins)
    yield from (f"limit {device} memory {limit}" for device, limit in plan.limits)
    if plan.replicated:
        yield "replicated"
    axes = {value: f" of {axis}" for value, axis in plan.split_axes}
    yield from (f"split {name_text(value)} {count}{axes.get(value, '')}" for value, count in plan.splits)
    if plan.total is not None:
        yield f"total {plan.total.seconds!r} bound {plan.total.bound!r} by {quoted_text(plan.total.method)}"
    yield from (f"other {quoted_text(way)} {seconds!r}" for way, seconds in plan.others)
    for work in plan.works:
        yield from _work_lines(work)
    for number, part in enumerate(plan.parts):
        yield f"part {number} on {part.device}"
        yield from part.lines()


def _power_line(device: str, power: Power) -> str:
    products = (f" {'*'.join(t.value for t in types)} {joules!r}" for types, joules in power.products.items())
    return f"power {device} idle {power.idle!r} unit {power.unit!r} byte {power.byte!r}{''.join(products)}"


def _work_lines(work: PlacedWork) -> Iterator[str]:
    yield f"work {name_text(work.name)} on {work.device}"
    yield from origin_lines(work.nodes, work.ops, work.sources)
    yield from (f"  takes {device} {seconds!r}" for device, seconds in work.takes)
    yield from (f"  refuses {device} {quoted_text(why)}" for device, why in work.refuses)
    yield from (f"  beaten {device} by {seconds!r}" for device, seconds in work.beaten)
    if work.ends_part:
        yield "  ends part"
    if work.because:
        yield f"  because {quoted_text(work.because)}"


# ---- reading ---------------------------------------------------------------------------------------------------------

_DEVICE = r"[^\s,*]+"
_SECONDS = r"-?(?:inf|\d{1,20}(?:\.\d{1,20})?(?:e[+-]?\d{1,3})?)"
_TYPES = r"\w{1,16}\*\w{1,16}\*\w{1,16}"
_FORMS: Mapping[str, tuple[str, re.Pattern[str]]] = {
    word: (said, re.compile(rf"{word}{' ' if form else ''}{form}"))
    for word, said, form in (
        ("division", "division 1 of GRAPH on DEVICE, DEVICE",
         rf"(?P<form>\d{{1,9}}) of (?P<graph>{NAME}) on (?P<devices>{_DEVICE}(?:, *{_DEVICE})*)"),
        ("graph", "graph DIGEST by mapsto VERSION", r"(?P<digest>\S+) by mapsto (?P<version>\S+)"),
        ("device", "device DEVICE is MAKER products FACTOR others FACTOR begins SECONDS copies BYTES",
         rf"(?P<name>{_DEVICE}) is (?P<maker>\S+) products (?P<products>{_SECONDS}) others (?P<others>{_SECONDS})"
         rf"(?: begins (?P<begins>{_SECONDS}) copies (?P<copies>{_SECONDS}))?"),
        ("power", "power DEVICE idle WATTS unit WATTS byte JOULES",
         rf"(?P<name>{_DEVICE}) idle (?P<idle>{_SECONDS}) unit (?P<unit>{_SECONDS}) byte (?P<byte>{_SECONDS})"
         rf"(?P<products>(?: {_TYPES} {_SECONDS}){{0,64}})"),
        ("objective", "objective NAME", r"(?P<objective>\w+)"),
        ("placer", "placer NAME", r"(?P<placer>\w+)"),
        ("pin", "pin PATTERN on DEVICE", rf"(?P<pattern>{NAME}) on (?P<device>{_DEVICE})"),
        ("limit", "limit DEVICE memory BYTES", rf"(?P<device>{_DEVICE}) memory (?P<bytes>\d{{1,18}})"),
        ("replicated", "replicated", ""),
        ("split", "split VALUE COUNT of AXIS", rf"(?P<value>{NAME}) (?P<count>\d{{1,9}})(?: of (?P<axis>\w{{1,20}}))?"),
        ("total", 'total SECONDS bound SECONDS by "METHOD"',
         rf"(?P<seconds>{_SECONDS}) bound (?P<bound>{_SECONDS}) by (?P<method>{TEXT})"),
        ("other", 'other "WAY" SECONDS', rf"(?P<way>{TEXT}) (?P<seconds>{_SECONDS})"),
        ("work", "work NAME on DEVICE", rf"(?P<name>{NAME}) on (?P<device>{_DEVICE}|\*)"),
        ("part", "part NUMBER on DEVICE", rf"\d{{1,9}} on (?P<device>{_DEVICE})"),
        ("nodes", "nodes NAME, NAME", rf"(?P<names>{NAMES})"),
        ("ops", "ops NAME, NAME", rf"(?P<names>{NAMES})"),
        ("from", 'from ["NAME", "NAME"]', r"(?P<names>\[.*\])"),
        ("takes", "takes DEVICE SECONDS", rf"(?P<device>{_DEVICE}) (?P<seconds>{_SECONDS})"),
        ("refuses", 'refuses DEVICE "WHY"', rf"(?P<device>{_DEVICE}) (?P<why>{TEXT})"),
        ("beaten", "beaten DEVICE by SECONDS", rf"(?P<device>{_DEVICE}) by (?P<seconds>{_SECONDS})"),
        ("ends", "ends part", "part"),
        ("because", 'because "WHY"', rf"(?P<why>{TEXT})"),
    )
}  # fmt: skip


def is_division(text: str) -> bool:
    """Whether a text begins as a plan of several devices does."""
    begins = (line for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#"))
    return next(begins, "").split(" ", 1)[0] == "division"


@public
def parse_division(text: str) -> DividedPlan:
    """Reads the text form. Raises ParseError naming the line, ArgumentError for what is no text."""
    reader = _DivisionReader()
    lines = text_of(text, "plan").split("\n")
    end = next((at for at, line in enumerate(lines) if line.startswith("part ")), len(lines))
    for number, raw in enumerate(lines[:end], 1):
        line = raw.rstrip()
        if line.strip() and not line.lstrip().startswith("#"):
            with _told(number, raw):
                reader.detail(line.strip()) if line.startswith("  ") else reader.line(line, number)
    reader.finish()
    for at in [at for at in range(end, len(lines)) if lines[at].startswith("part ")]:
        with _told(at + 1, lines[at]):
            reader.begin_part(lines[at].rstrip(), at)
    reader.end_parts(lines)
    return reader.plan()


@contextmanager
def _told(number: int, raw: str) -> Iterator[None]:
    """What is wrong with a line, as a ParseError that names it."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise ParseError(f"plan, line {number}: {error}: {brief(raw)}") from error


@dataclass
class _DivisionReader:
    graph: str = ""
    origin: tuple[str, str] = ("", "")
    devices: dict[str, PlannedDevice] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)  # objective, placer
    pins: list[tuple[str, str]] = field(default_factory=list)
    replicated: bool = False
    splits: dict[str, int] = field(default_factory=dict)
    split_axes: dict[str, str] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    total: Total | None = None
    others: dict[str, float] = field(default_factory=dict)
    works: dict[str, PlacedWork] = field(default_factory=dict)
    begun: list[tuple[str, int]] = field(default_factory=list)  # device of a part, index of its line
    parts: list[PlannedPart] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)

    def line(self, line: str, number: int) -> None:
        word = line.split(" ", 1)[0]
        read = _HEADS.get(word)
        if read is None and word == "plan":
            raise ValueError("this is a plan of one device, which `mapsto.compile` and `mapsto run --plan` take")
        if read is None:
            raise ValueError("not a line of a plan of several devices")
        if word != "division" and not self.devices:
            raise ValueError("the first line is `division 1 of GRAPH on DEVICE, DEVICE`")
        found = _formed(word, line)
        key = f"work {read_name(found['name'])}" if word == "work" else line if word in _MANY else word
        if key in self.lines:
            raise ValueError(f"line {self.lines[key]} says that already")
        self.lines[key] = number
        read(self, found, number)

    def read_division(self, found: re.Match[str], number: int) -> None:
        if int(found["form"]) != VERSION_OF_FORM:
            raise ValueError(f"a plan of form {found['form']}; this version of mapsto reads form {VERSION_OF_FORM}")
        names = re.split(", *", found["devices"])
        if len(set(names)) != len(names):
            raise ValueError("a device that is there twice")
        if len(names) > _MOST_DEVICES:
            raise ValueError(f"more than {_MOST_DEVICES} devices")
        self.graph = read_name(found["graph"])
        self.devices = {name: PlannedDevice(name, "") for name in names}

    def read_graph(self, found: re.Match[str], number: int) -> None:
        self.origin = found["digest"], found["version"]

    def read_device(self, found: re.Match[str], number: int) -> None:
        name = self.known(found["name"])
        if self.devices[name].maker:
            raise ValueError(f"device {name}: a line says that already")
        self.lines[f"device {name}"] = number
        products, others = (_number(found[word], is_above_zero=True) for word in ("products", "others"))
        begins = _number(found["begins"] or "0")
        copies = _number(found["copies"] or "inf", is_above_zero=True, is_finite=False)
        self.devices[name] = replace(
            self.devices[name], maker=found["maker"], products=products, others=others, begins=begins, copies=copies
        )

    def read_power(self, found: re.Match[str], number: int) -> None:
        name = self.known(found["name"])
        if self.devices[name].power is not None:
            raise ValueError(f"power {name}: a line says that already")
        idle, unit, byte = (_number(found[word]) for word in ("idle", "unit", "byte"))
        words = found["products"].split()
        products = {_types(types): _number(joules) for types, joules in zip(words[::2], words[1::2], strict=True)}
        if 2 * len(products) != len(words):
            raise ValueError("types that are there twice")
        self.devices[name] = replace(self.devices[name], power=Power(idle, unit, byte, products))

    def read_limit(self, found: re.Match[str], number: int) -> None:
        name = self.known(found["device"])
        if name in self.limits:
            raise ValueError(f"limit {name}: a line says that already")
        self.limits[name] = int(found["bytes"])
        self.lines[f"limit {name}"] = number

    def read_word(self, found: re.Match[str], number: int) -> None:
        for word, said in found.groupdict().items():
            if said not in _WORDS[word]:
                raise ValueError(f"{word} {said!r}; there are: {', '.join(_WORDS[word])}")
            self.words[word] = said

    def read_pin(self, found: re.Match[str], number: int) -> None:
        pin = (read_name(found["pattern"]), self.known(found["device"]))
        self.lines["pin " + "=".join(pin)] = number
        self.pins.append(pin)
        if len(self.pins) > _MOST_PINS:
            raise ValueError(f"more than {_MOST_PINS} pins")

    def read_replicated(self, found: re.Match[str], number: int) -> None:
        self.replicated = True

    def read_split(self, found: re.Match[str], number: int) -> None:
        name = read_name(found["value"])
        if name in self.splits:
            raise ValueError(f"split {name}: a line says that already")
        if (axis := found["axis"] or CHANNELS) not in AXES:
            raise ValueError(f"split {name}: there is no axis {axis!r}; there are: {', '.join(AXES)}")
        self.splits[name] = int(found["count"])
        if axis != CHANNELS:
            self.split_axes[name] = axis
        self.lines[f"split {name}"] = number

    def read_total(self, found: re.Match[str], number: int) -> None:
        self.total = Total(float(found["seconds"]), float(found["bound"]), read_text(found["method"]))

    def read_other(self, found: re.Match[str], number: int) -> None:
        way = read_text(found["way"])
        if way in self.others:
            raise ValueError(f"other {way}: a line says that already")
        self.others[way] = float(found["seconds"])

    def read_work(self, found: re.Match[str], number: int) -> None:
        name, device = read_name(found["name"]), found["device"]
        if device not in (EVERYWHERE, NOWHERE):
            self.known(device)
        if device != NOWHERE and (device == EVERYWHERE) != self.replicated:
            raise ValueError("works are on * where a line `replicated` stands above them, and only there")
        self.works[name] = PlacedWork(name, device, line=number)

    def known(self, device: str) -> str:
        if device not in self.devices:
            raise ValueError(f"there is no device {device!r} in this plan; there are: {', '.join(self.devices)}")
        return device

    # -- details of works ----------------------------------------------------------------------------------------------

    def detail(self, line: str) -> None:
        if not self.works:
            raise ValueError("a detail, but no work before it")
        word = line.split(" ", 1)[0]
        if word not in _DETAILS:
            raise ValueError(f"unknown detail {word!r} of a work")
        name, work = next(reversed(self.works.items()))
        self.works[name] = self.detailed(work, word, _formed(word, line))

    def detailed(self, work: PlacedWork, word: str, found: re.Match[str]) -> PlacedWork:
        if word == "ends":
            return replace(work, ends_part=True)
        if word == "because":
            return replace(work, because=read_text(found["why"]))
        if word in ("nodes", "ops"):
            return replace(work, **{word: read_names(found["names"])})  # type: ignore[arg-type]
        if word == "from":
            return replace(work, sources=read_sources(found["names"]))
        device = self.known(found["device"])
        if device in (each for each, _ in getattr(work, word)):
            raise ValueError(f"{word} {device}: a line says that already")
        if word == "refuses":
            return replace(work, refuses=(*work.refuses, (device, read_text(found["why"]))))
        pair = (device, float(found["seconds"]))
        if word == "takes":
            return replace(work, takes=(*work.takes, pair))
        return replace(work, beaten=(*work.beaten, pair))

    # -- the end -------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        if not self.devices:
            raise ParseError("plan: there is no line `division 1 of GRAPH on DEVICE, DEVICE`")
        for work in self.works.values():
            if (work.device == NOWHERE) != (not work.nodes):
                what = "it has no nodes: write `on -`, as the part that needs it makes it" if not work.nodes else (
                    "on -, but it has nodes, which a device must do")  # fmt: skip
                raise ParseError(f"plan, line {work.line}: work {work.name}: {what}")
        if self.works and not self.origin[0]:
            raise ParseError("plan: there is no line `graph DIGEST by mapsto VERSION`, which says what the plan is of")

    def begin_part(self, line: str, at: int) -> None:
        if not self.works:
            raise ValueError("a part, but no work before it")
        self.begun.append((self.known(_formed("part", line)["device"]), at))

    def end_parts(self, lines: list[str]) -> None:
        ends = [at for _, at in self.begun[1:]] + [len(lines)] * bool(self.begun)
        for number, ((device, at), end) in enumerate(zip(self.begun, ends, strict=True)):
            part = PlannedPart(device, "\n".join(lines[at + 1 : end]), at + 2)
            maker, plan = self.devices[device].maker, part.plan
            if not plan.digest:
                raise ParseError(f"plan, line {at + 1}: part {number}: no line `graph DIGEST by mapsto VERSION`")
            if maker and plan.device != maker:
                said = f"for: {plan.device}, but {device} is {maker} (line {self.lines.get(f'device {device}', 1)})"
                raise ParseError(f"plan, line {plan.lines.get('plan', at + 1)}: {said}")
            self.parts.append(part)

    def plan(self) -> DividedPlan:
        return DividedPlan(
            self.graph, tuple(self.devices.values()), *self.origin, self.words.get("objective", "latency"),
            self.words.get("placer", "exact"), tuple(self.pins), self.replicated, tuple(self.splits.items()),
            self.total, tuple(self.others.items()), tuple(self.works.values()), tuple(self.parts),
            tuple(self.limits.items()), tuple(self.split_axes.items()), self.lines,
        )  # fmt: skip


_HEADS: Mapping[str, Callable[[_DivisionReader, re.Match[str], int], None]] = {
    "division": _DivisionReader.read_division,
    "graph": _DivisionReader.read_graph,
    "device": _DivisionReader.read_device,
    "objective": _DivisionReader.read_word,
    "placer": _DivisionReader.read_word,
    "pin": _DivisionReader.read_pin,
    "power": _DivisionReader.read_power,
    "limit": _DivisionReader.read_limit,
    "replicated": _DivisionReader.read_replicated,
    "split": _DivisionReader.read_split,
    "total": _DivisionReader.read_total,
    "other": _DivisionReader.read_other,
    "work": _DivisionReader.read_work,
}
_MANY = {"device", "power", "pin", "limit", "split", "other"}
_WORDS: Mapping[str, tuple[str, ...]] = {"objective": OBJECTIVES, "placer": PLACERS}
_DETAILS = {"nodes", "ops", "from", "takes", "refuses", "beaten", "ends", "because"}


def _types(text: str) -> ProductTypes:
    a, b, total = (DType(word) for word in text.split("*"))
    return a, b, total


def _number(text: str, is_above_zero: bool = False, is_finite: bool = True) -> float:
    found = float(text)
    if not (found > 0 or (found == 0 and not is_above_zero)) or (is_finite and found == math.inf):
        raise ValueError(f"expected a number {'above 0' if is_above_zero else 'from 0 on'}, found {text}")
    return found


def _formed(word: str, line: str) -> re.Match[str]:
    said, pattern = _FORMS[word]
    found = pattern.fullmatch(line)
    if found is None:
        raise ValueError(f"{word}: expected `{said}`")
    return found
