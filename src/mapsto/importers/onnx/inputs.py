"""The inputs of a model as typed values: element types, ranks, and which dims are fixed and which are symbols."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import onnx

from mapsto.arguments import Shapes
from mapsto.budget import current
from mapsto.errors import ModelError, ShapeError, UnsupportedError
from mapsto.importers.onnx.defaults import check_overridable
from mapsto.importers.onnx.tensors import dtype_of
from mapsto.ir.expr import Dim, sym
from mapsto.ops.builder import Builder

# The longest name of a symbol: it stands in every expression of it.
_SYMBOL = 200


def add_inputs(builder: Builder, graph: Any, shapes: Shapes, overridable: Collection[str] = ()) -> dict[str, str]:
    """Adds the inputs that have no initializer, then those whose initializer is `overridable`: only a default. Gives
    the names of those that are not supported, and why. Raises ShapeError where `shapes` does not fit them.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    check_overridable(overridable, constants)
    declared = {entry.name: entry for entry in graph.input}
    inputs = [
        *(entry for entry in graph.input if entry.name not in constants),
        *(declared.get(name) or _entry_of(constants[name]) for name in dict.fromkeys(overridable)),
    ]
    unknown = sorted(set(shapes) - {entry.name for entry in inputs})
    if unknown:
        known = ", ".join(entry.name for entry in inputs)
        raise ShapeError(f"shapes: the model has no input named {', '.join(unknown)}; its inputs are {known}")
    refused: dict[str, str] = {}
    symbols = _Symbols(builder, {entry.name for entry in (*graph.input, *graph.output)})
    for entry in inputs:
        where = f"input {entry.name!r}"
        if not entry.name or entry.name in builder.values or entry.name in refused:
            raise ModelError(f"{where}: the name is empty or not unique")
        kind = entry.type.WhichOneof("value")
        if kind != "tensor_type":
            refused[entry.name] = (
                f"{where}: a {kind or 'value without a type'} is not supported; only dense tensors are"
            )
            continue
        tensor = entry.type.tensor_type
        try:
            dtype = dtype_of(tensor.elem_type, where)
        except UnsupportedError as error:
            refused[entry.name] = str(error)
            continue
        current().check("rank", len(tensor.shape.dim), where)
        dims = _shape(entry.name, tensor, shapes.get(entry.name), symbols)
        builder.input(entry.name, dtype, dims)
    return refused


def _entry_of(tensor: Any) -> Any:
    """An initializer as the input that it is the default of."""
    return onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tuple(tensor.dims))


class _Symbols:
    """Symbols by their name in the model; names of values are kept free."""

    def __init__(self, builder: Builder, taken: set[str]) -> None:
        self.builder = builder
        self.taken = taken
        self.by_name: dict[str, Dim] = {}

    def named(self, name: str) -> Dim:
        """The symbol that a model calls `name`: one for each name."""
        if name not in self.by_name:
            self.by_name[name] = self.fresh(name)
        return self.by_name[name]

    def fresh(self, hint: str) -> Dim:
        clean = re.sub(r"\W", "_", hint[:_SYMBOL], flags=re.ASCII).strip("_") or "n"
        clean = f"n{clean}" if clean[0].isdigit() else clean
        while clean in self.taken:
            clean += "_"
        return sym(self.builder.fresh(clean))


def _shape(name: str, tensor: Any, asked: Sequence[int | str | None] | None, symbols: _Symbols) -> list[Dim]:
    declared = list(tensor.shape.dim) if tensor.HasField("shape") else None
    if declared is None and asked is None:
        raise ShapeError(
            f"input {name!r}: the model does not say how many axes it has; give its shape: shapes={{{name!r}: (...)}}"
        )
    if declared is not None and asked is not None and len(declared) != len(asked):
        raise ShapeError(
            f"input {name!r}: shape {tuple(asked)} has {len(asked)} axes, the model's input has {len(declared)}"
        )
    count = len(declared) if declared is not None else len(asked or ())
    return [
        _dim(name, axis, declared[axis] if declared else None, asked[axis] if asked is not None else None, symbols)
        for axis in range(count)
    ]


def _dim(name: str, axis: int, declared: Any, asked: int | str | None, symbols: _Symbols) -> Dim:
    fixed = int(declared.dim_value) if declared is not None and declared.HasField("dim_value") else 0
    if asked is not None and not isinstance(asked, str):
        if fixed > 0 and asked != fixed:
            raise ShapeError(f"input {name!r}: axis {axis} is {fixed} in the model, {asked} was asked for")
        return asked
    if fixed > 0:
        return fixed
    if asked is not None:
        return symbols.named(asked)
    label = declared.dim_param if declared is not None else ""
    # exporters write 0, -1, an empty name or "unk..." where they do not know: each such axis is on its own
    return (
        symbols.named(label)
        if label and not label.startswith("unk") and label != "?"
        else symbols.fresh(f"{name}_d{axis}")
    )
