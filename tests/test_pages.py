"""What pages, docstrings and comments name exists: files, modules, and what is in them."""

from __future__ import annotations

import ast
import importlib.util
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

import mapsto

SOURCE = Path(mapsto.__file__).parent
ROOT = SOURCE.parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
MODULES = sorted(SOURCE.rglob("*.py"))

OTHERS = ("torch",)  # packages that a room of ours is named after, be they installed or not

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the package is installed without its pages")


def _quoted(text: str) -> Iterator[str]:
    """What stands between backticks on one line."""
    for line in text.splitlines():
        yield from re.findall(r"`([^`]+)`", line)


# ---- paths -----------------------------------------------------------------------------------------------------------


def _is_path(words: str) -> bool:
    """Whether it is a file or folder of the repository; capitals stand for what a reader fills in."""
    return bool(re.fullmatch(r"[a-z][a-z0-9_./-]*/[a-z0-9_./-]+|[a-z_]+\.py", words))


def _exists(path: str) -> bool:
    if "/" not in path:
        return any(SOURCE.rglob(path)) or any((ROOT / "tests").rglob(path))
    return any((folder / path).exists() for folder in (ROOT, SOURCE.parent, SOURCE, SOURCE / "devices"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_exist(page: Path) -> None:
    assert [path for path in _quoted(page.read_text()) if _is_path(path) and not _exists(path)] == []


# ---- names in modules ------------------------------------------------------------------------------------------------


def _defined(path: Path) -> set[str]:
    """What a module holds, with what its classes do, and the modules of a package."""
    found = {each.stem for each in path.parent.glob("*") if path.name == "__init__.py"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return found


@cache
def _contents() -> Mapping[str, set[str]]:
    """By each way to name a module, its last parts: what all modules that are named so hold."""
    found: dict[str, set[str]] = {}
    for path in MODULES:
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        own = _defined(path)
        for start in range(len(parts)):
            found.setdefault(".".join(parts[start:]), set()).update(own)
    found["loop"] |= found["loop.ast"]  # which other rooms call `loop`
    return found


def _is_lost(words: str, contents: Mapping[str, set[str]]) -> bool:
    """Whether it names what is not in a module of ours."""
    if not re.fullmatch(r"[a-z_]\w*(\.\w+)+", words) or re.search(r"\.(py|md|txt|json|npz|onnx|toml|data)$", words):
        return False
    parts = words.split(".")
    if parts[0] in OTHERS or (parts[0] != "mapsto" and importlib.util.find_spec(parts[0]) is not None):
        return False  # somebody else's
    modules = [".".join(parts[:end]) for end in range(1, len(parts)) if ".".join(parts[:end]) in contents]
    return bool(modules) and parts[modules[-1].count(".") + 1] not in contents[modules[-1]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_in_modules_exist(page: Path) -> None:
    assert [words for words in _quoted(page.read_text()) if _is_lost(words, _contents())] == []


def _prose(source: str) -> Iterator[str]:
    """Docstrings and comments."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and token.string.startswith('"""')):
            yield token.string


@cache
def _words() -> set[str]:
    """Every name that the code has, in texts as well."""
    found: set[str] = set()
    for path in MODULES:
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            if token.type in (tokenize.NAME, tokenize.STRING) and not token.string.startswith('"""'):
                found.update(re.findall(r"\w+", token.string))
    return found


def _variables(source: str) -> set[str]:
    """Names of values: a module may be called like one."""
    nodes = list(ast.walk(ast.parse(source)))
    return {n.id for n in nodes if isinstance(n, ast.Name)} | {n.arg for n in nodes if isinstance(n, ast.arg)}


def test_docstrings_name_what_exists() -> None:
    lost = {}
    for path in MODULES:
        quoted = [words for text in _prose(path.read_text()) for words in _quoted(text)]
        unknown = [words for words in quoted if re.fullmatch(r"[A-Za-z]\w{2,}", words) and words not in _words()]
        own = _variables(path.read_text())
        unknown += [words for words in quoted if _is_lost(words, _contents()) and words.split(".")[0] not in own]
        if unknown:
            lost[str(path.relative_to(SOURCE))] = unknown
    assert lost == {}


# ---- the test itself -------------------------------------------------------------------------------------------------


def test_what_is_lost_is_seen() -> None:
    contents = _contents()
    assert _is_lost("plan.tally", contents) and _is_lost("making.code.Target", contents)
    assert not _is_lost("making.code.MadeFor", contents) and not _is_lost("loop.Load", contents)
    assert not _is_lost("onnx.ModelProto", contents) and not _is_lost("exe.run", contents)
    assert _is_path("docs/plan.md") and _is_path("tile.py") and not _is_path("rows/FAMILY.py")
    assert not _exists("docs/no-such-page.md") and "no_such_name" not in _words()
