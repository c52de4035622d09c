"""Recipes: how the statements of a work follow from nodes of the graph, rule by rule.

    add_3                                   the statements of one node, which is named by its first output
    epilogue(conv_1, compose(neg_2, mul_4)) a rule applied to what two recipes make, the earlier one first
    compose(a, b, c)                        the same as compose(compose(a, b), c)
    copy(x, x_5)                            a value copied into one that lies otherwise

A plan holds recipes and no statements: the graph and the rules say the rest, so what is printed cannot contradict what
is compiled. Names that are no plain words are quoted as in JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mapsto.arguments import brief

_PLAIN = re.compile(r'[^\s,{}()\[\]":#=]+\Z')
_TOKEN = re.compile(r'\s*(?:(?P<name>[^\s,{}()\[\]":#=]+)|(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<mark>[(),]))')
# Recipes nested deeper are refused: rules stop long before.
_DEPTH = 400


@dataclass(frozen=True)
class Recipe:
    """A rule with what it is applied to; without a rule, the name of a node or value."""

    rule: str
    parts: tuple[Recipe, ...] = ()
    name: str = ""

    def __str__(self) -> str:
        if not self.rule:
            return name_text(self.name)
        return f"{self.rule}({', '.join(map(str, self.parts))})"

    def leaves(self) -> Iterator[str]:
        """The names that it starts from, in order."""
        if not self.rule:
            yield self.name
        for part in self.parts:
            yield from part.leaves()


def of(name: str) -> Recipe:
    return Recipe("", (), name)


def made(rule: str, *parts: Recipe) -> Recipe:
    """A rule applied to recipes. A chain of one rule is written as one list, not nested."""
    first = parts[0]
    return Recipe(rule, (*first.parts, *parts[1:]) if first.rule == rule else parts)


def name_text(name: str) -> str:
    """A name as it stands in a plan."""
    return name if _PLAIN.match(name) else json.dumps(name, ensure_ascii=False)


def parse_recipe(text: str) -> Recipe:
    """Reads the text form. Raises ValueError."""
    reader = _Reader(text)
    recipe = reader.recipe(0)
    if reader.at != len(text.rstrip()):
        raise ValueError(f"a recipe that goes on: {brief(text[reader.at :])}")
    return recipe


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def token(self) -> re.Match[str]:
        found = _TOKEN.match(self.text, self.at)
        if found is None:
            raise ValueError(f"a recipe is cut off or damaged at {brief(self.text[self.at :])}")
        self.at = found.end()
        return found

    def recipe(self, depth: int) -> Recipe:
        if depth > _DEPTH:
            raise ValueError("a recipe nested too deep")
        found = self.token()
        if found["quoted"]:
            name = json.loads(found["quoted"])
            return of(str(name))
        if not found["name"]:
            raise ValueError(f"a recipe has {found['mark']!r} where a name should be")
        if not self.text.startswith("(", self.at):
            return of(found["name"])
        self.at += 1
        parts = [self.recipe(depth + 1)]
        while (mark := self.token()["mark"]) == ",":
            parts.append(self.recipe(depth + 1))
        if mark != ")":
            raise ValueError("a recipe without its closing parenthesis")
        return Recipe(found["name"], tuple(parts))
