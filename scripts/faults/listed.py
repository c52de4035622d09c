"""The faults that were thought out, and what is known of those that no test can notice: data beside this module."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from faults.drawn import function_at
from faults.fault import SOURCE, Fault, StaleError

HERE = Path(__file__).parent
THOUGHT, EQUIVALENT = HERE / "thought.toml", HERE / "equivalent.toml"


def thought(root: Path) -> list[Fault]:
    """All that were thought out, in order. Raises StaleError where one does not fit the tree at `root`."""
    found = [_of(root, name, entry) for name, entry in tomllib.loads(THOUGHT.read_text()).items()]
    for fault in found:
        fault.applied((root / fault.file).read_bytes())
    return found


def _of(root: Path, name: str, entry: Mapping[str, str | list[str]]) -> Fault:
    file, old, new = f"{SOURCE}/{entry['file']}", str(entry["old"]), str(entry["new"])
    path = root / file
    text = path.read_bytes() if path.is_file() else b""
    if (times := text.count(old.encode())) != 1:
        raise StaleError(f"{name}: {old!r} stands {times} times in {file}, not once")
    start = text.index(old.encode())
    beyond = tuple(entry.get("tests", ()))
    return Fault(name, "thought", file, function_at(text, start), start, old, new, str(entry["what"]), beyond)


def equivalent() -> dict[str, str]:
    """Why no test can notice a fault, by its key."""
    return {key: entry["why"] for key, entry in tomllib.loads(EQUIVALENT.read_text()).items()}
