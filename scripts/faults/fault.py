"""A fault: one place of one file, as it is and as it would be."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from pathlib import Path

SOURCE = "src/mapsto"


class StaleError(Exception):
    """A fault that does not fit the source any more: says which, and why."""


@dataclass(frozen=True)
class Fault:
    """`old` stands at byte `start` of the file (relative to the repository), and `new` takes its place.

    `key` says which fault it is, whatever the line: a name, or of a drawn one a digest of where it is and what it
    changes. `function` is the qualified name of what it stands in (`<module>` outside of any). `what` says in a line
    what it breaks. `beyond`: test files besides those of the room.
    """

    key: str
    kind: str
    file: str
    function: str
    start: int
    old: str
    new: str
    what: str
    beyond: tuple[str, ...] = ()

    def applied(self, text: bytes) -> bytes:
        """The file's text with the fault in it. Raises StaleError."""
        old = self.old.encode()
        if text[self.start : self.start + len(old)] != old:
            raise StaleError(f"{self.key}: {self.file} has no {self.old!r} at byte {self.start}")
        faulty = text[: self.start] + self.new.encode() + text[self.start + len(old) :]
        try:
            if not _differs(ast.parse(text).body, ast.parse(faulty).body, self.line(text)):
                raise StaleError(f"{self.key}: changes nothing in {self.file}")
        except SyntaxError as error:
            raise StaleError(f"{self.key}: {self.file} would not parse: {error}") from None
        return faulty

    def fits(self, text: bytes) -> bool:
        """Whether it can be put into the file's text."""
        try:
            return bool(self.applied(text))
        except StaleError:
            return False

    def line(self, text: bytes) -> int:
        """Where it stands, from 1."""
        return text[: self.start].count(b"\n") + 1


def _differs(one: list[ast.stmt], other: list[ast.stmt], line: int) -> bool:
    """Whether statements of a module differ from this line on, up to where both are as long."""
    first = next((at for at, stmt in enumerate(one) if (stmt.end_lineno or 0) >= line), len(one))
    if len(one) != len(other):
        return True
    return any(
        ast.dump(a) != ast.dump(b) for a, b in zip(one[first : first + 2], other[first : first + 2], strict=True)
    )


def key_of(*parts: str) -> str:
    """A short name of what the parts say."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:10]


def modules(root: Path) -> list[str]:
    """Every module of the package, relative to the repository."""
    return sorted(str(path.relative_to(root)) for path in (root / SOURCE).rglob("*.py"))
