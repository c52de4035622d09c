"""`mapsto plan` and `mapsto explain`: the decisions, the reasons for one of them, and in what two plans differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mapsto.cli.amounts import seconds_of
from mapsto.cli.codes import CHECK_FAILED
from mapsto.cli.inputs import existing, read_text, writable
from mapsto.cli.open import Opened, Opening, open_model
from mapsto.cli.output import print_json, seconds_text
from mapsto.cli.usage import UsageError
from mapsto.files import write_text

if TYPE_CHECKING:
    from mapsto.plan.plan import PlannedItem


def show_plan(
    model: Path,
    opening: Opening,
    output: Path | None,
    deadline: str | None,
    as_json: bool,
) -> int:
    """Prints or writes the plan; the exit code."""
    existing(model)
    if output is not None:
        writable(output, besides=[model])
    wanted = None if deadline is None else seconds_of(deadline, "--deadline")
    opened = open_model(model, opening)
    met = None if wanted is None else predicted(opened) <= wanted
    said = "" if wanted is None else _deadline(opened, wanted)
    if output is not None:
        write_text(output, opened.plan_text)
        if said and not as_json:
            print(said)
    if as_json and (output is None or met is not None):
        data = {} if output is not None else _data(opened.executable.plan.to_json())
        if met is not None:
            data = data | {"predicted_seconds": predicted(opened), "deadline_seconds": wanted, "deadline_met": met}
        print_json(data)
    elif output is None:
        print(opened.plan_text.rstrip("\n"))
        if said:
            print(f"# {said}")
    return CHECK_FAILED if met is False else 0


def predicted(opened: Opened) -> float:
    """Seconds of a run (of each of a stream, where that was the objective), as the plan has it."""
    plan = opened.executable.plan
    if opened.is_divided:
        if plan.objective == "energy":
            raise UsageError("--deadline: of `--objective energy` a plan predicts joules; `run --deadline` times runs")
        return float("inf") if plan.total is None else float(plan.total.seconds)
    return _seconds(plan.items)


def _seconds(items: Sequence[PlannedItem]) -> float:
    """Of all works, one after the other; of a branch the dearest arm, of a loop one round."""
    total = 0.0
    for item in items:
        arms = getattr(item, "arms", None)
        total += getattr(item, "predicted", 0.0) if arms is None else max(map(_seconds, arms), default=0.0)
    return total


def _deadline(opened: Opened, wanted: float) -> str:
    seconds = predicted(opened)
    is_stream = opened.is_divided and opened.executable.plan.objective == "throughput"
    met = "met" if seconds <= wanted else "missed"
    run = "each run of a stream" if is_stream else "one run"
    return f"deadline of {seconds_text(wanted)}: {met} ({run} {seconds_text(seconds)}, as predicted)"


def explain_node(
    model: Path,
    node: str,
    opening: Opening,
    as_json: bool,
) -> None:
    opened = open_model(model, opening)
    executable = opened.executable
    text: str = executable.explain(node) if opened.is_divided else executable.plan.explain(node)
    if not as_json:
        print(text.rstrip("\n"))
        return
    data: dict[str, Any] = {"model": str(model), "node": node, "explanation": text.rstrip("\n").splitlines()}
    if opened.is_divided:
        data["alternatives"] = [asdict(each) for each in executable.alternatives(node)]
    print_json(data)


def show_difference(first: Path, second: Path, as_json: bool) -> int:
    """Prints in what two plans differ; the exit code: 1 where they do."""
    from mapsto.plan.difference import differences, differences_of_divisions
    from mapsto.plan.division import DividedPlan

    before, after = _read(first), _read(second)
    if isinstance(before, DividedPlan) != isinstance(after, DividedPlan):
        one, other = (first, second) if isinstance(after, DividedPlan) else (second, first)
        raise UsageError(f"{one} is a plan of one device, {other} of several: they have nothing to compare by")
    if isinstance(before, DividedPlan):
        found = differences_of_divisions(before, after)
    else:
        found = differences(before, after)
    if as_json:
        data = {"before": str(first), "after": str(second), "same": not found}
        print_json(data | {"differences": [asdict(each) for each in found]})
    else:
        for each in found:
            print(each)
    return CHECK_FAILED if found else 0


def _read(path: Path) -> Any:
    """A plan of either kind. Raises ParseError, naming the file as well."""
    from mapsto.errors import ParseError
    from mapsto.plan.division_text import is_division, parse_division
    from mapsto.plan.plan import parse

    text = read_text(path, "plan")
    try:
        return parse_division(text) if is_division(text) else parse(text)
    except ParseError as error:
        raise ParseError(f"{path}: {error}") from None


def _data(plan: Any) -> Any:
    """A plan's JSON as data, whichever form it comes in."""
    return json.loads(plan) if isinstance(plan, str) else plan
