"""What a Keras model is called with, as examples for tracing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

_BATCH, _OPEN = 2, 32  # of examples along the axis of examples, and along others that are open


def examples_of(
    model: Any, shapes: Mapping[str, Sequence[Any]]
) -> tuple[list[str], tuple[Any, ...], tuple[dict[int, Any], ...]] | None:
    """The names of a model's inputs, a tensor for each, and its open axes as torch.export takes them; None where the
    model does not say what it takes (one that was subclassed and not built from inputs). shapes: by names; a number
    fixes an open axis. Raises ValueError for shapes that do not fit.
    """
    try:
        inputs = list(model.inputs)
    except (AttributeError, ValueError, TypeError):
        return None
    if not inputs:
        return None
    names = [str(each.name) for each in inputs]
    if unknown := sorted(set(shapes) - set(names)):
        raise ValueError(f"there is no input {', '.join(unknown)}; there are {', '.join(names)}")
    examples, open_axes = [], []
    for each in inputs:
        dims = _fixed(str(each.name), list(each.shape), shapes.get(str(each.name)))
        shape = [d if d is not None else _BATCH if axis == 0 else _OPEN for axis, d in enumerate(dims)]
        examples.append(torch.zeros(shape, dtype=getattr(torch, str(each.dtype), torch.float32)))
        named = {axis: torch.export.Dim.AUTO for axis, d in enumerate(dims) if d is None}
        open_axes.append({axis: torch.export.Dim("batch") if axis == 0 else auto for axis, auto in named.items()})
    return names, tuple(examples), tuple(open_axes)


@dataclass(frozen=True)
class CallExamples:
    """What a model is called with, in the structure that it takes, and its open axes as torch.export takes them; names
    and open axes of the single inputs.
    """

    args: tuple[Any, ...]
    dynamic_shapes: dict[str, Any]
    names: list[str]
    open_axes: tuple[dict[int, Any], ...]


def call_examples(model: Any, shapes: Mapping[str, Sequence[Any]]) -> CallExamples | None:
    """The same for a model that is called itself. None and errors as of `examples_of`."""
    found = examples_of(model, shapes)
    if found is None:
        return None
    names, tensors, open_axes = found
    taken = getattr(model, "_inputs_struct", None)  # a Sequential has none
    if taken is None:
        taken = model.inputs[0] if len(names) == 1 else list(model.inputs)

    leaves, structure = pytree.tree_flatten(taken)  # torch's order of them, which Keras sorts where they have keys
    order = [names.index(str(leaf.name)) for leaf in leaves]
    axes = tuple(open_axes[at] for at in order)
    args, dynamic = ([structure.unflatten([each[at] for at in order])] for each in (tensors, open_axes))
    return CallExamples(tuple(args), {"args": tuple(dynamic)}, [names[at] for at in order], axes)


def _fixed(name: str, dims: list[int | None], asked: Sequence[Any] | None) -> list[int | None]:
    """The extents of an input; an open one is what was asked for, where that is a number."""
    if asked is None:
        return dims
    if len(asked) != len(dims):
        raise ValueError(f"input {name!r} has {len(dims)} axes, {len(asked)} are given")
    for axis, (own, wanted) in enumerate(zip(dims, asked, strict=True)):
        if isinstance(wanted, int) and own is not None and own != wanted:
            raise ValueError(f"input {name!r}: axis {axis} is {own}, {wanted} was asked for")
    return [wanted if own is None and isinstance(wanted, int) else own for own, wanted in zip(dims, asked, strict=True)]


def closed_axes(program: Any, names: Sequence[str], open_axes: Sequence[Mapping[int, Any]]) -> str:
    """Which axes that were to stay open have been fixed while an exported program was traced; "" for none."""
    said = {spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"}
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in said]
    return ", ".join(
        f"axis {axis} of input {name!r}"
        for name, node, axes in zip(names, nodes, open_axes, strict=True)
        for axis in axes
        if _is_number(node.meta["val"].shape[axis])
    )


def _is_number(size: Any) -> bool:
    return not isinstance(size, torch.SymInt) or bool(size.node.expr.is_number)
