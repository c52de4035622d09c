"""Mutations of line-oriented text that know no grammar."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")
_WORD = re.compile(r"[A-Za-z_][\w.]*")
_NUMBERS = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "7",
    "8",
    "16",
    "64",
    "999",
    "2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "1e400",
    "0.5",
]
_MARKS = ['"', ":", ";", ",", "(", ")", "[", "]", "*", "|", "//(0)", "/", "%", " ", "\t", "\0", "é", "#", "=", "-", "+"]


def mutate(text: str, rng: random.Random, other: Callable[[random.Random], str]) -> tuple[str, str]:
    """The changed text, and what was done. `other`: another text, of which lines are taken."""
    lines = text.split("\n")
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.choice(
        ["number"] * 4 + ["word"] * 4 + ["drop", "duplicate", "swap", "move", "splice", "mark", "block", "cut"]
    )
    if kind == "drop":
        del lines[at]
    elif kind == "duplicate":
        lines.insert(to, lines[at])
    elif kind == "swap":
        lines[at], lines[to] = lines[to], lines[at]
    elif kind == "move":
        lines.insert(to, lines.pop(at))
    elif kind == "splice":
        lines[at] = rng.choice(other(rng).split("\n"))
    elif kind == "block":
        del lines[at : at + rng.randint(2, 6)]
    elif kind == "cut":
        lines[at:] = [lines[at][: rng.randrange(len(lines[at]) + 1)]]
    elif kind == "mark":
        place = rng.randrange(len(lines[at]) + 1)
        lines[at] = lines[at][:place] + rng.choice(_MARKS) + lines[at][place + rng.randint(0, 1) :]
    else:
        lines[at] = _token(lines[at], text, kind, rng)
    return "\n".join(lines), f"{kind} {at} {to}: {lines[min(at, len(lines) - 1)][:80] if lines else ''}"


def _token(line: str, text: str, kind: str, rng: random.Random) -> str:
    pattern = _NUMBER if kind == "number" else _WORD
    found = list(pattern.finditer(line))
    if not found:
        return line
    match = rng.choice(found)
    if kind == "word":
        new = rng.choice(_WORD.findall(text))
    elif rng.random() < 0.5 and match[0].isdigit():
        new = str(max(int(match[0]) + rng.choice([-2, -1, 1, 2]), 0))
    else:
        new = rng.choice([*_NUMBERS, rng.choice(_NUMBER.findall(text))])
    return line[: match.start()] + new + line[match.end() :]
