"""Weights that belong to somebody else: whether they are still what was compiled.

They are compared before each run, by what they hold: torch counts writes to a tensor, but not those through `.data`,
numpy or another process. Small ones are kept and compared whole; of a large one there are sums of its pages, in which
each 64-bit word has an odd weight of its own, so that no single change and no exchange of words goes unseen. That reads
the weights once, at the speed of memory, and keeps no copy of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_WHOLE = 1 << 14  # bytes up to which a weight is kept as it is
_PAGE = 1 << 12
_WORDS = np.arange(1, _PAGE // 4, 2, dtype=np.uint64)


@dataclass(frozen=True)
class Contents:
    """What an array held: its bytes, or sums of its pages and the bytes after the last whole one."""

    shape: tuple[int, ...]
    sums: bytes
    rest: bytes


def contents_of(array: np.ndarray) -> Contents:
    """What tells an array's contents from others."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if flat.nbytes <= _WHOLE:
        return Contents(array.shape, b"", flat.tobytes())
    pages = flat.nbytes // _PAGE * _PAGE
    words = flat[:pages]
    if words.ctypes.data % 8:
        words = words.copy()
    sums = np.einsum("ij,j->i", words.view(np.uint64).reshape(-1, _PAGE // 8), _WORDS)
    return Contents(array.shape, sums.tobytes(), flat[pages:].tobytes())


class Watch:
    """The contents of some weights, as they were last taken. each: gives a weight's array as it is now."""

    def __init__(self, each: Sequence[Callable[[], np.ndarray]]) -> None:
        self._each = tuple(each)
        self._seen: list[Contents] = []

    def arrays(self) -> list[np.ndarray]:
        """All of them as they are now."""
        return [array() for array in self._each]

    def take(self) -> None:
        """Takes the contents that there are now for those that count."""
        self._seen = [contents_of(array()) for array in self._each]

    def changed(self) -> bool:
        """Whether any of them holds something else than what was taken."""
        return any(contents_of(array()) != seen for array, seen in zip(self._each, self._seen, strict=True))
