"""ONNX models to graphs: `load`."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

import mapsto.importers.onnx.rows
import mapsto.ops  # noqa: F401  (the rows build with the ops that this registers)
from mapsto.arguments import Shapes, shapes_of
from mapsto.boundary import public
from mapsto.budget import Budget, metering
from mapsto.importers.learnable import Learnable
from mapsto.importers.onnx.defaults import default_arrays, default_names
from mapsto.importers.onnx.inputs import add_inputs
from mapsto.importers.onnx.learning import Learning, statistics_of, unmerged, weights_of
from mapsto.importers.onnx.reader import Source, read
from mapsto.importers.onnx.table import supported_ops
from mapsto.importers.onnx.tensors import TensorReader
from mapsto.importers.onnx.translate import Translator
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder

__all__ = [
    "Source",
    "declared_inputs",
    "default_arrays",
    "default_names",
    "load",
    "load_learnable",
    "read",
    "supported_ops",
]


def declared_inputs(source: Source, shapes: Shapes, overridable: Collection[str] = ()) -> tuple[Value, ...]:
    """The inputs that the graph of a model would have, without the graph. Raises as `load` does."""
    builder = Builder(source.name)
    add_inputs(builder, source.model.graph, shapes, overridable)
    return tuple(builder.inputs)


@public
def load(
    source: str | os.PathLike[str] | bytes | Any,
    shapes: Shapes | None = None,
    budget: Budget | Mapping[str, float] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    overridable: Collection[str] = (),
) -> Graph:
    """An ONNX model as a graph, shape-inferred and with its shape arithmetic folded away.

    source: a path, the bytes of a model, an `onnx.ModelProto`, or what `read` gave. External data is read only for a
    path, from inside its folder.
    data_root: a folder that symbolic links of external data may lead into (a download cache); None: links are refused.
    shapes: for some inputs, one entry an axis: an int fixes it, None leaves it as the model has it, a string names its
    symbol.
    budget: limits that differ from the defaults (None: those of the compile that is going on).
    overridable: initializers that become inputs, after the others, instead of constants.
    Raises ModelError (malformed), BudgetError, UnsupportedError (all places at once), ShapeError (shapes do not fit),
    ArgumentError.
    """
    wanted = shapes_of(shapes)
    with metering(budget), np.errstate(all="ignore"):
        return Translator(read(source, data_root)).model(wanted, overridable)


def load_learnable(
    source: str | os.PathLike[str] | bytes | Any,
    shapes: Shapes | None = None,
    budget: Budget | Mapping[str, float] | None = None,
    data_root: str | os.PathLike[str] | None = None,
) -> Learnable:
    """An ONNX model that is to be trained. Arguments and errors are those of `load`."""
    wanted = shapes_of(shapes)
    with metering(budget), np.errstate(all="ignore"):
        model = read(source, data_root)
        model = replace(model, model=unmerged(model.model, TensorReader(model.files)))
        weights, statistics = weights_of(model.model), statistics_of(model.model)
        names = (*weights, *statistics)
        learning = Learning(is_training=True)
        training = Translator(model, learning).model(wanted, names)
        inference = Translator(model, Learning(is_training=False)).model(wanted, names)
        moved = {source for source, _ in training.updates}  # those that functions hold among them
        weights = tuple(name for name in weights if name not in moved)
        return Learnable(inference, training, default_arrays(model, names), weights, learning.run_name)
