"""What is fuzzed, under one roof: each target makes a case of a seed and a number, tries it, and keeps it as a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.fuzz import artifacts, divisions, models, plans
from tests.fuzz.children import Desk, Outcome


@dataclass(frozen=True)
class Target:
    """made(seed, number, without) -> case; a case has `how`: a line that says the seed, then one a mutation."""

    name: str
    made: Callable[[int, int, frozenset[int]], Any]
    tried: Callable[[Any, Desk], Outcome]
    to_file: Callable[[Any], bytes]
    from_file: Callable[[bytes, Mapping[str, Any]], Any]
    suffix: str
    share: int  # of the cases, beside others


def _model_from(data: bytes, told: Mapping[str, Any]) -> models.Case:
    return models.Case(data, tuple(told.get("how", ())), told.get("feed", {}), int(told.get("noise", 0)))


def _text_from(data: bytes, told: Mapping[str, Any]) -> plans.Case:
    return plans.Case(
        data.decode(errors="replace"), tuple(told.get("how", ())), int(told.get("base", 0)), int(told.get("noise", 0))
    )


def _artifact_from(data: bytes, told: Mapping[str, Any]) -> artifacts.Case:
    how = tuple(told.get("how", ()))
    return artifacts.Case(
        data, how, int(told.get("base", 0)), bool(told.get("plain", False)), int(told.get("noise", 0))
    )


TARGETS: dict[str, Target] = {
    "models": Target("models", models.made, models.tried, lambda c: c.data, _model_from, ".onnx", 12),
    "artifacts": Target("artifacts", artifacts.made, artifacts.tried, lambda c: c.data, _artifact_from, ".mapsto", 8),
    "plans": Target("plans", plans.made, plans.tried, lambda c: c.text.encode(), _text_from, ".plan", 3),
    "divisions": Target(
        "divisions", divisions.made, divisions.tried, lambda c: c.text.encode(), _text_from, ".division", 1
    ),
    "machines": Target(
        "machines", plans.made_machine, plans.tried_machine, lambda c: c.text.encode(), _text_from, ".machine", 1
    ),
    "described": Target(
        "described", plans.made_described, plans.tried_described, lambda c: c.text.encode(), _text_from, ".toml", 1
    ),
}
