"""Names mean one thing each, in all rooms."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import mapsto
from mapsto.loop import ast as loop

ROOT = Path(mapsto.__file__).parent
# A compiled function and its parameters: nothing else is called that.
BARE = {"Function", "Param"}


def _names_of_the_loop_language() -> set[str]:
    return {name for name, made in vars(loop).items() if getattr(made, "__module__", "") == loop.__name__} - BARE


def _bare(source: str) -> Iterator[str]:
    """What a module takes from the loop language without saying whose it is."""
    own = _names_of_the_loop_language() | {"Value", "Statement"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == loop.__name__:
            yield from (alias.name for alias in node.names if alias.name in own)
        elif isinstance(node, ast.ImportFrom) and node.module == "mapsto.loop":
            yield from (alias.name for alias in node.names if alias.name == "ast" and alias.asname != "loop")


def test_the_loop_language_is_named_outside_of_its_room() -> None:
    outside = [path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] != "loop"]
    assert {str(path.relative_to(ROOT)): found for path in outside if (found := list(_bare(path.read_text())))} == {}


def test_a_bare_node_is_seen() -> None:
    assert {"Load", "Cast", "Const", "Var", "For"} <= _names_of_the_loop_language()
    assert list(_bare("from mapsto.loop.ast import Function, Load, Value")) == ["Load", "Value"]
    assert list(_bare("from mapsto.loop import ast")) == ["ast"]
    assert list(_bare("from mapsto.loop import ast as loop")) == []
