"""Inputs of types that an op does not take are errors that name the node, the input and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.importers.models import model, node

from mapsto.errors import ModelError
from mapsto.importers.onnx import load

F, D, I8, U8, I32, I64, B = (
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64,
    TensorProto.BOOL,
)  # fmt: skip

# op, types of its inputs, what the message says
WRONG: list[tuple[str, Sequence[int], str]] = [
    ("Gather", (F, F), "input 1 (indices) is f32; allowed: i32, i64"),
    ("GatherElements", (F, F), "input 1 (indices) is f32"),
    ("ScatterND", (F, I32, F), "input 1 (indices) is i32; allowed: i64"),
    ("MatMulInteger", (F, F), "input 0 (A) is f32; allowed: i8, u8"),
    ("MatMulInteger", (U8, I32), "input 1 (B) is i32"),
    ("ConvInteger", (F, I8), "input 0 (x) is f32"),
    ("And", (F, F), "input 0 (A) is f32; allowed: bool"),
    ("BitShift", (I32, I32), "input 0 (X) is i32"),
    ("Where", (F, F, F), "input 0 (condition) is f32; allowed: bool"),
    ("Where", (B, F, D), "input 2 (Y) is f64, but input 1 (X) is f32"),
    ("Add", (F, I64), "input 1 (B) is i64, but input 0 (A) is f32"),
    ("Concat", (F, F, I64), "input 2 (inputs) is i64, but input 0 (inputs) is f32"),
    ("Sqrt", (I32,), "input 0 (X) is i32"),
    ("Softmax", (I64,), "input 0 (input) is i64"),
]


def of_types(op: str, types: Sequence[int]) -> onnx.ModelProto:
    names = [f"x{k}" for k in range(len(types))]
    ports = [helper.make_tensor_value_info(n, t, [2, 2]) for n, t in zip(names, types, strict=True)]
    attributes = {"axis": 0} if op == "Concat" else {"direction": "LEFT"} if op == "BitShift" else {}
    return model([node(op, names, name="the_node", **attributes)], ports)


@pytest.mark.parametrize(("op", "types", "said"), WRONG, ids=lambda v: v if isinstance(v, str) else "")
def test_an_input_of_a_wrong_type_is_an_error(op: str, types: Sequence[int], said: str) -> None:
    with pytest.raises(ModelError) as error:
        load(of_types(op, types))
    assert "the_node" in str(error.value) and said in str(error.value)


def test_inputs_beyond_those_of_the_op_are_an_error() -> None:
    with pytest.raises(ModelError, match="3 inputs are given, the op takes 2"):
        load(of_types("Add", (F, F, F)))


def test_the_opset_decides() -> None:
    """Clip takes integers from opset 12 on."""
    limits = {"low": np.array(0, np.int64)}
    ports = [helper.make_tensor_value_info("x", I64, [2])]
    load(model([node("Clip", ["x", "low"])], ports, constants=limits, opset=12))
    with pytest.raises(ModelError, match="input 0 .* is i64"):
        load(model([node("Clip", ["x", "low"])], ports, constants=limits, opset=11))
