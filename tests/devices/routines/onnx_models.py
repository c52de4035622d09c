"""One-node ONNX models, run by onnxruntime: recurrent networks by an author other than ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

_TYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "int32": TensorProto.INT32}


def run_onnxruntime(
    op: str, arrays: Mapping[str, np.ndarray | None], outputs: int, attrs: Mapping[str, Any]
) -> list[np.ndarray]:
    """The outputs of a model of one node without optimisations."""
    names = [name if array is not None else "" for name, array in arrays.items()]
    while not names[-1]:
        names.pop()
    outs = [f"out{i}" for i in range(outputs)]
    node = helper.make_node(op, names, outs, **attrs)
    given = {name: array for name, array in arrays.items() if array is not None}
    inputs = [helper.make_tensor_value_info(n, _TYPES[str(a.dtype)], a.shape) for n, a in given.items()]
    results = [helper.make_tensor_value_info(n, _TYPES[str(arrays["x"].dtype)], None) for n in outs]
    graph = helper.make_graph([node], "one", inputs, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(outs, given)
