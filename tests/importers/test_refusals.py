"""What is wrong with a node is said by a check, and not by what stumbles over it: no row meets an IndexError, a
KeyError or a division by zero, whatever the ranks, extents and number of its inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mapsto.errors import InternalError, MapstoError
from mapsto.importers.onnx import load, supported_ops

ACCIDENTS = (KeyError, IndexError, AttributeError, TypeError, ZeroDivisionError, AssertionError)
SHAPES: list[tuple[int | str, ...]] = [(), (0,), (3,), (2, 3), (1, 2, 4, 4), ("n",)]
TYPES = {TensorProto.FLOAT: np.float32, TensorProto.INT64: np.int64, TensorProto.BOOL: np.bool_}
REQUIRED = {"INT": 1, "FLOAT": 1.0, "STRING": b"x", "INTS": [1, 1], "FLOATS": [1.0]}


def accident(model: onnx.ModelProto) -> str:
    """The exception that an error only passes on; "" for a model that is read or refused by a check."""
    try:
        load(model.SerializeToString())
    except MapstoError as error:
        cause: BaseException | None = error
        while isinstance(cause, MapstoError) and not isinstance(cause, InternalError):
            cause = cause.__cause__
        return f"{error}" if isinstance(cause, (*ACCIDENTS, InternalError)) else ""
    return ""


def one_node(
    op: str, opset: int, inputs: int, shape: Any, kind: int, constants: int, attributes: Mapping[str, Any]
) -> Any:
    """A model of one node whose inputs are all alike, the last `constants` of them initializers of zeros."""
    names = [f"x{k}" for k in range(inputs)]
    ports = [helper.make_tensor_value_info(name, kind, shape) for name in names[: inputs - constants]]
    zeros = np.zeros([d if isinstance(d, int) else 1 for d in shape], TYPES[kind])
    tensors = [numpy_helper.from_array(zeros, name) for name in names[inputs - constants :]]
    node = helper.make_node(op, names, ["y"], **attributes)
    graph = helper.make_graph([node], "one", ports, [onnx.ValueInfoProto(name="y")], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def body(inputs: int, kind: int) -> Any:
    """A graph whose results are its inputs, of any shape."""
    ports = [helper.make_tensor_value_info(f"s{k}", kind, None) for k in range(inputs)]
    nodes = [helper.make_node("Identity", [f"s{k}"], [f"t{k}"]) for k in range(inputs)]
    return helper.make_graph(nodes, "body", ports, [onnx.ValueInfoProto(name=f"t{k}") for k in range(inputs)])


def models(op: str) -> Iterator[Any]:
    for opset in (7, 11, 13, 20, 24, 26):
        try:
            schema = onnx.defs.get_schema(op, opset, "")
        except onnx.defs.SchemaError:
            continue
        needed = {name: a.type.name for name, a in schema.attributes.items() if a.required}
        required = {name: REQUIRED.get(type_, 1) for name, type_ in needed.items() if type_ != "GRAPH"}
        for inputs in sorted({0, schema.min_input, min(schema.max_input, schema.min_input + 2, 6)}):
            for shape in SHAPES:
                for kind in TYPES:
                    for constants in sorted({0, max(inputs - 1, 0), inputs}):
                        graphs = {name: body(inputs, kind) for name, type_ in needed.items() if type_ == "GRAPH"}
                        yield one_node(op, opset, inputs, shape, kind, constants, {**required, **graphs})


@pytest.mark.parametrize("op", [op for op in supported_ops() if onnx.defs.has(op)])
def test_no_row_stumbles(op: str) -> None:
    tried = list(models(op))
    assert tried
    assert [onnx.printer.to_text(model) for model in tried if accident(model)] == []


@pytest.mark.parametrize("op", ["Constant", "Relu", "Split", "TopK"])
def test_a_node_without_outputs_is_refused(op: str) -> None:
    model = one_node(op, 18, 0 if op == "Constant" else 2 if op == "TopK" else 1, (3,), TensorProto.FLOAT, 0, {})
    del model.graph.node[0].output[:]
    with pytest.raises(MapstoError, match="0 outputs are named, the op has . at least"):
        load(model)


def of(text: str, opset: int = 18) -> Any:
    return onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]>\ng {text}')


WRONG = {
    "a shape of less than -1": "(float[3, 5] x) => (float[?] y) <int64[2] s = {-3, -1}> { y = Reshape(x, s) }",
    "blocks without strides": """(float[1, 4, 4] x) => (float[?] y) <int64[2] i = {3, 3}, int64[2] b = {2, 2}> {
        y = Col2Im<strides = [1, 0]>(x, i, b)
    }""",
    "blocks of nothing": """(float[1, 4, 4] x) => (float[?] y) <int64[2] i = {3, 3}, int64[2] b = {0, 2}> {
        y = Col2Im(x, i, b)
    }""",
    "an output padded by less than nothing": """(float[1, 3, 4, 4] x, float[3, 2, 3, 3] w) => (float[?] y) {
        y = ConvTranspose<output_padding = [0, -2]>(x, w)
    }""",
    "two axes for one": "(float[3, 5] x) => (float[?] y) <int64[2] a = {0, 1}> { y = CumSum(x, a) }",
    "two sizes for one": "(float[3, 5] x) => (float[?] y, int64[?] z) <int64[2] k = {1, 2}> { y, z = TopK(x, k) }",
}


@pytest.mark.parametrize("name", WRONG)
def test_parameters_that_do_not_fit_are_refused_by_a_check(name: str) -> None:
    model = of(WRONG[name])
    with pytest.raises(MapstoError):
        load(model)
    assert accident(model) == ""
