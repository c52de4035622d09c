"""Small ONNX models for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Shape = Sequence[int | str | None]


def port(name: str, shape: Shape | None, dtype: Any = np.float32) -> Any:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


def model(
    nodes: Sequence[Any],
    inputs: Mapping[str, Shape | None] | Sequence[Any],
    outputs: Sequence[str] = ("y",),
    constants: Mapping[str, np.ndarray] | None = None,
    opset: int = 18,
    functions: Sequence[Any] = (),
) -> Any:
    """A model of these nodes. Output types are left out: they are only hints."""
    ports = [port(n, s) for n, s in inputs.items()] if isinstance(inputs, Mapping) else list(inputs)
    graph = helper.make_graph(
        list(nodes),
        "test",
        ports,
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    domains = sorted({f.domain for f in functions})
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=9)


def node(op: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), name: str = "", **attributes: Any) -> Any:
    return helper.make_node(op, list(inputs), list(outputs), name=name, **attributes)


def graph(nodes: Sequence[Any], outputs: Sequence[str], constants: Mapping[str, np.ndarray] | None = None) -> Any:
    """A graph without inputs, for a branch."""
    tensors = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    return helper.make_graph(list(nodes), "branch", [], [onnx.ValueInfoProto(name=n) for n in outputs], tensors)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)
