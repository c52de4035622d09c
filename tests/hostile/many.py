"""Files with very many parts of one kind: inputs, outputs, operands, initializers, functions, links of a chain.

What takes time in proportion to them is in order, what takes their square is not.
"""

from __future__ import annotations

import itertools
import tempfile
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.hostile.growing import function
from tests.importers.models import graph, ints, model, node, port

Model = Any
MANY = 10_000


def empty_initializers() -> Model:
    made = model([node("Relu", ["x"], ["y"])], {"x": [2]})
    made.graph.initializer.extend(
        TensorProto(name=f"w{k}", data_type=TensorProto.FLOAT, dims=[0]) for k in range(300_000)
    )
    return made


def many_inputs() -> Model:
    return model([node("Relu", ["x0"], ["y"])], {f"x{k}": [2] for k in range(MANY)})


def many_outputs() -> Model:
    return model([node("Relu", ["x"], ["y"])], {"x": [2]}, [f"y{k}" for k in range(MANY)])


def one_output_many_times() -> Model:
    return model([node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"] * MANY)


def inputs_to_outputs() -> Model:
    nodes = [node("Identity", ["x"], [f"y{k}"]) for k in range(3000)]
    return model(nodes, {"x": [2]}, [f"y{k}" for k in range(3000)])


def a_node_of_many_inputs() -> Model:
    return model([node("Add", ["x"] * 100_000, ["y"])], {"x": [2]})


def a_node_of_many_outputs() -> Model:
    return model([node("Relu", ["x"], [f"y{k}" for k in range(MANY)])], {"x": [2]}, ["y0"])


def concat_of_many() -> Model:
    return model([node("Concat", ["x"] * 4000, ["y"], axis=0)], {"x": [2]})


def sum_of_many() -> Model:
    return model([node("Sum", ["x"] * 5_000, ["y"])], {"x": [2]})


def einsum_of_many_operands() -> Model:
    return model([node("Einsum", ["x"] * 300, ["y"], equation=",".join(["ij"] * 300) + "->ij")], {"x": [2, 2]})


def graph_of_many_inputs() -> Model:
    return model([node("Relu", ["x0"], ["y"])], {f"x{k}": [2] for k in range(100_000)})


def graph_of_many_open_inputs() -> Model:
    return model([node("Relu", ["x0"], ["y"])], {f"x{k}": [f"d{k}"] for k in range(MANY)})


def initializers_that_are_inputs() -> Model:
    made = model([node("Relu", ["x"], ["y"])], {"x": [2]}, constants={f"w{k}": ints(k) for k in range(2 * MANY)})
    made.graph.input.extend(port(f"w{k}", [1], np.int64) for k in range(2 * MANY))
    return made


def types_of_values() -> Model:
    made = model([node("Relu", ["x"], ["y"])], {"x": [2]})
    made.graph.value_info.extend(port(f"v{k}", [2]) for k in range(50_000))
    return made


def many_operator_sets() -> Model:
    made = model([node("Relu", ["x"], ["y"])], {"x": [2]})
    made.opset_import.extend(helper.make_opsetid(f"d{k}", 1) for k in range(100_000))
    return made


def metadata() -> Model:
    made = model([node("Relu", ["x"], ["y"])], {"x": [2]})
    for properties in (made.metadata_props, made.graph.node[0].metadata_props):
        properties.extend(onnx.StringStringEntryProto(key=f"k{k}", value="v") for k in range(50_000))
    return made


def many_functions() -> Model:
    made = [function(f"F{k}", [node("Relu", ["a"], ["b"])]) for k in range(2 * MANY)]
    return model([node("Relu", ["x"], ["y"])], {"x": [2]}, functions=made)


def many_attributes() -> Model:
    made = model([node("Relu", ["x"], ["y"])], {"x": [2]})
    made.graph.node[0].attribute.extend(helper.make_attribute(f"a{k}", 1) for k in range(50_000))
    return made


def many_constants() -> Model:
    nodes = [node("Constant", [], [f"c{k}"], value_float=1.0) for k in range(MANY)]
    return model([*nodes, node("Neg", ["x"], ["y"])], {"x": [2]})


def unknown_ops() -> Model:
    return model([node("Nope", ["x"], [f"c{k}"]) for k in range(3 * MANY)], {"x": [2]}, ["c0"])


def what_nothing_reads() -> Model:
    nodes = [node("Relu", [f"v{k}"], [f"v{k + 1}"]) for k in range(MANY)]
    return model([*nodes, node("Neg", ["v0"], ["y"])], {"v0": [2]})


def _chain(op: str, count: int, *attributes: dict[str, Any]) -> Model:
    nodes = [node(op, [f"v{k}"], [f"v{k + 1}"], **attributes[k % len(attributes)]) for k in range(count)]
    return model(nodes, {"v0": [2, 3]}, [f"v{count}"])


def a_chain_that_passes_on() -> Model:
    return _chain("Identity", 3 * MANY, {})


def a_chain_of_casts() -> Model:
    return _chain("Cast", MANY, {"to": TensorProto.DOUBLE}, {"to": TensorProto.FLOAT})


def a_chain_of_transposes() -> Model:
    return _chain("Transpose", 6000, {"perm": [1, 0]})


def a_chain_of_sizes() -> Model:
    nodes = [node("Add", [f"s{k}", "one"], [f"s{k + 1}"]) for k in range(MANY)]
    nodes = [node("Shape", ["x"], ["s0"]), *nodes, node("ConstantOfShape", [f"s{MANY}"], ["y"])]
    return model(nodes, {"x": ["n"]}, constants={"one": ints(1)})


def branches_of_many_outputs() -> Model:
    names = [f"y{k}" for k in range(2000)]
    branches = [graph([node(op, ["x"], [op])], [op] * len(names)) for op in ("Relu", "Neg")]
    made = node("If", ["p"], names, then_branch=branches[0], else_branch=branches[1])
    return model([made], [port("x", [2]), port("p", [], np.bool_)], names)


def _of_many(op: str, count: int = 100_000, **attributes: Any) -> Model:
    return model([node(op, ["x"] * count, ["y"], **attributes)], {"x": [2]})


def concat_of_100_000() -> Model:
    return _of_many("Concat", axis=0)


def max_of_100_000() -> Model:
    return _of_many("Max")


def mean_of_100_000() -> Model:
    return _of_many("Mean")


def sum_of_20_000() -> Model:
    return _of_many("Sum", 20_000)


def einsum_of_5_000() -> Model:
    return _of_many("Einsum", 5000, equation=",".join(["ij"] * 5000) + "->ij")


def split_into_100_000() -> Model:
    return model([node("Split", ["x"], [f"y{k}" for k in range(100_000)], axis=0)], {"x": [100_000]}, ["y0"])


def sizes_put_together() -> Model:
    nodes = [node("Shape", ["x"], ["s"]), node("Concat", ["s"] * 4000, ["c"], axis=0), node("Neg", ["c"], ["y"])]
    return model(nodes, {"x": ["n"]})


def _calls(made: Any, count: int = MANY) -> Model:
    nodes = [node("F", [f"v{k}"], [f"v{k + 1}"], domain="f") for k in range(count)]
    return model(nodes, {"v0": [2]}, [f"v{count}"], functions=[made])


def calls_of_one_node() -> Model:
    return _calls(function("F", [node("Relu", ["a"], ["b"])]), 4000)


def a_function_of_many_inputs() -> Model:
    made = function("F", [node("Relu", ["a"], ["b"])])
    made.input.extend(f"a{k}" for k in range(MANY))
    return _calls(made)


def a_function_of_many_operator_sets() -> Model:
    made = function("F", [node("Relu", ["a"], ["b"])])
    made.opset_import.extend(helper.make_opsetid(f"d{k}", 1) for k in range(MANY))
    return _calls(made)


def a_function_of_long_names() -> Model:
    return _calls(function("F", [node("Relu", ["a"], ["b" * 16_000]), node("Relu", ["b" * 16_000], ["b"])]))


def a_function_of_long_attributes() -> Model:
    body = node("Transpose", ["a"], ["b"], perm=[0] * MANY)
    body.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="given", type=onnx.AttributeProto.FLOAT))
    return _calls(function("F", [body]))


def many_defaults() -> Model:
    """2,000 nodes refer to one of 20,000 defaults."""
    names = ["a", *(f"v{k}" for k in range(1, 2000)), "b"]
    body = [node("Elu", [a], [b]) for a, b in itertools.pairwise(names)]
    for each in body:
        each.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="a5", type=onnx.AttributeProto.FLOAT))
    made = function("F", body)
    made.attribute_proto.extend(helper.make_attribute(f"a{k}", 1.0) for k in range(2 * MANY))
    return _calls(made, 1)


def tensors_of_one_region() -> str:
    """A model and 64 MB of zeros beside it that 300 tensors name; the path of the model."""
    folder = tempfile.mkdtemp()
    with open(f"{folder}/data", "wb") as file:
        file.truncate(1 << 26)
    made = model([node("Add", [f"v{k}", f"w{k}"], [f"v{k + 1}"]) for k in range(300)], {"v0": [1 << 24]}, ["v300"])
    for k in range(300):
        tensor = TensorProto(name=f"w{k}", data_type=TensorProto.FLOAT, dims=[1 << 24])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="data")
        made.graph.initializer.append(tensor)
    onnx.save(made, f"{folder}/model.onnx")
    return f"{folder}/model.onnx"


CASES = [
    empty_initializers, many_inputs, many_outputs, one_output_many_times, inputs_to_outputs, a_node_of_many_inputs,
    a_node_of_many_outputs, concat_of_many, sum_of_many, einsum_of_many_operands, graph_of_many_inputs,
    graph_of_many_open_inputs, initializers_that_are_inputs, types_of_values, many_operator_sets, metadata,
    many_functions, many_attributes, many_constants, unknown_ops, what_nothing_reads, a_chain_that_passes_on,
    a_chain_of_casts, a_chain_of_transposes, a_chain_of_sizes, branches_of_many_outputs, concat_of_100_000,
    max_of_100_000, mean_of_100_000, sum_of_20_000, einsum_of_5_000, split_into_100_000, sizes_put_together,
    calls_of_one_node, a_function_of_many_inputs, a_function_of_many_operator_sets, a_function_of_long_names,
    a_function_of_long_attributes, many_defaults, tensors_of_one_region,
]  # fmt: skip
