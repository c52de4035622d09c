"""The plan: every decision about one graph on one machine, as one frozen value; `plan.text` prints and reads it.

A plan says which works are computed, in which order, by which rules their statements follow from the graph, in which
way the device makes them, and where each value lies. Code is made of nothing else, so a plan that is printed, read back
and replayed gives the same program.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mapsto.arguments import brief, text_of
from mapsto.boundary import public
from mapsto.errors import ArgumentError, MapstoError
from mapsto.plan.home import Home
from mapsto.plan.text import PlanFields, plan_lines, read_parts
from mapsto.plan.traits import Traits
from mapsto.plan.works import (
    NO_PINS,
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
    walk,
)  # fmt: skip

__all__ = [
    "Basis", "Beaten", "Declined", "Offer", "Pins", "Plan", "PlannedControl", "PlannedFormat", "PlannedItem",
    "PlannedRegion", "PlannedView", "Seats", "Work", "parse", "walk",
]  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """All decisions about one graph on one device. `device`: its maker's name. `digest` is the graph's, `version` that
    of mapsto: a plan is replayed where they are the same. `places`: output of the graph -> the value whose buffer holds
    it. A plan of pins alone is not replayed but made. `formats`: of the graph, which was made of the model so.
    """

    graph: str
    device: str
    digest: str = ""
    version: str = ""
    items: tuple[PlannedItem, ...] = ()
    homes: Mapping[str, Home] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    pins: Pins = NO_PINS
    traits: Traits | None = None  # what its maker asked for; None in a plan of pins alone
    basis: Basis | None = None  # what its costs were counted with
    formats: tuple[PlannedFormat, ...] = ()
    accuracy: str = ""  # what results lose by them
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)  # first words, homes: where read

    @property
    def works(self) -> tuple[Work, ...]:
        """All works in order, those of nested graphs before the region that they are in."""
        return tuple(item for item in walk(self.items) if isinstance(item, Work))

    @public
    def text(self) -> str:
        """The text form; `parse(text)` gives an equal plan."""
        parts = PlanFields(
            self.graph,
            self.device,
            self.digest,
            self.version,
            self.items,
            self.homes,
            self.places,
            self.pins,
            self.traits,
            self.basis,
            self.formats,
            self.accuracy,
        )
        return "\n".join(plan_lines(parts)) + "\n"

    def to_json(self) -> dict[str, Any]:
        return {
            "graph": self.graph,
            "device": self.device,
            "digest": self.digest,
            "version": self.version,
            "traits": None if self.traits is None else vars(self.traits),
            "basis": None if self.basis is None else asdict(self.basis),
            "formats": [{key: v for key, v in vars(each).items() if key != "line"} for each in self.formats],
            "accuracy": self.accuracy,
            "items": [_data(item) for item in self.items],
            "homes": {
                name: {"buffer": h.buffer, "type": str(h.value(name)), "layout": str(h.layout), "because": h.because}
                for name, h in self.homes.items()
            },
            "places": dict(self.places),
        }

    @public
    def explain(self, name: str) -> str:
        """Why a node (by the source model's name or by a value it yields) is where it is. Raises MapstoError where
        nothing has that name.
        """
        text_of(name, "the name of a node or value")
        works = [w for w in self.works if name in (w.name, *w.nodes, *w.sources, *w.writes)]
        views = [v for v in walk(self.items) if isinstance(v, PlannedView) and name in (v.value, v.name)]
        values = dict.fromkeys([n for n in (name, *(t for w in works for t in w.writes)) if n in self.homes])
        if not works and not values and not views:
            raise MapstoError(
                f"nothing in the plan is named {name!r}; closest: {', '.join(self._closest(name)) or 'none'}"
            )
        lines = [name]
        for work in works:
            lines.extend(_explained(work))
            lines.extend(f"    {_formatted(each)}" for each in self.formats if {*each.sources} & {name, *work.sources})
        lines.extend(f"  {v.value} needs no code: it is {', '.join(v.of)}, as it lies" for v in views)
        for value in values:
            home = self.homes[value]
            lines.append(f"  {home.value(value)} lies in buffer {home.buffer} as {home.layout}")
            lines.extend(f"    because {home.because}" for _ in (0,) if home.because)
            lines.extend(self._elsewhere(value))
        if works and not values:
            lines.append("  its value is never in memory: it stays in registers or moves with its reader")
        return "\n".join(lines)

    def _elsewhere(self, value: str) -> Iterator[str]:
        """How a value could have lain, and what the whole would have lost."""
        seats = None if self.basis is None else self.basis.seats
        for values, beaten in () if seats is None else seats.beaten:
            if value in values:
                dim = "row-major" if beaten.of == "-" else f"dim {beaten.of} innermost"
                others = f", as all {len(values)} values that lie alike" if len(values) > 1 else ""
                yield f"    {dim}{others}: {_more(beaten.loss)}"

    def _closest(self, name: str) -> list[str]:
        known = [n for w in self.works for n in (*w.nodes, *w.sources)] + list(self.homes)
        return difflib.get_close_matches(name, known, 5)

    @public
    def difference(self, other: Plan) -> list[str]:
        """Lines that differ, as a unified diff from this plan to the other."""
        if not isinstance(other, Plan):
            raise ArgumentError(f"expected a Plan to compare with, got {brief(other)}")
        before, after = self.text().split("\n"), other.text().split("\n")
        return list(difflib.unified_diff(before, after, "this", "other", lineterm="", n=0))


def _explained(work: Work) -> list[str]:
    lines = [f"  is computed by {work.name} ({work.kind}), together with: {', '.join(work.sources or work.nodes)}"]
    lines.append(f"    made of: {work.recipe}")
    lines.append(f"    template: {work.offer.template}; schedule: {work.offer.schedule or 'none'}")
    lines.extend(f"    cost: {work.cost}" for _ in (0,) if work.cost)
    lines.extend(f"    predicted: {_microseconds(work.predicted)}" for _ in (0,) if work.predicted)
    lines.extend(f"    because {reason}" for reason in work.because)
    lines.extend(f"    {_said(b)}: {_more(b.loss)}" for b in work.beaten)
    lines.extend(f"    not {d.rule} of {d.of}: {d.why}" for d in work.declined)
    return lines


def _formatted(each: PlannedFormat) -> str:
    of = f"products of {', '.join(each.sources)}"
    kept = f"{of} stay f32" if each.format == "f32" else f"{of} are of {each.format}"
    if each.powers:
        least, most = min(each.powers), max(each.powers)
        kept += f", scales of the channels that they read apart by powers of two from {least} to {most}"
    return f"{kept}: {each.because}" if each.because else kept


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} us"


def _more(seconds: float) -> str:
    return f"{_microseconds(abs(seconds))} {'more' if seconds >= 0 else 'less'}"


def _said(beaten: Beaten) -> str:
    """A way that was beaten, in words."""
    if beaten.how == "apart":
        return f"in two works, with {beaten.of} in memory between them"
    return f"as {beaten.of}" + (f", {beaten.schedule}" if beaten.schedule else "")


def _data(item: PlannedItem) -> dict[str, Any]:
    found = {key: value for key, value in vars(item).items() if key != "line"}
    found["item"] = type(item).__name__.lower()
    if isinstance(item, Work | PlannedView):
        found["recipe"] = str(item.recipe)
    if isinstance(item, Work):
        found["offer"] = vars(item.offer)
        found["declined"] = [vars(d) for d in item.declined]
        found["beaten"] = [vars(b) for b in item.beaten]
    if isinstance(item, PlannedRegion):
        found["arms"] = [[_data(inner) for inner in arm] for arm in item.arms]
    return found


@public
def parse(text: str, first: int = 1) -> Plan:
    """Read the text form. first: the number of its first line, where it stands in another text. Raises ParseError
    naming the line, ArgumentError for what is no text.
    """
    return Plan(**vars(read_parts(text_of(text, "plan"), first)))
