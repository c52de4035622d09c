"""The text form of plans: printed, and read back to an equal plan.

    plan <graph> for <device>
    graph <digest> by mapsto <version>
    accuracy "<what results lose by their formats>"
    format <name> of <source node>, ... scale <number> zero <byte> powers <runs> because "<...>"   (or: most <steps>)
    traits <trait> <number>, ...    what the maker asked for (`plan.traits`)
    machine <digest> <source>       the figures that costs were counted with
    size <name> <number>            what an open size was taken for
    seats <seconds> bound <seconds> voted <seconds> by <method> losses <exact|bounds>
    beaten inner <dim|dim whole|dim panels|-> of <value>, <value>... by <seconds>
    work <name> <kind> = <recipe>
      writes <value>, <value>...
      as <template> "<schedule>"
      nodes, ops <names>; from <sources>; cost "<...>"; because "<...>"
      predicted <seconds>
      beaten as <template> "<schedule>" by <seconds>
      beaten apart <value> by <seconds>
      not <rule> of <value> because "<...>"
    view <name> <value> of <value>, ... = <recipe>
    control <name> <number of a node>
    region <name> <node>            its items follow, arm by arm
    arm <number> of <name>
    end <name>
    home <value> : <dtype>[<shape>] in <buffer> axes "<...>" of "<elements>" at "<offset>" border <...>
    place <output> in <value>
    pin apart <node>, <node>...     what a plan that is yet to be made must keep to
    pin inner <value> <dim|->
    pin size <name> <number>

`#` starts a comment; details stand under their item, indented. A name that is no plain word is quoted as in JSON.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace

from mapsto.arguments import brief
from mapsto.errors import ParseError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.ir.expr_text import parse_dim
from mapsto.plan.home import Home
from mapsto.plan.layout import Axis, Layout
from mapsto.plan.recipe import name_text, parse_recipe
from mapsto.plan.traits import Traits
from mapsto.plan.words import (
    NAME,
    NAMES,
    TEXT,
    names_text,
    origin_lines,
    quoted_text,
    read_name,
    read_names,
    read_runs,
    read_sources,
    read_text,
    runs_text,
)
from mapsto.plan.works import (
    Basis,
    Beaten,
    Declined,
    Offer,
    Pins,
    PlannedControl,
    PlannedFormat,
    PlannedItem,
    PlannedRegion,
    PlannedView,
    Seats,
    Work,
)

# ---- printing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlanFields:
    """What is printed and read: the fields of a plan. `lines`: where the first words, items, homes and places stood."""

    graph: str
    device: str
    digest: str
    version: str
    items: tuple[PlannedItem, ...]
    homes: Mapping[str, Home]
    places: Mapping[str, str]
    pins: Pins
    traits: Traits | None
    basis: Basis | None
    formats: tuple[PlannedFormat, ...] = ()
    accuracy: str = ""
    lines: Mapping[str, int] = field(default_factory=dict)


def plan_lines(parts: PlanFields) -> Iterator[str]:
    yield f"plan {name_text(parts.graph)} for {parts.device}"
    if parts.digest:
        yield f"graph {parts.digest} by mapsto {parts.version}"
    if parts.accuracy:
        yield f"accuracy {quoted_text(parts.accuracy)}"
    for each in parts.formats:
        reason = f" because {quoted_text(each.because)}" if each.because else ""
        yield f"format {each.format} of {names_text(each.sources)}{_quantised_text(each)}{reason}"
    if parts.traits is not None:
        yield f"traits {traits_text(parts.traits)}"
    if parts.basis is not None:
        yield from _basis_lines(parts.basis)
    for item in parts.items:
        yield from _item_lines(item)
    for name, home in parts.homes.items():
        yield from _home_lines(name, home)
    yield from (f"place {name_text(output)} in {name_text(value)}" for output, value in parts.places.items())
    yield from (f"pin apart {names_text(names)}" for names in parts.pins.apart)
    yield from (f"pin inner {name_text(name)} {'-' if dim is None else dim}" for name, dim in parts.pins.inner)
    yield from (f"pin size {name_text(name)} {number}" for name, number in parts.pins.sizes)


def traits_text(traits: Traits) -> str:
    """As it stands in a plan."""
    said = {f.name: getattr(traits, f.name) for f in fields(Traits) if getattr(traits, f.name) != f.default}
    return ", ".join(f"{name} {number}" for name, number in said.items())


def _basis_lines(basis: Basis) -> Iterator[str]:
    yield f"machine {basis.machine} {basis.source}"
    yield from (f"size {name_text(name)} {number}" for name, number in basis.sizes)
    if (seats := basis.seats) is not None:
        how = "exact" if seats.exact else "bounds"
        sums = f"{seats.seconds!r} bound {seats.bound!r} voted {seats.voted!r}"
        yield f"seats {sums} by {seats.method} losses {how}"
        yield from (f"beaten inner {b.of} of {names_text(names)} by {b.loss!r}" for names, b in seats.beaten)


def _item_lines(item: PlannedItem) -> Iterator[str]:
    if isinstance(item, Work):
        yield from _work_lines(item)
    elif isinstance(item, PlannedView):
        yield f"view {item.name} {name_text(item.value)} of {names_text(item.of)} = {item.recipe}"
        if item.because:
            yield f"  because {quoted_text(item.because)}"
    elif isinstance(item, PlannedControl):
        yield f"control {item.name} {item.node}"
    else:
        yield f"region {item.name} {name_text(item.node)}"
        for number, arm in enumerate(item.arms):
            yield f"arm {number} of {item.name}"
            for inner in arm:
                yield from _item_lines(inner)
        yield f"end {item.name}"


def _work_lines(work: Work) -> Iterator[str]:
    yield f"work {work.name} {work.kind} = {work.recipe}"
    if work.writes:
        yield f"  writes {names_text(work.writes)}"
    yield f"  as {work.offer.template} {quoted_text(work.offer.schedule or '')}"
    yield from origin_lines(work.nodes, work.ops, work.sources)
    if work.cost:
        yield f"  cost {quoted_text(work.cost)}"
    for reason in work.because:
        yield f"  because {quoted_text(reason)}"
    if work.predicted:
        yield f"  predicted {work.predicted!r}"
    for b in work.beaten:
        of = f"{b.of} {quoted_text(b.schedule)}" if b.how == "as" else name_text(b.of)
        yield f"  beaten {b.how} {of} by {b.loss!r}"
    for d in work.declined:
        yield f"  not {d.rule} of {name_text(d.of)} because {quoted_text(d.why)}"


def _home_lines(name: str, home: Home) -> Iterator[str]:
    layout = home.layout
    shape = ", ".join(map(str, layout.shape))
    axes = quoted_text("; ".join(f"{axis}*({axis.stride})" for axis in layout.axes))
    border = f" border {','.join(f'{b}:{a}' for b, a in layout.border)}" if layout.has_border else ""
    yield (
        f"home {name_text(name)} : {home.dtype.value}[{shape}] in {name_text(home.buffer)} axes {axes} "
        f"of {quoted_text(str(layout.elements))} at {quoted_text(str(layout.offset))}{border}"
    )
    if home.because:
        yield f"  because {quoted_text(home.because)}"


def _quantised_text(each: PlannedFormat) -> str:
    if each.scale is None:
        return ""
    powers = f" powers {runs_text(each.powers)}" if each.powers else ""
    return f" scale {each.scale!r} " + (f"zero {each.zero}" if each.most is None else f"most {each.most}") + powers


# ---- reading ---------------------------------------------------------------------------------------------------------

_HEAD = re.compile(rf"plan (?P<graph>{NAME}) for (?P<device>\S+)$")
_ORIGIN = re.compile(r"graph (?P<digest>\S+) by mapsto (?P<version>\S+)$")
_FORMAT = re.compile(
    rf"format (?P<format>\S+) of (?P<sources>{NAMES})"
    r"(?: scale (?P<scale>\S{1,30}) (?:zero (?P<zero>\d{1,3})(?: powers (?P<powers>\S+))?|most (?P<most>\d{1,5})))?"
    rf"(?: because (?P<because>{TEXT}))?$"
)
_TRAIT = re.compile(r"(?P<name>\w+) (?P<number>\d{1,9})$")
_WORK = re.compile(r"work (?P<name>\S+) (?P<kind>rows|contraction|routine|chain|sliced) = (?P<recipe>.+)$")
_VIEW = re.compile(rf"view (?P<name>\S+) (?P<value>{NAME}) of (?P<of>{NAMES}) = (?P<recipe>.+)$")
_CONTROL = re.compile(r"control (?P<name>\S+) (?P<node>\d{1,9})$")
_REGION = re.compile(rf"region (?P<name>\S+) (?P<node>{NAME})$")
_ARM = re.compile(r"arm (?P<number>\d{1,9}) of (?P<name>\S+)$")
_END = re.compile(r"end (?P<name>\S+)$")
_HOME = re.compile(
    rf"home (?P<value>{NAME}) : (?P<dtype>\w+)\[(?P<shape>.*)\] in (?P<buffer>{NAME}) axes (?P<axes>{TEXT})"
    rf" of (?P<of>{TEXT}) at (?P<at>{TEXT})(?: border (?P<border>[\d:,]+))?$"
)
_PLACE = re.compile(rf"place (?P<output>{NAME}) in (?P<value>{NAME})$")
_APART = re.compile(rf"pin apart (?P<nodes>{NAMES})$")
_INNER = re.compile(rf"pin inner (?P<value>{NAME}) (?P<dim>-|\d{{1,9}})$")
_AXIS = re.compile(r"d(?P<dim>\d{1,9})(?:/(?P<div>\d{1,9}))?(?:%(?P<size>\d{1,9}))?\*\((?P<stride>.*)\)$")
_DECLINED = re.compile(rf"not (?P<rule>\S+) of (?P<of>{NAME}) because (?P<why>{TEXT})$")
_AS = re.compile(rf"as (?P<template>\S+) (?P<schedule>{TEXT})$")
_NUMBER = r"-?(?:inf|\d{1,20}(?:\.\d{1,20})?(?:e[+-]?\d{1,3})?)"
_MACHINE = re.compile(r"machine (?P<digest>\S+) (?P<source>\S+)$")
_SIZE = re.compile(rf"(?:pin )?size (?P<name>{NAME}) (?P<number>\d{{1,18}})$")
_SEATS = re.compile(
    rf"seats (?P<seconds>{_NUMBER}) bound (?P<bound>{_NUMBER}) voted (?P<voted>{_NUMBER}) by (?P<method>\w+)"
    r" losses (?P<losses>exact|bounds)$"
)
_BEATEN_INNER = re.compile(
    rf"beaten inner (?P<dim>-|\d{{1,9}}(?: whole| panels)?) of (?P<values>{NAMES}) by (?P<loss>{_NUMBER})$"
)
_BEATEN_AS = re.compile(rf"beaten as (?P<template>\S+) (?P<schedule>{TEXT}) by (?P<loss>{_NUMBER})$")
_BEATEN_APART = re.compile(rf"beaten apart (?P<value>{NAME}) by (?P<loss>{_NUMBER})$")
_DEEPEST = 50


def read_parts(text: str, first: int = 1) -> PlanFields:
    """Raises ParseError naming the line. first: the number of the first line, where it stands in another text."""
    reader = _Reader()
    for number, raw in enumerate(text.split("\n"), first):
        line = raw.rstrip()
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            if line.startswith("  "):
                reader.detail(line.strip())
            else:
                reader.line(line, number)
        except (ValueError, IndexError, KeyError, TypeError, RecursionError, ParseError) as error:
            raise ParseError(f"plan, line {number}: {error}: {brief(raw)}") from error
    return reader.finished()


@dataclass
class _Open:
    """A region whose items are being read."""

    name: str
    node: str
    line: int
    arms: list[list[PlannedItem]] = field(default_factory=list)


@dataclass
class _Reader:
    graph: str = ""
    device: str = ""
    digest: str = ""
    version: str = ""
    accuracy: str = ""
    formats: list[PlannedFormat] = field(default_factory=list)
    traits: Traits | None = None
    items: list[PlannedItem] = field(default_factory=list)
    open: list[_Open] = field(default_factory=list)
    homes: dict[str, Home] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    machine: tuple[str, str] | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    seats: Seats | None = None
    apart: list[tuple[str, ...]] = field(default_factory=list)
    assumed: dict[str, int] = field(default_factory=dict)  # sizes that are pinned
    inner: dict[str, int | None] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    pinned: dict[tuple[str, ...], int] = field(default_factory=dict)
    last_home: str = ""

    def line(self, line: str, number: int) -> None:
        word = line.split(" ", 1)[0]
        read = _LINES.get(word)
        if read is None and word == "division":
            raise ValueError("this is a plan of several devices, which `mapsto.divide` and `mapsto run --plan` take")
        if read is None:
            raise ValueError("not a line of a plan")
        read(self, line, number)

    def add(self, item: PlannedItem) -> None:
        if self.open and not self.open[-1].arms:
            raise ValueError(f"region {self.open[-1].name} has no arm yet")
        (self.open[-1].arms[-1] if self.open else self.items).append(item)
        self.last_home = ""

    def once(self, key: str, number: int) -> None:
        if key in self.lines:
            raise ValueError(f"line {self.lines[key]} says that already")
        self.lines[key] = number

    # -- lines ---------------------------------------------------------------------------------------------------------

    def read_plan(self, line: str, number: int) -> None:
        found = _matched(_HEAD, line)
        self.once("plan", number)
        self.graph, self.device = read_name(found["graph"]), found["device"]

    def read_graph(self, line: str, number: int) -> None:
        found = _matched(_ORIGIN, line)
        self.once("graph", number)
        self.digest, self.version = found["digest"], found["version"]

    def read_accuracy(self, line: str, number: int) -> None:
        self.once("accuracy", number)
        self.accuracy = read_text(line.removeprefix("accuracy "))

    def read_format(self, line: str, number: int) -> None:
        found = _matched(_FORMAT, line)
        because = "" if found["because"] is None else read_text(found["because"])
        scale, zero = None if found["scale"] is None else _seconds(found["scale"]), int(found["zero"] or 0)
        most = None if found["most"] is None else int(found["most"])
        is_wrong = (scale is not None and not 0 < scale < math.inf) or (most is not None and not 0 < most < 1 << 15)
        if is_wrong or zero > 255:
            raise ValueError("a scale is a positive number, a zero point a byte, and most of 1 to 32767")
        sources, powers = read_names(found["sources"]), () if found["powers"] is None else read_runs(found["powers"])
        self.formats.append(PlannedFormat(found["format"], sources, because, scale, zero, most, powers, number))

    def read_traits(self, line: str, number: int) -> None:
        found = [_matched(_TRAIT, part) for part in line.removeprefix("traits ").split(", ")]
        self.once("traits", number)
        known = [f.name for f in fields(Traits)]
        least = sum(f.default is MISSING for f in fields(Traits))  # plans that were written before have no others
        if len(found) < least or [trait["name"] for trait in found] != known[: len(found)]:
            raise ValueError(f"the traits are {', '.join(known)}, in this order")
        self.traits = Traits(*(int(trait["number"]) for trait in found))

    def read_machine(self, line: str, number: int) -> None:
        found = _matched(_MACHINE, line)
        self.once("machine", number)
        self.machine = found["digest"], found["source"]

    def read_size(self, line: str, number: int) -> None:
        found = _matched(_SIZE, line)
        name = read_name(found["name"])
        self.once(f"size {name}", number)
        self.sizes[name] = int(found["number"])

    def read_seats(self, line: str, number: int) -> None:
        found = _matched(_SEATS, line)
        self.once("seats", number)
        seconds, bound, voted = (float(found[key]) for key in ("seconds", "bound", "voted"))
        self.seats = Seats(seconds, bound, voted, found["method"], found["losses"] == "exact")

    def read_beaten(self, line: str, number: int) -> None:
        found = _matched(_BEATEN_INNER, line)
        if self.seats is None:
            raise ValueError("there is no line `seats ...` before it")
        self.once(f"beaten inner {found['dim']} of {found['values']}", number)
        beaten = Beaten("inner", found["dim"], "", float(found["loss"]))
        self.seats = replace(self.seats, beaten=(*self.seats.beaten, (read_names(found["values"]), beaten)))

    def read_work(self, line: str, number: int) -> None:
        found = _matched(_WORK, line)
        self.once(f"item {found['name']}", number)
        recipe = parse_recipe(found["recipe"])
        self.add(Work(found["name"], found["kind"], recipe, (), Offer(""), line=number))

    def read_view(self, line: str, number: int) -> None:
        found = _matched(_VIEW, line)
        self.once(f"item {found['name']}", number)
        value, of, recipe = read_name(found["value"]), read_names(found["of"]), parse_recipe(found["recipe"])
        self.add(PlannedView(found["name"], value, of, recipe, line=number))

    def read_control(self, line: str, number: int) -> None:
        found = _matched(_CONTROL, line)
        self.once(f"item {found['name']}", number)
        self.add(PlannedControl(found["name"], int(found["node"]), number))

    def read_region(self, line: str, number: int) -> None:
        found = _matched(_REGION, line)
        self.once(f"item {found['name']}", number)
        if len(self.open) >= _DEEPEST:
            raise ValueError("regions nested too deep")
        self.open.append(_Open(found["name"], read_name(found["node"]), number))

    def read_arm(self, line: str, number: int) -> None:
        found = _matched(_ARM, line)
        if not self.open or self.open[-1].name != found["name"] or len(self.open[-1].arms) != int(found["number"]):
            raise ValueError("an arm that is not the next of the region that is open")
        self.open[-1].arms.append([])

    def read_end(self, line: str, number: int) -> None:
        found = _matched(_END, line)
        if not self.open or self.open[-1].name != found["name"]:
            raise ValueError("the end of a region that is not open")
        last = self.open.pop()
        self.add(PlannedRegion(last.name, last.node, tuple(map(tuple, last.arms)), last.line))

    def read_home(self, line: str, number: int) -> None:
        found = _matched(_HOME, line)
        name = read_name(found["value"])
        if name in self.homes:
            raise ValueError(f"home {name}: stands in the plan already")
        self.lines[f"home {name}"] = number
        shape = tuple(parse_dim(d) for d in _split(found["shape"]))
        axes = tuple(map(_axis, filter(None, read_text(found["axes"]).split("; "))))
        border = _border(found["border"], len(shape))
        layout = Layout(shape, axes, parse_dim(read_text(found["of"])), parse_dim(read_text(found["at"])), border)
        if any(axis.dim >= len(shape) or axis.div < 1 or axis.size == 0 for axis in axes):
            raise ValueError("an axis of a dim that is not there")
        self.homes[name] = Home(read_name(found["buffer"]), DType(found["dtype"]), layout)
        self.last_home = name

    def read_place(self, line: str, number: int) -> None:
        found = _matched(_PLACE, line)
        output = read_name(found["output"])
        self.once(f"place {output}", number)
        self.places[output] = read_name(found["value"])

    def read_pin(self, line: str, number: int) -> None:
        if apart := _APART.match(line):
            names = read_names(apart["nodes"])
            self.apart.append(names)
            self.pinned.update({("apart", name): number for name in names})
            return
        if assumed := _SIZE.match(line):
            name = read_name(assumed["name"])
            if name in self.assumed:
                raise ValueError(f"size {name}: line {self.pinned['size', name]} says that already")
            self.assumed[name] = int(assumed["number"])
            self.pinned["size", name] = number
            return
        found = _matched(_INNER, line)
        name = read_name(found["value"])
        if name in self.inner:
            raise ValueError(f"inner {name}: line {self.pinned['inner', name]} says that already")
        self.inner[name] = None if found["dim"] == "-" else int(found["dim"])
        self.pinned["inner", name] = number

    # -- details -------------------------------------------------------------------------------------------------------

    def detail(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if self.last_home:
            if word != "because":
                raise ValueError(f"unknown detail {word!r} of a home")
            self.homes[self.last_home] = replace(self.homes[self.last_home], because=read_text(rest))
            return
        items = self.open[-1].arms[-1] if self.open and self.open[-1].arms else self.items
        if not items:
            raise ValueError("a detail, but no item before it")
        items[-1] = _detailed(items[-1], word, rest, line)

    def finished(self) -> PlanFields:
        if not self.device:
            raise ParseError("plan: there is no line `plan <graph> for <device>`")
        if self.open:
            raise ParseError(f"plan, line {self.open[-1].line}: region {self.open[-1].name} has no end")
        if self.machine is None and (self.sizes or self.seats is not None):
            raise ParseError("plan: sizes or seats, but no line `machine <digest> <source>`")
        pins = Pins(tuple(self.apart), tuple(self.inner.items()), tuple(self.assumed.items()), self.pinned)
        head = self.graph, self.device, self.digest, self.version
        basis = None if self.machine is None else Basis(*self.machine, tuple(self.sizes.items()), self.seats)
        items, formats = tuple(self.items), tuple(self.formats)
        return PlanFields(
            *head, items, self.homes, self.places, pins, self.traits, basis, formats, self.accuracy, self.lines
        )


_LINES: Mapping[str, Callable[[_Reader, str, int], None]] = {
    "plan": _Reader.read_plan,
    "graph": _Reader.read_graph,
    "accuracy": _Reader.read_accuracy,
    "format": _Reader.read_format,
    "traits": _Reader.read_traits,
    "machine": _Reader.read_machine,
    "size": _Reader.read_size,
    "seats": _Reader.read_seats,
    "beaten": _Reader.read_beaten,
    "work": _Reader.read_work,
    "view": _Reader.read_view,
    "control": _Reader.read_control,
    "region": _Reader.read_region,
    "arm": _Reader.read_arm,
    "end": _Reader.read_end,
    "home": _Reader.read_home,
    "place": _Reader.read_place,
    "pin": _Reader.read_pin,
}


def _detailed(item: PlannedItem, word: str, rest: str, line: str) -> PlannedItem:
    if isinstance(item, PlannedView) and word == "because":
        return replace(item, because=read_text(rest))
    if not isinstance(item, Work):
        raise ValueError(f"unknown detail {word!r}")
    if word == "because":
        return replace(item, because=(*item.because, read_text(rest)))
    if word == "not":
        found = _matched(_DECLINED, line)
        declined = Declined(found["rule"], read_name(found["of"]), read_text(found["why"]))
        return replace(item, declined=(*item.declined, declined))
    if word == "as":
        found = _matched(_AS, line)
        return replace(item, offer=Offer(found["template"], read_text(found["schedule"])))
    if word == "predicted":
        return replace(item, predicted=_seconds(rest))
    if word == "beaten":
        return replace(item, beaten=(*item.beaten, _beaten(line)))
    if word == "cost":
        return replace(item, cost=read_text(rest))
    if word == "from":
        return replace(item, sources=read_sources(rest))
    if word in ("writes", "nodes", "ops"):
        return replace(item, **{word: read_names(rest)})  # type: ignore[arg-type]
    raise ValueError(f"unknown detail {word!r}")


def _beaten(line: str) -> Beaten:
    if found := _BEATEN_AS.match(line):
        return Beaten("as", found["template"], read_text(found["schedule"]), float(found["loss"]))
    found = _matched(_BEATEN_APART, line)
    return Beaten("apart", read_name(found["value"]), "", float(found["loss"]))


def _seconds(text: str) -> float:
    if re.fullmatch(_NUMBER, text) is None:
        raise ValueError(f"{brief(text)} is no number of seconds")
    return float(text)


def _matched(pattern: re.Pattern[str], line: str) -> re.Match[str]:
    found = pattern.match(line)
    if found is None:
        raise ValueError("not a line of a plan")
    return found


def _split(shape: str) -> list[str]:
    """Extents at the commas that stand in no parentheses."""
    found, depth, start = [], 0, 0
    for at, c in enumerate(shape):
        depth += (c in "([") - (c in ")]")
        if c == "," and depth == 0:
            found.append(shape[start:at])
            start = at + 1
    return [*found, shape[start:]] if shape.strip() else []


def _axis(text: str) -> Axis:
    found = _matched(_AXIS, text)
    size = None if found["size"] is None else int(found["size"])
    stride: Dim = parse_dim(found["stride"])
    return Axis(int(found["dim"]), int(found["div"] or 1), size, stride)


def _border(text: str | None, rank: int) -> tuple[tuple[int, int], ...]:
    if text is None:
        return ((0, 0),) * rank
    pairs = [tuple(map(int, pair.split(":"))) for pair in text.split(",")]
    if len(pairs) != rank or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"a border of {len(pairs)} dims for {rank}")
    return tuple((before, after) for before, after in pairs)
