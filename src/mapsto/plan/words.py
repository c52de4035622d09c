"""Names and texts as plans have them: printed, and read back. A name that is no plain word is quoted as in JSON."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence

from mapsto.arguments import brief
from mapsto.plan.recipe import name_text

NAME = r'(?:[^\s,{}()\[\]":#=]+|"(?:[^"\\]|\\.)*")'
NAMES = rf"{NAME}(?:, *{NAME})*"
_MOST_NUMBERS = 1 << 22
TEXT = r'"(?:[^"\\]|\\.)*"'


def quoted_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def names_text(names: Sequence[str]) -> str:
    return ", ".join(map(name_text, names))


def origin_lines(nodes: Sequence[str], ops: Sequence[str], sources: Sequence[str]) -> Iterator[str]:
    """Of a work: its nodes, their ops, and the nodes of the source model that they stand for."""
    if nodes:
        yield f"  nodes {names_text(nodes)}"
    if ops:
        yield f"  ops {names_text(ops)}"
    if sources:
        yield f"  from {json.dumps(list(sources), ensure_ascii=False)}"


def read_name(text: str) -> str:
    """Raises ValueError."""
    return read_text(text) if text.startswith('"') else text


def read_names(text: str) -> tuple[str, ...]:
    """Raises ValueError."""
    if re.fullmatch(NAMES, text) is None:
        raise ValueError(f"{brief(text)} are no names")
    return tuple(map(read_name, re.findall(NAME, text)))


def runs_text(numbers: Sequence[int]) -> str:
    """Whole numbers, of which many in a row are the same: `0x12,1,-2x3`."""
    runs = ((number, len(list(run))) for number, run in itertools.groupby(numbers))
    return ",".join(str(number) if count == 1 else f"{number}x{count}" for number, count in runs)


def read_runs(text: str) -> tuple[int, ...]:
    """Raises ValueError."""
    found: list[int] = []
    for part in text.split(","):
        run = re.fullmatch(r"(-?\d{1,2})(?:x([1-9]\d{0,6}))?", part, re.ASCII)
        if run is None:
            raise ValueError(f"{brief(part)} is no whole number of two digits, or a run of one as 0x12")
        found += [int(run[1])] * int(run[2] or 1)
        if len(found) > _MOST_NUMBERS:
            raise ValueError(f"more than {_MOST_NUMBERS} numbers")
    return tuple(found)


def read_text(text: str) -> str:
    """What is quoted. Raises ValueError."""
    value = json.loads(text)
    if not isinstance(value, str):
        raise ValueError(f"{brief(text)} is no quoted text")
    return value


def read_sources(text: str) -> tuple[str, ...]:
    """A work's `from`. Raises ValueError."""
    values = json.loads(text)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"from: expected a list of texts, got {brief(text)}")
    return tuple(values)
