"""Names mean one thing each, in all rooms."""

from __future__ import annotations

import ast
from collections import defaultdict
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


# ---- classes and aliases of types ------------------------------------------------------------------------------------

# What two modules may call the same, as it means the same, or is told apart by the module's name.
SHARED = {
    "Cast": "of the two languages: `loop.Cast`",
    "Const": "of the two languages: `loop.Const`",
    "Load": "of the two languages: `loop.Load`",
    "Value": "of a graph; that of the loop language is `loop.Value`",
    "Functions": "each device's, of one protocol",
    "Values": "each printer's",
    "Parts": "of a printed value, a list inside of one module; of a problem, in `solve`",
}


def _types_of(source: str) -> Iterator[str]:
    """Public classes and aliases that a module defines; variables of types stand for others."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and len(node.targets[0].id) > 1:
            yield node.targets[0].id if not ast.unparse(node.value).startswith("TypeVar") else "_"


def test_a_type_has_a_name_of_its_own() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(ROOT.rglob("*.py")):
        for name in _types_of(path.read_text()):
            if name[0].isupper() and not name.isupper():
                found[name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in found.items() if len(paths) > 1 and name not in SHARED} == {}
    assert [name for name in SHARED if len(found[name]) < 2] == []


def test_types_are_found() -> None:
    assert list(_types_of('class A1: ...\nPair = tuple[int, int]\nB1 = TypeVar("B1")\nC1: int = 0')) == [
        "A1",
        "Pair",
        "_",
    ]
