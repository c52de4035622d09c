"""Modules of torch that are to be trained: traced once in training and once in evaluation, weights as inputs that are
the module's own memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from mapsto.budget import Budget, metering
from mapsto.errors import UnsupportedError
from mapsto.importers.learnable import Learnable
from mapsto.importers.torch.exported import TracedProgram, exported
from mapsto.importers.torch.keras_learning import as_learning
from mapsto.importers.torch.tensors import array_of
from mapsto.importers.torch.translate import RUN, Imported, Supplied, translate
from mapsto.ir.graph import Graph


def load_learnable(
    module: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    named: Any = None,
    budget: Budget | Mapping[str, float] | None = None,
) -> Learnable:
    """A `torch.nn.Module` that is to be trained. Weights are those parameters that a gradient is asked of, by their
    names in the module; statistics are the buffers that it writes in training.

    args, kwargs: examples of what it is called with; dynamic_shapes, named: the sizes that stay open, as `exported` has
    them. Inputs have the names of the arguments; the result is called `output`, several by their keys or places.
    Raises UnsupportedError for what cannot be trained, and what the import of a module raises.
    """
    name = type(module).__name__
    module = as_learning(module, args, kwargs or {})
    held = _held(module)
    programs = []
    for is_training in (True, False):
        with _mode(module, is_training):
            programs.append(exported(module, args, kwargs, dynamic_shapes, named))
    training, inference = programs
    written = {name for kind, name in training.results if kind == "buffer"}
    wrong = [name for kind, name in training.results if kind == "input"]
    if wrong:
        raise UnsupportedError(f"the module writes into its input {wrong[0]!r}, which cannot be trained; copy it first")
    weights = tuple(
        name for name, tensor in held.items() if isinstance(tensor, torch.nn.Parameter) and tensor.requires_grad
    )
    opened = {*weights, *written}
    with metering(budget), np.errstate(all="ignore"):
        graphs = [_graph(program, name, held, opened, program is training) for program in programs]
    read = {value.name for graph in graphs for value in graph.inputs}
    arrays = {name: _memory(held[name]) for name in held if name in opened & read}
    run = RUN if any(value.name == RUN for value in graphs[0].inputs) else ""
    return Learnable(graphs[1], graphs[0], arrays, tuple(name for name in weights if name in read), run)


def _held(module: Any) -> dict[str, Any]:
    """Parameters and buffers by name, each once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@contextmanager
def _mode(module: Any, is_training: bool) -> Iterator[None]:
    """Every part of a module in training, or in evaluation, and then as it was."""
    before = {each: each.training for each in module.modules()}
    module.train(is_training)
    try:
        yield
    finally:
        for each, was in before.items():
            each.training = was


def _memory(tensor: Any) -> np.ndarray:
    """The memory of a tensor, which lies there in order from now on."""
    if not tensor.is_contiguous():
        tensor.data = tensor.data.contiguous()
    return array_of(tensor)


def _graph(
    program: TracedProgram, name: str, held: Mapping[str, Any], opened: set[str], is_training: bool
) -> Graph:
    names = _result_names(program)
    imported = translate(
        program.exported.graph_module, _feeds(program, held, opened), name, program.names, names, learns=True
    )
    if imported.drawn:
        raise UnsupportedError(
            f"{imported.drawn[0].name}: random numbers other than those of dropout are not supported in training"
        )
    return _without_writes(program, imported, names, is_training)


def _feeds(program: TracedProgram, held: Mapping[str, Any], opened: set[str]) -> list[Supplied]:
    """Placeholders by the first name that their tensor has in the module; those that are opened as inputs."""
    first = {id(tensor): name for name, tensor in held.items()}
    found = []
    for feed in program.feeds:
        name = first.get(id(feed.held), feed.name) if feed.held is not None else feed.name
        found.append(replace(feed, name=name, held=None if name in opened else feed.held))
    return found


def _result_names(program: TracedProgram) -> list[str]:
    """A name for each result: what is written is called as what it is written to."""
    spec = program.exported.call_spec.out_spec
    tree = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    paths = [".".join(_key(key) for key in path) for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    own = iter(["output"] if spec.is_leaf() else paths if isinstance(tree, dict) else [f"output.{p}" for p in paths])
    return [next(own) if kind == "output" else f"{target}.updated" for kind, target in program.results]


def _key(key: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _without_writes(program: TracedProgram, imported: Imported, names: Sequence[str], is_training: bool) -> Graph:
    """The graph whose writes are updates in training, and are left out else."""
    graph = imported.graph
    inputs = {value.name for value in graph.inputs}
    outputs, updates = [], []
    for result, (kind, target) in zip(imported.results, program.results, strict=True):
        if result.at is None:
            if kind == "output":
                raise UnsupportedError("a result that is an argument or a number cannot be trained; give tensors")
            continue
        made = graph.outputs[result.at]
        if kind == "output":
            outputs.append(made)
        elif is_training and target in inputs:
            updates.append((target, made))
    kept = tuple(dict.fromkeys((*outputs, *(made for _, made in updates))))
    return replace(graph, outputs=kept, updates=tuple(updates))
