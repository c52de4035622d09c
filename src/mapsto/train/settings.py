"""What a trainer is told, looked at before any work is done: of the right kind and in range, or an error names it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mapsto.arguments import brief, integer, real
from mapsto.errors import ArgumentError, ShapeError
from mapsto.formats.format import wanted

_LARGEST_SEED = (1 << 63) - 1


def rate_of(value: Any) -> float:
    number = real(value)
    if number is None or not math.isfinite(number):
        raise ArgumentError(f"learning_rate: {brief(value)} is no finite number")
    return number


def count_of(value: Any, what: str) -> int:
    number = integer(value)
    if number is None or number < 1:
        raise ArgumentError(f"{what}: {brief(value)} is no integer of at least 1")
    return number


def bound_of(value: Any, what: str) -> float | None:
    """None, or a finite number above 0."""
    if value is None:
        return None
    number = real(value)
    if number is None or not math.isfinite(number) or number <= 0:
        raise ArgumentError(f"{what}: {brief(value)} is no finite number above 0")
    return number


def one_of(value: Any, known: Sequence[str], what: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise ArgumentError(f"{what}: {brief(value)} is none of {', '.join(known)}")
    return value


def seed_of(value: Any) -> int:
    number = integer(value)
    if number is None or not 0 <= number <= _LARGEST_SEED:
        raise ArgumentError(f"seed: {brief(value)} is no integer from 0 to 2**63 - 1")
    return number


def formats_of(value: Any) -> dict[str, str] | None:
    """Formats of a step's products by patterns of nodes; None where there are none. Raises ArgumentError for what is no
    format, and for integers: gradients have no ranges that were seen before.
    """
    found = wanted(value)
    if not found.pairs:
        return None
    if found.needs_ranges:
        said = "a step's products can be in bf16 or f16; integers are for a model that has been trained"
        raise ArgumentError(f"formats: {brief(value)}: {said} (mapsto.compile, calibration=)")
    return dict(found.pairs)


def by_name(inputs: Any, what: str = "inputs") -> None:
    if not isinstance(inputs, Mapping):
        raise ArgumentError(f"{what}: expected a dict by name, got {brief(inputs)}")


def same_names(own: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Raises ShapeError where a state has other names than a trainer's own."""
    missing = [name for name in own if name not in state]
    unknown = [str(name) for name in state if name not in own]
    said = [f"{kind} {', '.join(names[:8])}" for kind, names in (("missing:", missing), ("unknown:", unknown)) if names]
    if said:
        raise ShapeError(f"state: it is of another model, or optimizer: {'; '.join(said)}")
