"""A model that cannot be compiled for all sizes at once, because some decide a rank, as executables for the sizes that
runs bring.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mapsto.budget import metering
from mapsto.errors import MapstoError
from mapsto.importers.onnx import declared_inputs, default_arrays, read
from mapsto.ir.expr import bare_symbol
from mapsto.ir.graph import Graph
from mapsto.runtime.executable import Executable, Narrowing
from mapsto.runtime.program import Port
from mapsto.runtime.variants import InputAxis, VariedExecutable
from mapsto.session.later import fixed_shapes, for_later
from mapsto.session.request import Request

_NOTE = "each of its variants is looked for in the cache"


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
    again = for_later(asked)

    def make(sizes: Mapping[InputAxis, int]) -> Executable:
        return compiled(again(fixed_shapes(inputs, asked.shapes, sizes)))

    made = VariedExecutable(source.name, ports, refusal.axes, make, str(refusal), asked.threads, defaults)
    made.cache_note = _NOTE
    return made


def narrowing(asked: Request, whole: Executable, compiled: Callable[[Request], Executable]) -> Narrowing | None:
    """For an executable of open sizes that some runs cannot use. compiled: gives the executable of a request."""
    if asked.plan is not None or isinstance(asked.model, Graph):
        return None
    inputs, name, again = whole.inputs, whole.program.name, for_later(asked)

    def single(sizes: Mapping[InputAxis, int]) -> Executable:
        return compiled(again(fixed_shapes(inputs, asked.shapes, sizes)))

    def make(error: MapstoError) -> VariedExecutable:
        named = [(port.name, axis, bare_symbol(dim)) for port in inputs for axis, dim in enumerate(port.shape)]
        axes = [(port, axis) for port, axis, symbol in named if symbol in error.sizes]
        made = VariedExecutable(name, inputs, axes, single, str(error), asked.threads)
        made.cache_note = _NOTE
        return made

    return Narrowing(make)
