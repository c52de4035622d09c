"""A model that cannot be compiled for all sizes at once, because some decide a rank, as executables for the sizes that
runs bring.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from mapsto import budget
from mapsto.arguments import Shapes
from mapsto.budget import metering
from mapsto.errors import MapstoError
from mapsto.importers.onnx import declared_inputs, default_arrays, read
from mapsto.ir.graph import Graph, Value
from mapsto.runtime.executable import Executable
from mapsto.runtime.program import Port
from mapsto.runtime.variants import InputAxis, VariedExecutable
from mapsto.session.request import Request
from mapsto.session.unchanged import kept_model


def varied(asked: Request, refusal: MapstoError, compiled: Callable[[Request], Executable]) -> VariedExecutable | None:
    """refusal: of the request, for open sizes. compiled: gives the executable of one that has them fixed. None where a
    plan is to be replayed, which is of one graph.
    """
    if asked.plan is not None or isinstance(asked.model, Graph):
        return None
    with metering(asked.budget):
        source = read(asked.model, asked.data_root)
        inputs = declared_inputs(source, asked.shapes, asked.overridable)
        defaults = {name: array.shape for name, array in default_arrays(source, asked.overridable).items()}
    ports = [Port(value.name, value.dtype, value.shape, at) for at, value in enumerate(inputs)]
    limits = budget.default() if asked.budget is None else asked.budget
    model = kept_model(asked.model)
    root = None if asked.data_root is None else os.path.abspath(asked.data_root)

    def make(sizes: Mapping[InputAxis, int]) -> Executable:
        shapes = fixed_shapes(inputs, asked.shapes, sizes)
        fixed = replace(asked, model=model.again(), shapes=shapes, budget=limits, progress=None, data_root=root)
        return compiled(fixed)

    made = VariedExecutable(source.name, ports, refusal.axes, make, str(refusal), asked.threads, defaults)
    made.cache_note = "each of its variants is looked for in the cache"
    return made


def fixed_shapes(inputs: Iterable[Value | Port], shapes: Shapes, sizes: Mapping[InputAxis, int]) -> Shapes:
    """The shapes of a request with the extents of these axes fixed besides."""
    found: dict[str, tuple[Any, ...]] = {name: tuple(dims) for name, dims in shapes.items()}
    for value in inputs:
        own = found.get(value.name, (None,) * len(value.shape))
        dims = tuple(sizes.get((value.name, axis), dim) for axis, dim in enumerate(own))
        if dims != own:
            found[value.name] = dims
    return found
