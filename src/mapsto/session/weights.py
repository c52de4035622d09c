"""Weights that belong to somebody else: whether they are still what was compiled.

They are compared before each run, by what they hold: torch counts writes to a tensor, but not those through `.data`,
numpy or another process. Small ones are kept and compared whole; of a large one there are sums of its pages, in which
each 64-bit word has an odd weight of its own, so that no single change and no exchange of words goes unseen. That reads
the weights once, at the speed of memory, and keeps no copy of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mapsto.importers.torch.tensors import array_of

_WHOLE = 1 << 14  # bytes up to which a weight is kept as it is
_PAGE = 1 << 12
_WORDS = np.arange(1, _PAGE // 4, 2, dtype=np.uint64)


class _Seen:
    """A weight as it was when it was taken: where it lies, and what it held."""

    def __init__(self, tensor: Any) -> None:
        self._tensor, self._place = tensor, tensor.data_ptr()
        self._shape, self._dtype = tensor.shape, tensor.dtype
        self._parts = _parts(tensor)
        self._held = _held(self._parts)

    def is_in(self, tensor: Any) -> bool:
        """Whether a tensor holds the same."""
        if tensor is not self._tensor or tensor.data_ptr() != self._place or not tensor.is_contiguous():
            if tensor.shape != self._shape or tensor.dtype is not self._dtype:
                return False
            return _held(_parts(tensor)) == self._held
        return _held(self._parts) == self._held


Parts = tuple[np.ndarray | None, np.ndarray]


def _parts(tensor: Any) -> Parts:
    """A weight's memory as whole pages of words, if it is large, and the bytes behind them."""
    flat = np.ascontiguousarray(array_of(tensor)).reshape(-1).view(np.uint8)
    if flat.nbytes <= _WHOLE or flat.ctypes.data % 8:
        return None, flat
    pages = flat.nbytes // _PAGE * _PAGE
    return flat[:pages].view(np.uint64).reshape(-1, _PAGE // 8), flat[pages:]


def _held(parts: Parts) -> tuple[bytes, bytes]:
    """What tells contents from others."""
    words, rest = parts
    return b"" if words is None else np.einsum("ij,j->i", words, _WORDS).tobytes(), rest.tobytes()


class Watch:
    """The contents of some weights, as they were last taken. each: gives the tensor that a weight is now."""

    def __init__(self, each: Iterable[Callable[[], Any]]) -> None:
        self._each = tuple(each)
        self._seen: list[_Seen] = []

    def take(self) -> None:
        """Takes the contents that there are now for those that count."""
        self._seen = [_Seen(now()) for now in self._each]

    def changed(self) -> bool:
        """Whether any of them holds something else than what was taken."""
        return not all(seen.is_in(now()) for now, seen in zip(self._each, self._seen, strict=True))
