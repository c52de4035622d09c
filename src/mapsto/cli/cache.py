"""`mapsto cache`: what is kept on disk from one start to the next."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable
from typing import Any

from mapsto.cli.output import bytes_text, print_json, table
from mapsto.cli.usage import UsageError
from mapsto.devices.cache import objects
from mapsto.session.cache.executables import executables, references
from mapsto.store import OFF, VARIABLE, Entry, EntryStore, default_folder, fault_of, trim

_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_TIMES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def info(as_json: bool) -> None:
    found = [(store, store.entries()) for store in _stores()]
    root, faults = default_folder(), _faults()
    if as_json:
        print_json(
            {
                "folder": None if root is None else str(root),
                "faults": faults,
                "kinds": {store.kind: _about(store, entries) for store, entries in found},
            }
        )
        return
    if root is None:
        print(f"the cache is off: {VARIABLE}={OFF}")
        return
    print(f"cache folder {root} ({VARIABLE} names another one)")
    for fault in faults:
        print(f"not used: {fault}")
    rows = [
        (s.kind, str(len(e)), bytes_text(_bytes(e)), bytes_text(s.bound), *(_age(t) for t in _used(e)))
        for s, e in found
    ]
    print(table(("kind", "entries", "bytes", "at most", "used last", "used first"), rows))


def clear(as_json: bool) -> None:
    _sweep()
    _tell([trim(store.entries(), -1) for store in _stores()], as_json)


def prune(max_size: str | None, older_than: str | None, as_json: bool) -> None:
    """Brings each kind within its bound; removes entries past the age; then those used longest ago, of all kinds
    together, until the rest fits.
    """
    most = math.inf if max_size is None else _number(max_size, _SIZES, "--max-size", "500M or 2G")
    age = None if older_than is None else _number(older_than, _TIMES, "--older-than", "12h or 30d")
    _sweep()
    gone = [trim(store.entries(), store.bound) for store in _stores()]
    left = [entry for store in _stores() for entry in store.entries()]
    gone.append(trim(left, most, None if age is None else time.time() - age))
    _tell(gone, as_json)


def _stores() -> tuple[EntryStore, ...]:
    root = default_folder()
    return executables(root), references(root), objects(root)


def _faults() -> list[str]:
    """Why kinds of entries are not used, where that is so."""
    root = default_folder()
    return [] if root is None else sorted({fault for s in _stores() if (fault := fault_of(root / s.kind))})


def _sweep() -> None:
    for store in _stores():
        store.sweep()


def _tell(gone: Iterable[list[Entry]], as_json: bool) -> None:
    removed = [entry for entries in gone for entry in entries]
    left = [entry for store in _stores() for entry in store.entries()]
    if as_json:
        about = {"entries": len(left), "bytes": _bytes(left)}
        done = {"entries": len(removed), "bytes": _bytes(removed)}
        print_json({"removed": done, "left": about, "faults": _faults()})
        return
    for fault in _faults():
        print(f"left alone: {fault}")
    print(f"removed {len(removed)} entries of {bytes_text(_bytes(removed))}; {bytes_text(_bytes(left))} are left")


def _about(store: EntryStore, entries: list[Entry]) -> dict[str, Any]:
    last, first = _used(entries)
    return {
        "entries": len(entries),
        "bytes": _bytes(entries),
        "bound": store.bound,
        "used_last": last,
        "used_first": first,
    }


def _bytes(entries: Iterable[Entry]) -> int:
    return sum(entry.bytes for entry in entries)


def _used(entries: list[Entry]) -> tuple[float | None, float | None]:
    times = [entry.used for entry in entries]
    return (max(times), min(times)) if times else (None, None)


def _age(used: float | None) -> str:
    if used is None:
        return "-"
    seconds = max(time.time() - used, 0.0)
    unit, size = next(((u, s) for u, s in reversed(_TIMES.items()) if u != "w" and seconds >= s), ("s", 1))
    return f"{seconds / size:.0f} {unit} ago"


def _number(text: str, units: dict[str, int], option: str, such: str) -> float:
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([A-Za-z]?)(?:i?B)?", text)
    unit = None if found is None else found[2] if found[2] in units else found[2].upper()
    if found is None or unit not in units:
        raise UsageError(f"{option} {text}: expected a number with a unit, such as {such}")
    return float(found[1]) * units[unit]
