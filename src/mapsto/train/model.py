"""The model that is trained: which of its constants are weights, and which of those are moved, how fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from mapsto.arguments import brief, names_of, real
from mapsto.errors import ArgumentError, ShapeError
from mapsto.ir.dtypes import from_numpy
from mapsto.ir.graph import Graph


def trainable(graph: Graph, minimum: int = 2) -> tuple[str, ...]:
    """The float constants that are read as weights: those of at least `minimum` elements, in the order of their use."""
    used = dict.fromkeys(name for node in graph.walk() for name in node.inputs if name in graph.constants)
    arrays = {name: graph.constants[name] for name in used}
    return tuple(n for n, array in arrays.items() if array.size >= minimum and from_numpy(array.dtype).is_float)


def chosen(model: Graph, weights: Sequence[str], parameters: Any, frozen: Any) -> tuple[str, ...]:
    """The constants to train: those that `parameters` names or matches (None: all weights), without the frozen ones.
    Raises ArgumentError for what is no list of names, ShapeError for a name that there is not.
    """
    found = weights if parameters is None else _named(model, weights, parameters)
    patterns = names_of(frozen, "frozen")
    for pattern in patterns:
        _see(pattern, model.constants, weights, "frozen")
    return tuple(name for name in found if not any(fnmatchcase(name, pattern) for pattern in patterns))


def _named(model: Graph, weights: Sequence[str], parameters: Any) -> tuple[str, ...]:
    patterns = names_of(parameters, "parameters")
    if not patterns:
        raise ArgumentError(f"parameters: expected names of constants, got {brief(parameters)}")
    found: dict[str, None] = {}
    for pattern in patterns:
        _see(pattern, model.constants, weights, "parameters")
        found.update(dict.fromkeys([pattern] if pattern in model.constants else _fitting(pattern, weights)))
    wrong = [name for name in found if not from_numpy(model.constants[name].dtype).is_float]
    if wrong:
        raise ShapeError(f"parameters: {', '.join(wrong)} holds no floats: it cannot be trained")
    return tuple(found)


def _see(pattern: str, constants: Mapping[str, Any], weights: Sequence[str], what: str) -> None:
    if pattern not in constants and not _fitting(pattern, weights):
        raise ShapeError(
            f"{what}: the model has no constant named {pattern}; its float constants are {', '.join(weights)}"
        )


def _fitting(pattern: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if fnmatchcase(name, pattern)]


def factors_of(names: Sequence[str], rates: Any) -> dict[str, float]:
    """The factor of the rate of each parameter that a pattern fits; of several, the last. Raises ArgumentError,
    ShapeError for a pattern that fits none.
    """
    if rates is None:
        return {}
    if not isinstance(rates, Mapping):
        raise ArgumentError(f"rates: expected a dict of factors by pattern, got {brief(rates)}")
    found: dict[str, float] = {}
    for pattern, factor in rates.items():
        number = real(factor)
        if not isinstance(pattern, str) or number is None or not 0 <= number < float("inf"):
            raise ArgumentError(f"rates: {brief(pattern)}: {brief(factor)} is no finite factor of at least 0")
        fitting = _fitting(pattern, names)
        if not fitting:
            raise ShapeError(f"rates: {pattern} fits no parameter; there are {', '.join(names)}")
        found.update(dict.fromkeys(fitting, number))
    return found


def output_of(model: Graph, name: Any) -> str:
    """The output that the loss is taken of."""
    if name is None and len(model.outputs) == 1:
        return model.outputs[0]
    if name not in model.outputs:
        said = "say which" if name is None else f"there is no output {name!r}"
        raise ShapeError(f"the model has the outputs {', '.join(model.outputs)}: {said}: output=...")
    return str(name)
