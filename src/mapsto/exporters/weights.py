"""A model with the numbers that training found, as the ONNX file that it came from: every node, name and shape of it
stays, initializers are replaced.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from mapsto.arguments import brief
from mapsto.boundary import public
from mapsto.budget import Budget, metering
from mapsto.errors import ArgumentError, ShapeError
from mapsto.importers.onnx import Source, read
from mapsto.importers.onnx.tensors import TensorReader

_MOST_SHOWN = 6


@public
def with_weights(
    model: Any,
    arrays: Mapping[str, np.ndarray],
    data_root: str | os.PathLike[str] | None = None,
    budget: Budget | Mapping[str, float] | None = None,
    *,
    resized: bool = False,
) -> bytes:
    """The bytes of the ONNX file with `arrays` in the place of the initializers of these names. What lies in other
    files comes along.

    model: a path, the bytes of an ONNX file, or an `onnx.ModelProto`, which is not changed. resized: arrays may have
    other extents than the initializers (another head); what the file says of the shapes of outputs then follows.
    Raises ModelError, ShapeError for names that are no initializers and for arrays of another shape or type,
    ArgumentError for what is no dict of arrays and for a model that is too large for one file.
    """
    if not isinstance(arrays, Mapping):
        raise ArgumentError(f"arrays: expected a dict by the initializers' names, got {brief(arrays)}")
    with metering(budget):
        source = read(model, data_root, whole=True)
        made = onnx.ModelProto()
        made.CopyFrom(source.model)
        changed = _replace(made.graph, source, arrays, resized)
        if changed:
            made = _with_other_shapes(made, source.name)
    try:
        return bytes(made.SerializeToString())
    except ValueError as error:  # of protobuf: 2 GiB
        raise ArgumentError(f"the model is too large for one ONNX file ({error})") from None


def _replace(graph: Any, source: Source, arrays: Mapping[str, np.ndarray], resized: bool) -> bool:
    """Replaces the initializers; whether one has another shape now."""
    own = {tensor.name: tensor for tensor in graph.initializer}
    unknown = [name for name in arrays if name not in own]
    if unknown:
        raise ShapeError(
            f"{source.name}: has no initializer {', '.join(unknown[:_MOST_SHOWN])}; "
            f"there are {', '.join(list(own)[:_MOST_SHOWN]) or 'none'}"
        )
    reader, changed = TensorReader(source.files), False
    for name, tensor in own.items():
        if name in arrays:
            array = np.asarray(arrays[name])
            before = reader.array(tensor, f"initializer {name}")
            other = array.shape != before.shape
            if array.dtype != before.dtype or (other and (not resized or array.ndim != before.ndim)):
                raise ShapeError(
                    f"{name}: {array.dtype}{list(array.shape)} was given; the file has {before.dtype}"
                    f"{list(before.shape)}"
                )
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
            changed = changed or other
        elif tensor.data_location == TensorProto.EXTERNAL:
            tensor.CopyFrom(numpy_helper.from_array(reader.array(tensor, f"initializer {name}"), name))
    return changed


def _with_other_shapes(model: Any, name: str) -> Any:
    """The model whose values have the shapes that follow from its initializers. Raises ShapeError where none do."""
    graph = model.graph
    del graph.value_info[:]
    shapes = {tensor.name: tensor.dims for tensor in graph.initializer}
    for entry in graph.input:  # old files list initializers there as well
        if entry.name in shapes:
            dims = entry.type.tensor_type.shape.dim
            for dim, extent in zip(dims, shapes[entry.name], strict=True):
                dim.dim_value = extent
    before = {entry.name: entry.type.tensor_type.elem_type for entry in graph.output}
    for entry in graph.output:
        entry.CopyFrom(onnx.helper.make_tensor_value_info(entry.name, before[entry.name], None))
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)
    except Exception as error:  # of onnx, which has several
        raise ShapeError(f"{name}: the model does not take weights of these shapes ({error})") from error
