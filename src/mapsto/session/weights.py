"""Weights that belong to somebody else: whether they are still what was compiled.

They are compared before each run, by what they hold: torch counts writes to a tensor, but not those through `.data`,
numpy or another process. `runtime.same` says how; no copy of them is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mapsto.importers.torch.tensors import array_of
from mapsto.runtime.same import Bytes, HeldMemory


@dataclass(frozen=True)
class _Seen:
    """What was taken: each weight's tensor, where it lay and what kind it was; what all of them held."""

    tensors: tuple[Any, ...]
    places: tuple[int, ...]
    kinds: tuple[tuple[Any, Any], ...]
    memory: HeldMemory


class Watch:
    """The contents of some weights, as they were last taken. each: gives the tensor that a weight is now."""

    def __init__(self, each: Iterable[Callable[[], Any]]) -> None:
        self._each = tuple(each)
        self._seen = _Seen((), (), (), HeldMemory(()))

    def take(self) -> None:
        """Takes the contents that there are now for those that count."""
        tensors = tuple(now() for now in self._each)
        memory = HeldMemory([_bytes(tensor) for tensor in tensors])
        self._seen = _Seen(tensors, _places(tensors), tuple(_kind(tensor) for tensor in tensors), memory)

    def changed(self) -> bool:
        """Whether any of them holds something else than what was taken."""
        seen, elsewhere = self._seen, []
        for at, now in enumerate(self._each):  # a module has hundreds: nothing is called that need not be
            tensor = now()
            if tensor is not seen.tensors[at] or tensor.data_ptr() != seen.places[at] or not tensor.is_contiguous():
                elsewhere.append(at)
        if elsewhere:
            found = self._found(seen, elsewhere)
            if found is None:
                return True
            self._seen = seen = found
        return not seen.memory.is_same()

    def _found(self, seen: _Seen, elsewhere: Sequence[int]) -> _Seen | None:
        """The same, looked for where some weights are now; None where one is of another kind."""
        tensors = list(seen.tensors)
        for at in elsewhere:
            tensors[at] = self._each[at]()
            if _kind(tensors[at]) != seen.kinds[at]:
                return None
        memory = seen.memory.moved({at: _bytes(tensors[at]) for at in elsewhere})
        return replace(seen, tensors=tuple(tensors), places=_places(tensors), memory=memory)


def _places(tensors: Iterable[Any]) -> tuple[int, ...]:
    return tuple(tensor.data_ptr() for tensor in tensors)


def _kind(tensor: Any) -> tuple[Any, Any]:
    return tensor.shape, tensor.dtype


def _bytes(tensor: Any) -> Bytes:
    """A tensor's memory in order; a copy where it does not lie so."""
    return np.ascontiguousarray(array_of(tensor)).reshape(-1).view(np.uint8)
