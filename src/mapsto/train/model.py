"""The model that is trained: as it learns and as it infers, which of its constants are weights, and which of those are
moved, how fast.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from mapsto.arguments import brief, names_of, real, shapes_of
from mapsto.errors import ArgumentError, ShapeError
from mapsto.files import is_keras_file
from mapsto.importers.learnable import Learnable
from mapsto.ir.dtypes import from_numpy
from mapsto.ir.graph import Graph
from mapsto.passes import DeadCode
from mapsto.passes.gradient import as_inputs
from mapsto.session.compile import prepared


def learnable_of(model: Any, shapes: Any, example_inputs: Any, example_kwargs: Any) -> Learnable:
    """What `mapsto.compile` takes for a model, to be trained. Of a graph all float constants can be; those that its
    `weights` names are the usual ones.
    """
    if _is_module(model):
        return _of_module(model, shapes, example_inputs, example_kwargs)
    if example_inputs is not None or example_kwargs is not None:
        raise ArgumentError("example_inputs, example_kwargs: they are for modules of torch")
    if isinstance(model, Graph) or is_keras_file(model):
        graph = replace(prepared(model, shapes, (DeadCode(),)), updates=())  # states that a caller holds are inputs
        weights = trainable(graph)
        names = [*weights, *(name for name in trainable(graph, 1) if name not in weights)]
        arrays = {name: np.array(graph.constants[name], order="C") for name in names}
        opened = as_inputs(graph, names)
        return Learnable(opened, opened, arrays, weights)
    from mapsto.importers.onnx import load_learnable

    made = load_learnable(model, shapes)
    return replace(made, arrays={name: np.array(array, order="C") for name, array in made.arrays.items()})


def _is_module(model: Any) -> bool:
    """Whether a model is a module of torch, which whoever has one has imported."""
    torch = sys.modules.get("torch")
    return torch is not None and hasattr(torch, "nn") and isinstance(model, torch.nn.Module)


def _of_module(module: Any, shapes: Any, example_inputs: Any, example_kwargs: Any) -> Learnable:
    from mapsto.importers.torch.learning import load_learnable
    from mapsto.session.module import open_sizes

    if example_inputs is None and not example_kwargs:
        raise ArgumentError("a module of torch is traced with examples: example_inputs=(...), a tuple of tensors")
    given = example_inputs
    args = tuple(given) if isinstance(given, (tuple, list)) else () if given is None else (given,)
    wanted, kwargs = shapes_of(shapes), dict(example_kwargs or {})
    dynamic, named = open_sizes(module, args, kwargs, wanted) if wanted else (None, None)
    return load_learnable(module, args, kwargs, dynamic, named)


def with_constants(graph: Graph, arrays: Mapping[str, np.ndarray]) -> Graph:
    """The graph with some of its inputs as constants: what `as_inputs` undoes."""
    found = {value.name: arrays[value.name] for value in graph.inputs if value.name in arrays}
    inputs = tuple(value for value in graph.inputs if value.name not in found)
    return replace(graph, inputs=inputs, constants={**graph.constants, **found}, settled=False)


def trainable(graph: Graph, minimum: int = 2) -> tuple[str, ...]:
    """The float constants that are read as weights: those of at least `minimum` elements, in the order of their use."""
    used = dict.fromkeys(name for node in graph.walk() for name in node.inputs if name in graph.constants)
    arrays = {name: graph.constants[name] for name in used}
    return tuple(n for n, array in arrays.items() if array.size >= minimum and from_numpy(array.dtype).is_float)


def chosen(model: Learnable, parameters: Any, frozen: Any) -> tuple[str, ...]:
    """The weights to train: those that `parameters` names or matches (None: all of them), without the frozen ones.
    Raises ArgumentError for what is no list of names, ShapeError for a name that there is not.
    """
    statistics = model.statistics
    known = [name for name in model.arrays if name not in statistics]
    found = model.weights if parameters is None else _named(known, model.weights, parameters)
    patterns = names_of(frozen, "frozen")
    for pattern in patterns:
        _see(pattern, known, model.weights, "frozen")
    return tuple(name for name in found if not any(fnmatchcase(name, pattern) for pattern in patterns))


def _named(known: Sequence[str], weights: Sequence[str], parameters: Any) -> tuple[str, ...]:
    patterns = names_of(parameters, "parameters")
    if not patterns:
        raise ArgumentError(f"parameters: expected names of constants, got {brief(parameters)}")
    found: dict[str, None] = {}
    for pattern in patterns:
        _see(pattern, known, weights, "parameters")
        found.update(dict.fromkeys([pattern] if pattern in known else _fitting(pattern, weights)))
    return tuple(found)


def _see(pattern: str, constants: Sequence[str], weights: Sequence[str], what: str) -> None:
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
    """The output of a model in inference that the loss is taken of."""
    if name is None and len(model.outputs) == 1:
        return model.outputs[0]
    if name not in model.outputs:
        said = "say which" if name is None else f"there is no output {name!r}"
        raise ShapeError(f"the model has the outputs {', '.join(model.outputs)}: {said}: output=...")
    return str(name)
