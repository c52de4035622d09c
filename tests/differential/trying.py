"""One form: compiled once or per run, held against the oracles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapsto.errors import MapstoError
from tests.differential.drawing import Draw
from tests.differential.form import Form, model_of
from tests.differential.forms import FORMS
from tests.differential.judging import difference
from tests.differential.oracles import Unanswered, by_reference, by_runtime

Execute = Callable[[Any], Callable[[Mapping[str, Any]], list[Any]]]
RUNS = 3  # of an executable whose dims are open


@dataclass(frozen=True)
class Finding:
    """`python -m tests.differential --replay OP:SEED` shows it again."""

    op: str
    seed: int
    said: str

    def __str__(self) -> str:
        return f"{self.op}:{self.seed}: {self.said}"


def form_of(op: str, seed: int) -> tuple[Form, list[dict[str, Any]], bool]:
    """The form of a seed, its feeds, and whether its dims are open."""
    d = Draw(seed)
    form = FORMS[op](d)
    opened = d.chance(0.5)
    return form, [dict(form.feed(d)) for _ in range(RUNS if opened else 1)], opened


def tried(op: str, seed: int, execute: Execute, counts: Counter[str]) -> Iterator[Finding]:
    """What is found of one form. `execute(model)` compiles, and gives what runs."""
    form, feeds, opened = form_of(op, seed)
    try:
        run = execute(model_of(form, feeds[0], opened=opened))
    except MapstoError as error:
        for feed in feeds:
            yield from _refused(form, op, seed, feed, error, counts)
        return
    for feed in feeds:
        try:
            found = run(feed)
        except MapstoError as error:
            yield from _refused(form, op, seed, feed, error, counts)
            continue
        said = _wrong(form, feed, found, counts)
        if said:
            yield Finding(op, seed, said)


def _refused(
    form: Form, op: str, seed: int, feed: Mapping[str, Any], error: MapstoError, counts: Counter[str]
) -> Iterator[Finding]:
    """A refusal is right where an oracle refuses too."""
    said = f"{type(error).__name__}: {error}"
    internal = type(error).__name__ == "InternalError"
    for ask in (by_reference, by_runtime):
        try:
            ask(form, feed)
        except Unanswered:
            if not internal:
                counts["refused alike"] += 1
                return
    yield Finding(op, seed, f"refused: {said}"[:600])


def _wrong(form: Form, feed: Mapping[str, Any], found: list[Any], counts: Counter[str]) -> str:
    """In what both oracles contradict; where one agrees, or neither answers, nothing."""
    answers: dict[str, list[Any]] = {}
    said = ""
    for name, ask in (("reference", by_reference), ("runtime", by_runtime)):
        try:
            answers[name] = ask(form, feed)
        except Unanswered:
            continue
        wrong = difference(found, answers[name], form.rule, {**feed, **form.constants}, _magnitudes(form, feed))
        if not wrong:
            counts["right" if name == "reference" or "reference" not in answers else "right, reference differs"] += 1
            return ""
        said = said or f"{name}: {wrong}"
    if not answers:
        counts["nobody answers"] += 1
    return said


def _magnitudes(form: Form, feed: Mapping[str, Any]) -> list[Any] | None:
    if form.rule != "sum":
        return None
    try:
        return by_reference(form, feed, magnitudes=True)
    except Unanswered:
        return None


def executing(workers: Any) -> Execute:
    """By the session's own rooms, without the cache."""
    from mapsto.session.compile import build, prepared

    def execute(model: Any) -> Callable[[Mapping[str, Any]], list[Any]]:
        executable = build(prepared(model, None), workers, 1, None)
        return lambda feed: [np.asarray(a) for a in executable.run(dict(feed)).values()]

    return execute
