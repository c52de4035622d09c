"""No two modules need each other, be it only inside a function or for a type: each can be read after those it names.

`lint-imports` sees to the order of the rooms; this is about the modules of a room as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mapsto

ROOT = Path(mapsto.__file__).parent


def _modules(root: Path) -> dict[str, Path]:
    found = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imported(source: str, modules: Mapping[str, Path]) -> Iterator[str]:
    """The modules that a source names anywhere; a name that is imported from a package may be a module of it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, "imports name their module in full"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in modules or node.module in modules:
                    yield name if name in modules else node.module


def _circle(sources: Mapping[str, str]) -> list[str]:
    """Modules of which each names the next, the last the first; empty where there are none."""
    modules = dict.fromkeys(sources, Path())
    graph = {name: set(_imported(text, modules)) - {name} for name, text in sources.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_needs_one_that_needs_it() -> None:
    sources = {name: path.read_text() for name, path in _modules(ROOT).items()}
    assert len(sources) > 200
    assert _circle(sources) == []


@pytest.mark.parametrize(
    "back",
    [
        "import a.b",
        "from a.b import x",
        "from a import b",
        "def f():\n    from a.b import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a.b import X",
    ],
)
def test_a_circle_is_seen_however_it_is_hidden(back: str) -> None:
    sources = {"a": "", "a.b": "from a.c import f", "a.c": "import a.d", "a.d": back, "a.e": "from a.b import x"}
    assert set(_circle(sources)) == {"a.b", "a.c", "a.d"}
    assert _circle({**sources, "a.d": "import math"}) == []
