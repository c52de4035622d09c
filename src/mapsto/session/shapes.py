"""Fixes sizes of a graph's inputs, as the importer does for a model file."""

from __future__ import annotations

from collections.abc import Sequence

from mapsto.arguments import Shapes, brief, shapes_of
from mapsto.boundary import public
from mapsto.errors import ArgumentError, ShapeError
from mapsto.ir.expr import Dim, bare_symbol, sym
from mapsto.ir.graph import Graph, Value
from mapsto.passes import specialise


@public
def with_shapes(graph: Graph, shapes: Shapes) -> Graph:
    """The graph with these input shapes: an int fixes an axis, a string names its symbol, None leaves it as it is.

    Raises ShapeError where they do not fit.
    """
    if not isinstance(graph, Graph):
        raise ArgumentError(f"with_shapes: expected a graph, got {brief(graph)}")
    shapes = shapes_of(shapes)
    inputs = {value.name: value for value in graph.inputs}
    unknown = sorted(set(shapes) - set(inputs))
    if unknown:
        raise ShapeError(
            f"shapes: the graph has no input named {', '.join(unknown)}; its inputs are {', '.join(inputs)}"
        )
    sizes: dict[str, Dim] = {}
    for name, asked in shapes.items():
        _collect(inputs[name], asked, sizes)
    made = specialise(graph, sizes)
    for value in made.inputs:
        for axis, (dim, extent) in enumerate(zip(value.shape, shapes.get(value.name, value.shape), strict=True)):
            if isinstance(extent, int) and dim != extent:
                raise ShapeError(f"input {value.name!r}: axis {axis} is {dim} in the graph, {extent} was asked for")
    return made


def _collect(value: Value, asked: Sequence[int | str | None], sizes: dict[str, Dim]) -> None:
    """Takes what one input's shape says of the graph's symbols."""
    if len(asked) != value.rank:
        raise ShapeError(f"input {value.name!r}: shape {tuple(asked)} has {len(asked)} axes, {value} has {value.rank}")
    for axis, (dim, extent) in enumerate(zip(value.shape, asked, strict=True)):
        symbol = bare_symbol(dim)
        if extent is None or symbol is None:
            continue
        wanted: Dim = sym(extent) if isinstance(extent, str) else int(extent)
        if sizes.setdefault(symbol, wanted) != wanted:
            raise ShapeError(f"input {value.name!r}: axis {axis}: {symbol} is {sizes[symbol]} already, not {extent}")
