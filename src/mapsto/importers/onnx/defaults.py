"""Initializers as defaults of inputs: a graph input of the same name says that a run may give another value."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mapsto.errors import ShapeError
from mapsto.importers.onnx.reader import Source
from mapsto.importers.onnx.tensors import TensorReader


def default_names(source: Source) -> frozenset[str]:
    """The initializers that are graph inputs as well. Files before IR version 4 list all of them."""
    graph = source.model.graph
    return frozenset(tensor.name for tensor in graph.initializer) & frozenset(entry.name for entry in graph.input)


def default_arrays(source: Source, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The values of these initializers. Raises ShapeError for a name that no initializer has."""
    reader = TensorReader(source.files)
    wanted = set(names)
    found = {t.name: reader.array(t, "initializer") for t in source.model.graph.initializer if t.name in wanted}
    check_overridable(wanted, found)
    return found


def check_overridable(names: Iterable[str], initializers: Iterable[str]) -> None:
    """Raises ShapeError for a name that no initializer has."""
    unknown = sorted(set(names) - set(initializers))
    if unknown:
        raise ShapeError(f"overridable: the model has no initializer named {', '.join(unknown)}")
