"""Files whose nodes stand in another order than they run in."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mapsto.errors import ModelError
from mapsto.importers.onnx import load
from mapsto.ops.interpret import run_graph


def model(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_nodes_at_the_end_that_the_first_ones_read() -> None:
    nodes = [
        helper.make_node("Neg", ["c"], ["d"]),
        helper.make_node("Add", ["d", "x"], ["y"]),
        helper.make_node("Sqrt", ["b"], ["c"]),
        helper.make_node("Abs", ["x"], ["b"]),
    ]
    x = np.array([1, -4, 9], np.float32)
    np.testing.assert_array_equal(run_graph(load(model(nodes)), {"x": x})["y"], x - np.sqrt(np.abs(x)))


def test_what_a_branch_reads_comes_before_it() -> None:
    def arm(name: str, op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, [3])
        return helper.make_graph([helper.make_node(op, ["late"], [name])], name, [], [out])

    nodes = [
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True])),
        helper.make_node("If", ["yes"], ["y"], then_branch=arm("p", "Neg"), else_branch=arm("q", "Abs")),
        helper.make_node("Exp", ["x"], ["late"]),
    ]
    x = np.array([0, 1, 2], np.float32)
    np.testing.assert_allclose(run_graph(load(model(nodes)), {"x": x})["y"], -np.exp(x), rtol=1e-6)


def test_a_circle_is_an_error() -> None:
    nodes = [helper.make_node("Neg", ["b"], ["y"]), helper.make_node("Abs", ["y"], ["b"])]
    with pytest.raises(ModelError, match="nothing before it defines"):
        load(model(nodes))
