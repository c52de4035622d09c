"""In what two plans differ, work by work: what was decided, and what was predicted. Reasons are not looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from mapsto.plan.division import CHANNELS, DividedPlan, PlacedWork, PlannedPart
from mapsto.plan.home import Home
from mapsto.plan.plan import Plan
from mapsto.plan.works import PlannedControl, PlannedItem, PlannedRegion, PlannedView, Work, walk

Each = TypeVar("Each")
_HERE, _GONE = "there", "not there"


@dataclass(frozen=True)
class PlanDifference:
    """where: the work, home or part; "": the whole. what: of it, differs."""

    where: str
    what: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}: {self.before} -> {self.after}".removeprefix(": ")


def differences(before: Plan, after: Plan) -> list[PlanDifference]:
    """In what two plans of one device differ."""
    found = list(_of_fields("", _head(before), _head(after)))
    first, second = _items(before.items), _items(after.items)
    if [key for key in first if key in second] != [key for key in second if key in first]:
        found.append(PlanDifference("", "order of works", "one", "another"))
    found += _of_both(first, second, _called, _item)
    homes = (dict(before.homes), dict(after.homes))
    found += _of_both(*homes, lambda home: "home", _home)
    return found


def differences_of_divisions(before: DividedPlan, after: DividedPlan) -> list[PlanDifference]:
    """In what two plans of several devices differ."""
    found = list(_of_fields("", _division_head(before), _division_head(after)))
    found += _of_both(_works(before), _works(after), _called, _placed_fields)
    first, second = _parts(before), _parts(after)
    for key in {**first, **second}:
        if key in first and key in second:
            (number, one), (_, other) = first[key], second[key]
            each = differences(one.plan, other.plan)
            found += [replace(d, where=f"part {number} on {one.device}: {d.where}".removesuffix(": ")) for d in each]
        else:
            number, part = (first.get(key) or second[key])
            there = (_HERE, _GONE) if key in first else (_GONE, _HERE)
            found.append(PlanDifference(f"part {number} on {part.device}", f"of graph {key[1]}", *there))
    return found


def _of_both(
    first: Mapping[str, Each], second: Mapping[str, Each],
    called: Callable[[Each], str], fields: Callable[[Each], Mapping[str, str]],
) -> Iterator[PlanDifference]:  # fmt: skip
    """Of things by a key that both have, their fields; others are there or not."""
    for key in {**first, **second}:
        here = first.get(key, second.get(key))
        assert here is not None
        where = f"{called(here)} {key}" if called(here) == "home" else called(here)
        if key in first and key in second:
            yield from _of_fields(where, fields(first[key]), fields(second[key]))
        else:
            yield PlanDifference(where, "it is", *((_HERE, _GONE) if key in first else (_GONE, _HERE)))


def _of_fields(where: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[PlanDifference]:
    for what in {**before, **after}:
        one, other = before.get(what, "nothing"), after.get(what, "nothing")
        if one != other:
            yield PlanDifference(where, what, one, other)


# ---- one device ------------------------------------------------------------------------------------------------------


def _head(plan: Plan) -> dict[str, str]:
    basis = plan.basis
    found = {
        "graph": f"{plan.graph} {plan.digest}".rstrip(), "by mapsto": plan.version, "for": plan.device,
        "traits": str(plan.traits), "machine": "" if basis is None else f"{basis.machine} {basis.source}",
    }  # fmt: skip
    found |= {f"size {name}": str(number) for name, number in (() if basis is None else basis.sizes)}
    found |= {f"format of {', '.join(each.sources)}": each.format for each in plan.formats}
    found |= {f"place {output}": value for output, value in plan.places.items()}
    found |= {f"pin apart {', '.join(names)}": _HERE for names in plan.pins.apart}
    found |= {f"pin inner {name}": str(dim) for name, dim in plan.pins.inner}
    found |= {f"pin size {name}": str(number) for name, number in plan.pins.sizes}
    return found


def _items(items: Sequence[PlannedItem]) -> dict[str, PlannedItem]:
    """By what they compute, as names are counted anew in each plan."""
    found: dict[str, PlannedItem] = {}
    for item in walk(items):
        key = item.name
        if isinstance(item, Work):
            key = " ".join(["work", *item.nodes, *(item.writes if not item.nodes else ())])
        elif isinstance(item, PlannedView):
            key = f"view {item.value}"
        elif isinstance(item, PlannedRegion):
            key = f"region {item.node}"
        elif isinstance(item, PlannedControl):
            key = f"control {item.node}"
        while key in found:
            key += "'"
        found[key] = item
    return found


def _called(item: PlannedItem | PlacedWork) -> str:
    kind = {PlannedView: "view", PlannedRegion: "region", PlannedControl: "control"}.get(type(item), "work")
    sources = getattr(item, "sources", ()) or getattr(item, "nodes", ())
    return f"{kind} {item.name}" + (f" ({', '.join(sources)})" if sources else "")


def _item(item: PlannedItem) -> dict[str, str]:
    if isinstance(item, Work):
        return {
            "kind": item.kind, "recipe": str(item.recipe), "writes": ", ".join(item.writes),
            "template": item.offer.template, "schedule": item.offer.schedule or "none",
            "predicted": _seconds(item.predicted),
        }  # fmt: skip
    if isinstance(item, PlannedView):
        return {"of": ", ".join(item.of), "recipe": str(item.recipe)}
    return {}


def _home(home: Home) -> dict[str, str]:
    return {"type": home.dtype.value, "buffer": home.buffer, "layout": str(home.layout)}


# ---- several ---------------------------------------------------------------------------------------------------------


def _division_head(plan: DividedPlan) -> dict[str, str]:
    found = {
        "graph": f"{plan.graph} {plan.digest}".rstrip(), "by mapsto": plan.version, "devices": ", ".join(plan.names),
        "objective": plan.objective, "placer": plan.placer, "replicated": "yes" if plan.replicated else "no",
    }  # fmt: skip
    for d in plan.devices:
        found[f"device {d.name}"] = f"{d.maker}, products {d.products:g}, others {d.others:g}"
        if d.power is not None:
            found[f"power {d.name}"] = f"idle {d.power.idle:g} W, unit {d.power.unit:g} W, byte {d.power.byte:g} J"
    found |= {f"pin {pattern}": device for pattern, device in plan.pins}
    found |= {f"limit {device}": f"memory {limit}" for device, limit in plan.limits}
    axes = dict(plan.split_axes)
    found |= {f"split {value}": f"{count} of {axes.get(value, CHANNELS)}" for value, count in plan.splits}
    figure = _joules if plan.objective == "energy" else _seconds
    if plan.total is not None:
        found |= {"predicted": figure(plan.total.seconds), "bound": figure(plan.total.bound),
                  "found by": plan.total.method}  # fmt: skip
    return found | {f"other {way}": figure(taken) for way, taken in plan.others}


def _works(plan: DividedPlan) -> dict[str, PlacedWork]:
    return {" ".join(work.nodes) or work.name: work for work in plan.works}


def _placed_fields(work: PlacedWork) -> dict[str, str]:
    takes = {f"takes on {device}": _seconds(seconds) for device, seconds in work.takes}
    return {"device": work.device, **takes, **{f"refused by {device}": why for device, why in work.refuses}}


def _parts(plan: DividedPlan) -> dict[tuple[str, str], tuple[int, PlannedPart]]:
    return {(part.device, part.plan.digest): (number, part) for number, part in enumerate(plan.parts)}


def _joules(joules: float) -> str:
    return f"{joules:.4g} J"


def _seconds(seconds: float) -> str:
    return f"{seconds:.4g} s"
