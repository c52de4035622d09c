"""The models that onnx ships without their weights, as exporters of Caffe2 wrote them: IR version 3, each initializer a
graph input as well. With weights of He's scale they compile, and agree with ONNX Runtime.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import mapsto
from mapsto.report.accuracy import judge

onnxruntime = pytest.importorskip("onnxruntime")

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
MODELS = sorted(path.stem for path in FOLDER.glob("light_*.onnx"))


def weighted(name: str) -> Any:
    """The model with each tensor that a ConstantOfShape stands for as an initializer, normal numbers of variance 2 over
    the number of inputs; variances of batch normalisation are above 1.
    """
    model = onnx.load(FOLDER / f"{name}.onnx")
    graph, rng = model.graph, np.random.default_rng(1)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    variances = {node.input[4] for node in graph.node if node.op_type == "BatchNormalization"}
    kept = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    for node in graph.node:
        if node.op_type != "ConstantOfShape":
            continue
        shape = tuple(int(d) for d in shapes[node.input[0]])
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        array = (scale * rng.standard_normal(shape)).astype(np.float32)
        array = np.abs(array) + 1 if node.output[0] in variances else array
        graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        graph.input.append(helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, shape))
    del graph.node[:]
    graph.node.extend(kept)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_the_zoo(name: str) -> None:
    model = weighted(name)
    constants = {tensor.name for tensor in model.graph.initializer}
    (entry,) = (entry for entry in model.graph.input if entry.name not in constants)
    shape = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
    feeds = {entry.name: np.random.default_rng(2).standard_normal(shape).astype(np.float32)}
    found = mapsto.compile(model).run(feeds)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = dict(zip(found, session.run(None, feeds), strict=True))
    assert all(np.ptp(array) > 0 for array in wanted.values())
    assert all(verdict.ok for verdict in judge(wanted, found))
