"""Inputs whose memory an output takes over, as a caller names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mapsto.errors import ShapeError
from mapsto.ir.graph import Graph


def with_updates(graph: Graph, updates: Sequence[tuple[str, str]]) -> Graph:
    """The graph with these pairs of an input and an output. Raises ShapeError for one that there is not, an output of
    two inputs, and values of different types or shapes.
    """
    inputs, values = {value.name: value for value in graph.inputs}, graph.values()
    given: dict[str, str] = {}
    for source, output in updates:
        if source not in inputs:
            raise ShapeError(f"updates: there is no input {source!r}; inputs are {', '.join(inputs)}")
        if output not in graph.outputs:
            raise ShapeError(f"updates: there is no output {output!r}; outputs are {', '.join(graph.outputs)}")
        if output in given:
            raise ShapeError(f"updates: the output {output!r} cannot take over both {given[output]!r} and {source!r}")
        before, after = inputs[source], values[output]
        if before.dtype is not after.dtype or before.shape != after.shape:
            raise ShapeError(
                f"updates: {after} cannot take over the memory of {before}; both must be of one type and shape"
            )
        given[output] = source
    kept = tuple(pair for pair in graph.updates if pair[0] not in given.values() and pair[1] not in given)
    return replace(graph, updates=(*kept, *((source, output) for output, source in given.items())), settled=False)
