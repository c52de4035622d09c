"""The processor's caches, as Linux tells them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Cache:
    """One level: bytes of one cache, and how many cores share it."""

    name: str
    bytes: float
    units: int


# Where the system tells nothing (a container without /sys): what most cores of the last ten years have at least.
TYPICAL = (Cache("L1", 32 << 10, 1), Cache("L2", 512 << 10, 1), Cache("L3", 8 << 20, 4))


def caches(folder: Path = FOLDER) -> tuple[Cache, ...]:
    """Data caches, nearest first; typical ones where the system does not tell."""
    found: dict[int, Cache] = {}
    for index in sorted(folder.glob("index[0-9]")):
        level, size = _word(index / "level"), _size(_word(index / "size"))
        if _word(index / "type") not in ("Data", "Unified") or not level.isdigit() or size <= 0:
            continue
        found[int(level)] = Cache(f"L{int(level)}", size, max(_count(_word(index / "shared_cpu_list")), 1))
    ordered = tuple(found[level] for level in sorted(found))
    grows = all(a.bytes < b.bytes for a, b in zip(ordered, ordered[1:], strict=False))
    return ordered if len(ordered) >= 2 and grows else TYPICAL


def _word(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _size(text: str) -> int:
    """Bytes of `32K`; 0 for what is no size."""
    digits = text[:-1] if text[-1:] in _UNITS else text
    return int(digits) * _UNITS.get(text[-1:], 1) if digits.isascii() and digits.isdigit() else 0


def _count(text: str) -> int:
    """How many processors a list like `0-3,8` names."""
    total = 0
    for part in text.split(","):
        low, _, high = part.partition("-")
        if not low.isdigit() or (high and not high.isdigit()):
            return 0
        total += int(high or low) - int(low) + 1
    return total
