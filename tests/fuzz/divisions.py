"""Damaged plans of several devices: refused, or what they say is made, runs, and is right.

Both devices are the host under two names, as children cannot open others.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from mapsto.budget import metering
from mapsto.errors import ArgumentError, ExecutionError, MapstoError, ParseError, ShapeError
from mapsto.importers.onnx import load
from mapsto.placement.model import latency
from mapsto.plan.division_text import division_text, parse_division
from mapsto.plan.placing import Correction
from mapsto.runtime.divided import DividedExecutable
from mapsto.runtime.guard import Fences
from mapsto.session import compile as session
from mapsto.session.compile import prepared
from mapsto.session.division import division_of, whole_of
from mapsto.session.parts import cut
from mapsto.session.placed import AskedOf, placed
from mapsto.session.planned import planned
from mapsto.session.redo import redone
from tests.fuzz import lines, plans
from tests.fuzz.children import Desk, Outcome
from tests.fuzz.models import REFUSALS, RUN_SECONDS, SECONDS, Beyond, Bounded, compared, guarded
from tests.fuzz.plans import Case

NAMES = ("cpu", "other")


@contextmanager
def _both() -> Iterator[dict[str, Any]]:
    """In a child, its one compile worker."""
    with session.backend_named("cpu", False, None) as one, metering(), np.errstate(all="ignore"):
        yield dict.fromkeys(NAMES, one)


@functools.cache
def texts() -> tuple[str, ...]:
    """A plan of each of the small models, its works here and there; "" of those that cannot be cut."""
    return tuple(_text(base) for base in plans.bases())


def _text(base: plans.Base) -> str:
    rng = random.Random(f"divisions {base.name}")
    try:
        with _both() as backends:
            graph = prepared(base.data, None)
            asked = AskedOf("latency", (), "heft", (Correction(),) * 2, tuple(b.name for b in backends.values()))
            found = placed(graph, backends, asked)
            seats = tuple(rng.randrange(2) if np.isfinite(job.seconds[1]) else 0 for job in found.problem.works)
            moved = replace(found.placement, seats=seats, seconds=latency(found.problem, seats))
            found = replace(found, placement=moved)
            by_node = {n: seat for work, seat in zip(found.works, seats, strict=True) for n in work.nodes}
            division = division_of(cut(found.graph, by_node), backends, 1, False)
            text = division_text(planned(found, asked, division.parts))
            redone(graph, parse_division(text), backends, 1, False)
            return text
    except MapstoError:
        return ""


def made(seed: int, number: int, without: frozenset[int] = frozenset()) -> Case:
    """A plan with some lines, figures or names changed."""
    rng = random.Random(f"{seed} divisions {number}")
    whole = [k for k, text in enumerate(texts()) if text]
    base = rng.choice(whole)
    text, how = texts()[base], [f"division of {plans.bases()[base].name!r}"]
    for k in range(rng.choice([1, 1, 1, 2, 2, 3, 6])):
        if k not in without:
            other = random.Random(f"{seed} divisions {number} {k}")
            text, done = lines.mutate(text, other, lambda r: texts()[r.choice(whole)])
            how.append(done)
    return Case(text, tuple(how), base, rng.randrange(1 << 30))


def tried(case: Case, desk: Desk) -> Outcome:
    """Reads a plan; what is read is the same when it is printed and read again; and does it."""
    base = plans.bases()[case.base]
    desk.stage("plan", 5)
    plan = guarded(lambda: parse_division(case.text), (ParseError,))
    if isinstance(plan, Outcome):
        return plan
    again = guarded(lambda: division_text(parse_division(division_text(plan))), ())
    if isinstance(again, Outcome) or again != division_text(plan):
        return Outcome("unreadable again", "division", str(again)[:300], True)
    if not plan.works or plan.names != list(NAMES):
        return Outcome("read", "of other devices, or to be made anew")
    desk.stage("compile", SECONDS)
    exe = guarded(lambda: _done(base.data, plan), (ParseError, ArgumentError, *REFUSALS))
    return exe if isinstance(exe, Outcome) else _run(exe, base, case, desk)


class Fenced(DividedExecutable):
    """Whose parts run between fences; what passes from part to part lies between none."""

    def guard(self, fences: Fences | None) -> None:
        for part in self.parts:
            part.executable.guard(fences)


def _done(data: bytes, plan: Any) -> Fenced:
    with _both() as backends:
        done = redone(prepared(data, None), plan, backends, 1, False)
        return Fenced(whole_of(done.graph), done.division, NAMES)


def _run(exe: Fenced, base: plans.Base, case: Case, desk: Desk) -> Outcome:
    desk.stage("run", 2 * RUN_SECONDS)
    exe.guard(Bounded(bool(case.noise % 2), lambda step: desk.step("a part")))
    found = guarded(lambda: exe.run(base.feed), (ExecutionError, ShapeError, Beyond))
    if isinstance(found, Outcome) and (found.finding or found.kind == "Beyond"):
        return found
    desk.stage("reference", SECONDS)
    return compared(exe, found, lambda: load(base.data), base.feed, desk)  # type: ignore[arg-type]
