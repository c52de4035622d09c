"""Why a node is on its device, in words: what its work would take on others, and what the plan of its part says."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from mapsto.errors import MapstoError
from mapsto.plan.division import EVERYWHERE, NOWHERE, Alternative, DividedPlan, PlacedWork


def as_planned(plan: DividedPlan, work: PlacedWork) -> list[Alternative]:
    """What a plan says of a work on each device: the whole with it alone there."""
    if work.device == NOWHERE:
        return []
    takes, refuses, beaten = dict(work.takes), dict(work.refuses), dict(work.beaten)
    total = None if plan.total is None else plan.total.seconds
    found = []
    for name in plan.names:
        seconds, taken = takes.get(name), work.device in (name, EVERYWHERE)
        if name in refuses:
            found.append(Alternative(work.name, name, None, None, refuses[name]))
        elif taken:
            found.append(Alternative(work.name, name, seconds, total, "as it is", True))
        else:
            whole = total + beaten[name] if total is not None and name in beaten else None
            said = "all else as it is" if whole is not None else "not looked at, or a pin has it elsewhere"
            found.append(Alternative(work.name, name, seconds, whole, said))
    return found


def explained(plan: DividedPlan, name: str, alternatives: Sequence[Alternative]) -> str:
    """The works that a name is in, with their alternatives, and what plans of parts say of it. Raises MapstoError where
    nothing has that name.
    """
    works = plan.works_of(name)
    inside = list(_inside(plan, name))
    if not works and not inside:
        known = [each for work in plan.works for each in (work.name, *work.nodes, *work.sources)]
        closest = ", ".join(difflib.get_close_matches(name, known)) or "none"
        raise MapstoError(f"nothing in the plan is named {name!r}; closest: {closest}")
    lines = [name]
    for work in works:
        lines.append(f"  is computed by {work.name} ({'+'.join(work.ops)}), on {_where(work)}: {work.because}")
        lines.extend(_table([each for each in alternatives if each.work == work.name], plan.objective))
    return "\n".join([*lines, *inside])


def _where(work: PlacedWork) -> str:
    return {EVERYWHERE: "each device", NOWHERE: "no device of its own"}.get(work.device, work.device)


def _inside(plan: DividedPlan, name: str) -> Iterator[str]:
    """What the parts' own plans say."""
    for number, part in enumerate(plan.parts):
        try:
            text = part.plan.explain(name)
        except MapstoError:
            continue
        yield f"  in part {number}, on {part.device}:"
        yield from (f"  {line}" for line in text.rstrip("\n").split("\n")[1:])


def _table(alternatives: Sequence[Alternative], objective: str) -> Iterator[str]:
    figure = _joules if objective == "energy" else _time
    rows = [("device", "it takes", "the whole", "")]
    for each in alternatives:
        mark = " *" if each.taken else ""
        rows.append((f"{each.device}{mark}", _time(each.seconds), figure(each.whole), each.said))
    if len(rows) > 1:
        widths = [max(len(row[i]) for row in rows) for i in (0, 1, 2)]
        for device, takes, whole, said in rows:
            yield f"    {device:{widths[0]}}  {takes:>{widths[1]}}  {whole:>{widths[2]}}  {said}".rstrip()


def _joules(joules: float | None) -> str:
    return "-" if joules is None else f"{joules:.4g} J"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:.4g} us"
