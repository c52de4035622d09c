"""`mapsto plan` and `mapsto explain`: the decisions, and the reasons for one of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mapsto.cli.inputs import existing, parse_shapes, writable
from mapsto.cli.open import open_model
from mapsto.cli.output import print_json
from mapsto.files import write_text


def show_plan(
    model: Path,
    shape: Sequence[str],
    threads: int | None,
    output: Path | None,
    data_root: Path | None,
    device: str,
    cache: bool,
    as_json: bool,
) -> None:
    existing(model)
    if output is not None:
        writable(output, besides=[model])
    opened = open_model(model, parse_shapes(shape), threads, data_root=data_root, device=device, cache=cache)
    plan = opened.executable.plan
    if output is not None:
        write_text(output, plan.text())
        return
    if as_json:
        print_json(_data(plan.to_json()))
        return
    print(plan.text().rstrip("\n"))


def explain_node(
    model: Path,
    node: str,
    shape: Sequence[str],
    threads: int | None,
    data_root: Path | None,
    device: str,
    cache: bool,
    as_json: bool,
) -> None:
    opened = open_model(model, parse_shapes(shape), threads, data_root=data_root, device=device, cache=cache)
    plan = opened.executable.plan
    text: str = plan.explain(node)
    if as_json:
        print_json({"model": str(model), "node": node, "explanation": text.rstrip("\n").splitlines()})
        return
    print(text.rstrip("\n"))


def _data(plan: Any) -> Any:
    """A plan's JSON as data, whichever form it comes in."""
    return json.loads(plan) if isinstance(plan, str) else plan
