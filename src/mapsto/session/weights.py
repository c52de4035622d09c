"""Weights that belong to somebody else: whether they are still what was compiled.

They are compared before each run, by what they hold: torch counts writes to a tensor, but not those through `.data`,
numpy or another process. `runtime.same` says how; no copy of them is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mapsto.importers.torch.strides import order_of
from mapsto.importers.torch.tensors import array_of
from mapsto.runtime.same import Bytes, HeldMemory

AxisOrder = tuple[int, ...] | None


@dataclass(frozen=True)
class _Seen:
    """What was taken: each weight's tensor, where it lay and what kind it was; in which order of its axes its elements
    were taken (None: as they come); what all of them held. lying: whether the memory of a tensor is looked at as it is:
    True where it is row-major, its strides where it is dense in the order of what was taken, None for what is copied.
    """

    tensors: tuple[Any, ...]
    places: tuple[int, ...]
    kinds: tuple[tuple[Any, Any], ...]
    orders: tuple[AxisOrder, ...]
    lying: tuple[Any, ...]
    memory: HeldMemory


class Watch:
    """The contents of some weights, as they were last taken. each: gives the tensor that a weight is now."""

    def __init__(self, each: Iterable[Callable[[], Any]]) -> None:
        self._each = tuple(each)
        self._seen = _Seen((), (), (), (), (), HeldMemory(()))

    def take(self) -> None:
        """Takes the contents that there are now for those that count."""
        tensors = tuple(now() for now in self._each)
        orders, kinds = tuple(map(order_of, tensors)), tuple(map(_kind, tensors))
        memory = HeldMemory([_bytes(*each) for each in zip(tensors, orders, strict=True)])
        self._seen = _Seen(tensors, _places(tensors), kinds, orders, _lying(tensors, orders), memory)

    def changed(self) -> bool:
        """Whether any of them holds something else than what was taken."""
        seen, elsewhere = self._seen, []
        for at, now in enumerate(self._each):  # a module has hundreds: nothing is called that need not be
            tensor, lying = now(), seen.lying[at]
            lies = tensor.is_contiguous() if lying is True else lying is not None and tensor.stride() == lying
            if tensor is not seen.tensors[at] or tensor.data_ptr() != seen.places[at] or not lies:
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
        memory = seen.memory.moved({at: _bytes(tensors[at], seen.orders[at]) for at in elsewhere})
        lying = _lying(tensors, seen.orders)
        return replace(seen, tensors=tuple(tensors), places=_places(tensors), lying=lying, memory=memory)


def _places(tensors: Iterable[Any]) -> tuple[int, ...]:
    return tuple(tensor.data_ptr() for tensor in tensors)


def _kind(tensor: Any) -> tuple[Any, Any]:
    return tensor.shape, tensor.dtype


def _lying(tensors: Iterable[Any], orders: Iterable[AxisOrder]) -> tuple[Any, ...]:
    """See `_Seen`."""
    found: list[Any] = []
    for tensor, order in zip(tensors, orders, strict=True):
        if order is None:
            found.append(True if tensor.is_contiguous() else None)
        else:
            found.append(tensor.stride() if tensor.permute(order).is_contiguous() else None)
    return tuple(found)


def _bytes(tensor: Any, order: AxisOrder) -> Bytes:
    """A tensor's elements with its axes in this order: its memory, or a copy where that is another one."""
    array = array_of(tensor)
    taken = array if order is None else array.transpose(order)
    return np.ascontiguousarray(taken).reshape(-1).view(np.uint8)
