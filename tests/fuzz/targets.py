"""What is fuzzed, under one roof: each target makes a case of a seed and a number, tries it, and keeps it as a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.fuzz import models
from tests.fuzz.children import Desk, Outcome


@dataclass(frozen=True)
class Target:
    """made(seed, number, without) -> case; a case has `how`, one line a mutation after the first, which says the seed."""

    name: str
    made: Callable[[int, int, frozenset[int]], Any]
    tried: Callable[[Any, Desk], Outcome]
    to_file: Callable[[Any], bytes]
    from_file: Callable[[bytes, Mapping[str, Any]], Any]
    suffix: str
    share: int  # of the cases, beside others


def _model_from(data: bytes, told: Mapping[str, Any]) -> models.Case:
    return models.Case(data, tuple(told.get("how", ())), {}, int(told.get("noise", 0)))


TARGETS: dict[str, Target] = {
    "models": Target("models", models.made, models.tried, lambda c: c.data, _model_from, ".onnx", 12),
}
