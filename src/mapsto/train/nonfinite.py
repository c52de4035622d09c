"""Where a NaN or an infinity comes from: the step's graph is run node by node, until a value is not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapsto.errors import MapstoError
from mapsto.ir.dtypes import Array
from mapsto.ir.graph import Graph, Node
from mapsto.ops.interpret import run_graph

_MOST_NAMED = 3


def first_nonfinite(graph: Graph, given: Mapping[str, Any], kinds: Mapping[str, str]) -> str:
    """In words, the first value of a run that is not finite though all that it is computed from is; "" where there is
    none. given: an array for each input; kinds: what an input is, where it is none of the batch.

    Values that are infinite on purpose (a mask) are named as well, where they come first: so up to three are.
    """
    for name, value in given.items():
        if said := _bad(np.asarray(value)):
            return f"{kinds.get(name, 'the batch')}: {name} holds {said}"
    spoiled: set[str] = set()
    for name, array in graph.constants.items():
        if _bad(array):
            spoiled.add(name)
    born: list[str] = []

    def observe(node: Node, results: Sequence[Array]) -> None:
        inherits = any(name in spoiled for name in node.inputs)
        for value, array in zip(node.outputs, results, strict=True):
            if said := _bad(array):
                spoiled.add(value.name)
                if not inherits:
                    source = ", ".join(node.provenance) or "no node of the model"
                    born.append(f"{value.name} (of {node.op}, from {source}) holds {said}")
        if len(born) >= _MOST_NAMED:
            raise _Enough

    try:
        run_graph(graph, given, observe=observe)
    except _Enough:
        pass
    except MapstoError as error:
        born.append(f"then the run failed: {error}")
    return "; then ".join(born)


def nonfinite_of(arrays: Mapping[str, np.ndarray]) -> str:
    """The first array that is not finite, in words; "" where all are."""
    for name, array in arrays.items():
        if said := _bad(array):
            return f"{name} holds {said}"
    return ""


class _Enough(Exception):
    pass


def _bad(array: np.ndarray) -> str:
    """How many elements are not finite."""
    if array.dtype.kind not in "fV":
        return ""
    wide = array.astype(np.float32) if array.dtype.kind == "V" else array
    with np.errstate(all="ignore"):
        finite = np.isfinite(wide)
    if finite.all():
        return ""
    nan, count = int(np.isnan(wide).sum()), int(array.size - finite.sum())
    kinds = "NaN" if nan == count else "Inf" if not nan else "NaN and Inf"
    return f"{kinds} in {count} of {array.size} elements"
