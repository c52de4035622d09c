"""Requests that are compiled later: with the model that there was, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mapsto import budget
from mapsto.arguments import Shapes
from mapsto.errors import ModelError
from mapsto.files import name_of
from mapsto.ir.graph import Value
from mapsto.runtime.program import Port
from mapsto.session.request import Request
from mapsto.witness import Stamp, stamp_of


@dataclass(frozen=True)
class KeptModel:
    """A model in memory that nobody changes, or a file and its stamp. Data beside the file is not looked at."""

    model: Any
    stamp: Stamp | None = None

    def again(self) -> Any:
        """Raises ModelError where the file is no longer what it was."""
        if self.stamp is not None and _stamp(self.model) != self.stamp:
            raise ModelError(f"{name_of(self.model, 'model')}: the file has been changed since it was compiled first")
        return self.model


def kept_model(model: Any) -> KeptModel:
    """Copies what whoever gave it may change."""
    if isinstance(model, (str, os.PathLike)):
        path = os.path.abspath(name_of(model, "model"))
        return KeptModel(path, _stamp(path))
    if isinstance(model, (bytearray, memoryview)):
        return KeptModel(bytes(model))
    if hasattr(model, "CopyFrom"):  # a ModelProto
        copy = type(model)()
        copy.CopyFrom(model)
        return KeptModel(copy)
    return KeptModel(model)


def for_later(asked: Request) -> Callable[[Shapes], Request]:
    """Gives a request again, for other shapes: whatever the current folder is by then, and on a budget of its own.
    What that gives raises ModelError where the model's file has changed.
    """
    model = kept_model(asked.model)
    root = None if asked.data_root is None else os.path.abspath(asked.data_root)
    limits = budget.default() if asked.budget is None else asked.budget

    def again(shapes: Shapes) -> Request:
        return replace(asked, model=model.again(), shapes=shapes, budget=limits, progress=None, data_root=root)

    return again


def fixed_shapes(inputs: Iterable[Value | Port], shapes: Shapes, sizes: Mapping[tuple[str, int], int]) -> Shapes:
    """The shapes of a request with the extents of these axes, (input, axis), fixed besides."""
    found: dict[str, tuple[Any, ...]] = {name: tuple(dims) for name, dims in shapes.items()}
    for value in inputs:
        own = found.get(value.name, (None,) * len(value.shape))
        dims = tuple(sizes.get((value.name, axis), dim) for axis, dim in enumerate(own))
        if dims != own:
            found[value.name] = dims
    return found


def _stamp(path: Any) -> Stamp | None:
    """None where there is no such file."""
    try:
        return stamp_of(os.stat(path))
    except OSError:
        return None
