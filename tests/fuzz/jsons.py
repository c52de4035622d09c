"""Mutations of JSON values that know no schema."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

NUMBERS: list[Any] = [
    0,
    1,
    -1,
    2,
    63,
    64,
    255,
    4096,
    1 << 31,
    1 << 40,
    (1 << 63) - 1,
    1 << 63,
    -(1 << 63),
    1 << 70,
    0.5,
    1e-300,
    1e308,
    1e-9,
]
OTHERS: list[Any] = [None, True, False, "", "x", "é", [], {}, [[]], "n", "1", 0, 1.5]

Path = tuple[Any, ...]


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Where every value inside of a value is."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from paths(inner, (*path, key))


def at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def mutate(value: Any, rng: random.Random) -> str:
    """Changes a dict or list in place; says what was done."""
    found = list(paths(value))
    if not found:
        return ""
    depth = rng.choice(sorted({len(p) for p in found}))
    path = rng.choice([p for p in found if len(p) == depth])
    holder, key = at(value, path[:-1]), path[-1]
    before = holder[key]
    kind = rng.choice(["set", "set", "set", "set", "other", "other", "drop", "duplicate", "swap", "kind"])
    place = ".".join(map(str, path))
    if kind == "drop":
        del holder[key]
        return f"{place} dropped"
    if kind in ("duplicate", "swap") and isinstance(holder, list):
        to = rng.randrange(len(holder))
        if kind == "swap":
            holder[key], holder[to] = holder[to], holder[key]
        else:
            holder.insert(to, copy.deepcopy(before))
        return f"{place} {kind} {to}"
    if kind == "kind":
        holder[key] = copy.deepcopy(rng.choice(OTHERS))
    elif kind == "other":
        alike = [p for p in found if type(at(value, p)) is type(before)]
        close = [p for p in alike if len(p) == len(path) and p[-1] == key]
        holder[key] = copy.deepcopy(at(value, rng.choice(close if rng.random() < 0.7 else alike)))
    else:
        holder[key] = _changed(before, rng)
    return f"{place}: {_brief(before)} -> {_brief(holder[key])}"


def _changed(before: Any, rng: random.Random) -> Any:
    if isinstance(before, bool):
        return not before
    if isinstance(before, (int, float)):
        return rng.choice([before + 1, before - 1, -before, before * 2, before / 2, *NUMBERS])
    if isinstance(before, str):
        if before.isascii() and rng.random() < 0.5 and any(c.isdigit() for c in before):
            digits = [i for i, c in enumerate(before) if c.isdigit()]
            i = rng.choice(digits)
            return before[:i] + rng.choice("0123456789") + before[i + 1 :]
        return rng.choice(
            [before + "x", before[1:], "", before * 2, "n", "f32", "i64", "0", "-n", "n//(0)", "x[0]", "a" * 5000]
        )
    return copy.deepcopy(rng.choice(OTHERS))


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
