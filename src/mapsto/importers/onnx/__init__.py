"""ONNX models to graphs: `load`."""

from __future__ import annotations

import os
from typing import Any

import mapsto.importers.onnx.rows
import mapsto.ops  # noqa: F401  (the rows build with the ops that this registers)
from mapsto.importers.onnx.inputs import Shapes
from mapsto.importers.onnx.reader import Budgets, read
from mapsto.importers.onnx.table import supported_ops
from mapsto.importers.onnx.translate import Translator
from mapsto.ir.graph import Graph

__all__ = ["Budgets", "load", "supported_ops"]


def load(
    source: str | os.PathLike[str] | bytes | Any, shapes: Shapes | None = None, budgets: Budgets | None = None
) -> Graph:
    """An ONNX model as a graph, shape-inferred and with its shape arithmetic folded away.

    source: a path, the bytes of a model, or an `onnx.ModelProto`. External data is read only for a path, from inside
    its folder.
    shapes: for some inputs, one entry an axis: an int fixes it, None leaves it as the model has it, a string names its
    symbol.
    Raises ModelError (malformed, or outside the budgets), UnsupportedError (all places at once), ShapeError (shapes do
    not fit).
    """
    budgets = budgets or Budgets()
    return Translator(read(source, budgets), budgets).model(shapes or {})
