"""A graph of torch's, compiled: it takes what the graph's placeholders stand for, and gives its results, as torch's
tensors. Its weights are compiled as constants as long as they stay what they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from mapsto.errors import ArgumentError, MapstoError, ShapeError
from mapsto.importers.torch.strides import Look
from mapsto.importers.torch.tensors import array_of, tensor_of
from mapsto.importers.torch.translate import Imported
from mapsto.ir.expr import Dim, bare_symbol, evaluate
from mapsto.ir.graph import Graph
from mapsto.runtime.executable import Executable
from mapsto.session.weights import Watch

SHARED, FROZEN = "shared", "frozen"
_CHANGES = 2  # after so many, weights are inputs


class TracedExecutable:
    """Runs a graph of torch's. imported: gives its graph with the weights among these placeholders as constants, all
    others as inputs; compiled: makes an executable of a graph; weights: the placeholders that are weights, with what
    gives the tensor that each is now.

    With `weights="shared"` each call sees whether the weights are what was compiled (`session.weights`). Where they are
    not, they are compiled again; the second time as inputs, which each run reads where they lie.
    """

    def __init__(
        self,
        imported: Callable[[Collection[int]], Imported],
        compiled: Callable[[Graph], Executable],
        weights: Mapping[int, Callable[[], Any]],
        policy: str = SHARED,
    ) -> None:
        self._imported, self._compiled = imported, compiled
        self._weights = dict(weights)
        self._read = dict(weights)
        self._watch = Watch(self._weights.values())
        self._policy = policy
        self.compilations = 0
        self._now = self._made(self._weights)  # both at once: several threads may call

    def _made(self, held: Collection[int]) -> tuple[Imported, Executable]:
        if self._policy == SHARED:
            self._watch.take()
        imported = self._imported(held)
        executable = self._compiled(imported.graph)
        self.compilations += 1
        return imported, executable

    @property
    def imported(self) -> Imported:
        """What was imported last."""
        return self._now[0]

    @property
    def executable(self) -> Executable:
        """What runs now."""
        return self._now[1]

    @property
    def reads_weights(self) -> bool:
        """Whether weights are inputs, which each run reads."""
        return any(at in self._weights for at in self.imported.inputs)

    def also(self, read: Mapping[int, Callable[[], Any]]) -> None:
        """Placeholders that each run reads where they lie (buffers that runs write)."""
        self._read.update(read)

    def renewed(self) -> None:
        """Compiles again where weights are no longer what was compiled."""
        if self._policy == FROZEN or not self._weights or self.reads_weights or not self._watch.changed():
            return
        held = self._weights if self.compilations < _CHANGES else ()
        self._now = self._made(held)

    def __call__(self, given: Sequence[Any]) -> list[Any]:
        """The results for what the placeholders stand for (None for weights): tensors, numbers, None."""
        self.renewed()
        imported, executable = self._now
        arrays = [self._array(at, given, imported.orders.get(at)) for at in imported.inputs]
        if imported.drawn:
            arrays += drawn_arrays(imported, arrays)
        made = executable(*arrays)
        outputs = made if isinstance(made, tuple) else (made,)
        sizes = functools.cache(lambda: _sizes(imported, arrays))
        found: list[Any] = []
        tensors: dict[int, Any] = {}
        for result in imported.results:
            if result.at is not None and result.as_number:
                found.append(_number(outputs[result.at], result.as_number))
            elif result.at is not None:  # a result that is given twice is one tensor
                if result.at not in tensors:
                    tensors[result.at] = tensor_of(outputs[result.at])
                found.append(_looked_at(tensors[result.at], result.view, sizes))
            elif result.feed is not None:
                tensor, order = self._tensor(result.feed, given), imported.orders.get(result.feed)
                if result.view is not None and order is not None:
                    tensor = tensor.permute(order)
                found.append(_looked_at(tensor, result.view, sizes))
            else:
                found.append(result.number)
        return found

    def _tensor(self, at: int, given: Sequence[Any]) -> Any:
        now = self._read.get(at)
        return given[at] if now is None else now()

    def _array(self, at: int, given: Sequence[Any], order: Sequence[int] | None) -> np.ndarray:
        """What a placeholder stands for, its axes in the graph's order."""
        value = self._tensor(at, given)
        if isinstance(value, int):
            return np.asarray(value, np.int64)
        if isinstance(value, float):
            return np.asarray(value, np.float64)
        try:
            array = array_of(value)
            return array if order is None else array.transpose(order)
        except MapstoError as error:
            raise ShapeError(f"input {self._name(at)!r}: {error}") from error
        except AttributeError:
            kind = type(value).__name__
            raise ArgumentError(f"input {self._name(at)!r}: {kind} is no tensor; give a torch.Tensor") from None

    def _name(self, at: int) -> str:
        imported = self._now[0]
        return imported.graph.inputs[imported.inputs.index(at)].name


def drawn_arrays(imported: Imported, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The random numbers of a run, drawn by torch, for the inputs that there are."""
    sizes = _sizes(imported, arrays)
    return [array_of(draw.make(_numbers(draw.shape, sizes))) for draw in imported.drawn]


def _sizes(imported: Imported, arrays: Sequence[np.ndarray]) -> dict[str, int]:
    """Values of the symbols that inputs bring."""
    return {
        symbol: array.shape[axis]
        for value, array in zip(imported.graph.inputs, arrays, strict=False)
        for axis, dim in enumerate(value.shape)
        if (symbol := bare_symbol(dim)) is not None
    }


def _numbers(shape: Sequence[Dim], sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) else evaluate(d, sizes) for d in shape)


def _looked_at(tensor: Any, view: Look | None, sizes: Callable[[], Mapping[str, int]]) -> Any:
    """A view of a tensor; without a copy where it is row-major. sizes: asked for where the view's shape is open."""
    if view is None:
        return tensor
    is_open = any(not isinstance(d, int) for d in view.shape)
    shape = _numbers(view.shape, sizes() if is_open else {})
    if view.strides is None:
        return tensor.reshape(shape)
    whole = tensor.contiguous()
    return whole.as_strided(shape, view.strides, whole.storage_offset() + view.offset)


def _number(array: np.ndarray, kind: str) -> int | float | bool:
    kinds: dict[str, type[int] | type[float] | type[bool]] = {"int": int, "float": float, "bool": bool}
    return kinds[kind](array)
