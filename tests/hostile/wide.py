"""Files with very many or very long parts: names, lists, inputs, outputs, initializers, axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.importers.models import ints, model, node, port

Model = Any
MANY = 10_000


def long_names() -> Model:
    name = "n" * 10_000_000
    return model([node("Relu", ["x"], [name]), node("Neg", [name], ["y"])], {"x": [2]})


def a_long_node_name() -> Model:
    return model([node("Relu", ["x"], ["y"], name="n" * 10_000_000)], {"x": [2]})


def a_long_symbol() -> Model:
    return model([node("Relu", ["x"], ["y"])], {"x": ["s" * 10_000_000]})


def a_long_op() -> Model:
    return model([node("Q" * 10_000_000, ["x"], ["y"])], {"x": [2]})


def a_long_attribute_name() -> Model:
    return model([node("Relu", ["x"], ["y"], **{"a" * 10_000_000: 1})], {"x": [2]})


def long_texts() -> Model:
    return model([node("Einsum", ["x", "x"], ["y"], equation="ij," * 1_000_000 + "->ij")], {"x": [2, 2]})


def a_long_mode() -> Model:
    return model([node("Pad", ["x", "p"], ["y"], mode="c" * 10_000_000)], {"x": [2]}, constants={"p": ints(1, 1)})


def _listed(op: str, attribute: str, shape: tuple[int, ...] = (1, 1, 4, 4), opset: int = 18, **more: Any) -> Model:
    constants = {"w": np.ones((1, 1, 2, 2), np.float32)} if op.startswith("Conv") else {}
    inputs = ["x", *constants]
    return model(
        [node(op, inputs, ["y"], **{attribute: [1] * 1_000_000}, **more)],
        {"x": shape},
        constants=constants,
        opset=opset,
    )


def million_strides() -> Model:
    return _listed("Conv", "strides")


def million_pads() -> Model:
    return _listed("MaxPool", "pads", kernel_shape=[2, 2])


def million_kernel() -> Model:
    return _listed("MaxPool", "kernel_shape")


def million_dilations() -> Model:
    return _listed("ConvTranspose", "dilations")


def million_perm() -> Model:
    return _listed("Transpose", "perm")


def million_axes() -> Model:
    return _listed("ReduceSum", "axes", opset=11)


def million_squeezed() -> Model:
    return _listed("Unsqueeze", "axes", opset=11)


def million_split() -> Model:
    return _listed("Split", "split", opset=11)


def million_starts() -> Model:
    return _listed("Slice", "starts", opset=9, ends=[2] * 1_000_000)


def _input_of(op: str, values: np.ndarray, inputs: list[str], **attributes: Any) -> Model:
    return model([node(op, inputs, ["y"], **attributes)], {"x": [1, 1, 4, 4]}, constants={"k": values})


def million_axes_input() -> Model:
    return _input_of("ReduceSum", np.zeros(1_000_000, np.int64), ["x", "k"])


def million_new_axes() -> Model:
    return _input_of("Unsqueeze", np.arange(1_000_000), ["x", "k"])


def million_repeats() -> Model:
    return _input_of("Tile", np.ones(1_000_000, np.int64), ["x", "k"])


def million_extents() -> Model:
    return _input_of("Reshape", np.ones(1_000_000, np.int64), ["x", "k"])


def million_expanded() -> Model:
    return _input_of("Expand", np.ones(1_000_000, np.int64), ["x", "k"])


def million_pads_input() -> Model:
    return _input_of("Pad", np.ones(1_000_000, np.int64), ["x", "k"])


def million_parts() -> Model:
    return _input_of("Split", np.ones(1_000_000, np.int64), ["x", "k"])


def million_resized() -> Model:
    return _input_of("Resize", np.ones(1_000_000, np.int64), ["x", "", "", "k"])


def _shape_input(op: str, extent: int, inputs: list[str], **attributes: Any) -> Model:
    ports = [port("x", [1, 1, 4, 4]), port("s", [extent], np.int64)]
    return model([node(op, inputs, ["y"], **attributes)], ports)


def shape_of_10_12() -> Model:
    return _shape_input("Reshape", 10**12, ["x", "s"])


def expand_of_10_12() -> Model:
    return _shape_input("Expand", 10**12, ["x", "s"])


def tile_of_10_12() -> Model:
    return _shape_input("Tile", 10**12, ["x", "s"])


def pad_of_10_12() -> Model:
    return _shape_input("Pad", 10**12, ["x", "s"])


def constant_of_10_12() -> Model:
    return _shape_input("ConstantOfShape", 10**12, ["s"])


def slice_of_10_12() -> Model:
    return _shape_input("Slice", 10**12, ["x", "s", "s"])


def split_of_10_12() -> Model:
    return _shape_input("Split", 10**12, ["x", "s"])


def resize_of_10_12() -> Model:
    return _shape_input("Resize", 10**12, ["x", "", "", "s"])


def upsample_of_10_12() -> Model:
    return _shape_input("Squeeze", 10**12, ["x", "s"])


def random_of_10_12() -> Model:
    return _shape_input("Range", 10**12, ["s", "s", "s"])


def rank_64() -> Model:
    return model([node("Reshape", ["x", "s"], ["y"])], {"x": [2]}, constants={"s": ints(*[1] * 63, 2)})


def rank_64_by_unsqueeze() -> Model:
    return model([node("Unsqueeze", ["x", "s"], ["y"])], {"x": [2]}, constants={"s": ints(*range(63))})


def rank_64_by_expand() -> Model:
    return model([node("Expand", ["x", "s"], ["y"])], {"x": [2]}, constants={"s": ints(*[1] * 63, 2)})


def rank_64_by_gather() -> Model:
    return model([node("Gather", ["x", "k"], ["y"])], {"x": [2] * 20}, constants={"k": np.zeros((1,) * 30, np.int64)})


def rank_64_input() -> Model:
    return model([node("Relu", ["x"], ["y"])], {"x": [1] * 64})


def rank_32() -> Model:
    perm = list(range(31, -1, -1))
    nodes = [node("Transpose", ["x"], ["t"], perm=perm), node("Softmax", ["t"], ["y"], axis=3)]
    return model(nodes, {"x": [2] * 10 + [1] * 22})


def rank_32_open() -> Model:
    perm = list(range(31, -1, -1))
    nodes = [node("Transpose", ["x"], ["t"], perm=perm), node("Reshape", ["t", "flat"], ["y"])]
    return model(nodes, {"x": [f"n{k}" for k in range(32)]}, constants={"flat": ints(-1)})


def einsum_of_50_letters() -> Model:
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWX"
    parts = [letters[k : k + 10] for k in range(0, 50, 10)]
    nodes = [node("Einsum", [f"x{k}" for k in range(5)], ["y"], equation=",".join(parts) + "->" + letters)]
    return model(nodes, {f"x{k}": [2] * 10 for k in range(5)})


def einsum_of_a_diagonal() -> Model:
    return model([node("Einsum", ["x"], ["y"], equation="i" * 20 + "->i")], {"x": [4] * 20})


def duplicate_names() -> Model:
    return model([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])], {"x": [2]})


def a_node_that_reads_itself() -> Model:
    return model([node("Add", ["x", "y"], ["y"])], {"x": [2]})


def sparse_tensor() -> Model:
    made = model([node("Relu", ["x"], ["y"])], {"x": [2]})
    entry = made.graph.sparse_initializer.add()
    entry.dims.extend([10**9, 10**9])
    entry.values.CopyFrom(onnx.numpy_helper.from_array(np.ones(1, np.float32), "sparse"))
    return made


def strings() -> Model:
    made = model([node("Relu", ["x"], ["y"])], {"x": [2]})
    made.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [2], [b"a" * 10_000_000, b"b"]))
    made.graph.node.append(node("Identity", ["s"], ["z"]))
    return made


def huge_dims_without_data() -> Model:
    made = model([node("Add", ["x", "w"], ["y"])], {"x": [2]})
    made.graph.initializer.append(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**40, 2**40]))
    return made


def million_tensor_dims() -> Model:
    made = model([node("Add", ["x", "w"], ["y"])], {"x": [2]})
    made.graph.initializer.append(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1] * 1_000_000))
    return made


def million_input_dims() -> Model:
    return model([node("Relu", ["x"], ["y"])], {"x": [1] * 1_000_000})


CASES = [
    long_names, a_long_node_name, a_long_symbol, a_long_op, a_long_attribute_name, long_texts, a_long_mode,
    million_strides, million_pads, million_kernel, million_dilations, million_perm, million_axes, million_squeezed,
    million_split, million_starts, million_axes_input, million_new_axes, million_repeats, million_extents,
    million_expanded, million_pads_input, million_parts, million_resized, shape_of_10_12, expand_of_10_12,
    tile_of_10_12, pad_of_10_12, constant_of_10_12, slice_of_10_12, split_of_10_12, resize_of_10_12,
    upsample_of_10_12, random_of_10_12, rank_64, rank_64_by_unsqueeze, rank_64_by_expand, rank_64_by_gather,
    rank_64_input, rank_32, rank_32_open, einsum_of_50_letters, einsum_of_a_diagonal, duplicate_names,
    a_node_that_reads_itself, sparse_tensor, strings, huge_dims_without_data, million_tensor_dims, million_input_dims,
]  # fmt: skip
