"""Graphs with DequantizeLinear around their ops: products become products of integers, moved data stays bytes; against
ONNX Runtime without optimisations, which computes such graphs in floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from tests.importers.models import model, node, port

import mapsto
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.session.compile import prepared

Arrays = dict[str, np.ndarray]
KINDS = {"u8": np.uint8, "i8": np.int8}
PRODUCTS = {"matmul", "block_matmul", "conv"}


def by_another(given: Any, feed: Arrays) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return list(ort.InferenceSession(given.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, feed))


def products(graph: Graph) -> list[DType]:
    """Element types of all products, those of nested graphs too."""
    return [n.output.dtype for n in graph.walk() if n.op in PRODUCTS]


def check(given: Any, feed: Arrays, kinds: Sequence[DType], rtol: float = 2e-6) -> None:
    """The products are of these types, and the answers another's."""
    assert products(prepared(given, None)) == list(kinds)
    ours = mapsto.compile(given).run(feed).values()
    for found, expected in zip(ours, by_another(given, feed), strict=True):
        assert found.dtype == expected.dtype and found.shape == expected.shape
        scale = float(np.abs(expected).max(initial=0.0)) if found.dtype.kind == "f" else 0.0
        np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * scale + (1 if found.dtype.kind in "iu" else 0))


def integers(dtype: Any, shape: Sequence[int], seed: int = 0) -> np.ndarray:
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max + 1, shape, endpoint=False).astype(dtype)


def dequantised(
    name: str, dtype: Any, scale: Any, zero: Any = None, axis: int | None = None, **attributes: Any
) -> tuple[Any, Arrays]:
    """DequantizeLinear of `name` into `name`_f; its scale and zero point as initializers."""
    tensors = {f"{name}_s": np.asarray(scale, np.float32)}
    if zero is not None:
        tensors[f"{name}_z"] = np.asarray(zero, dtype)
    if axis is not None:
        attributes["axis"] = axis
    return node("DequantizeLinear", [name, *tensors], [f"{name}_f"], **attributes), tensors


def two(
    op: str, x: np.ndarray, w: np.ndarray, x_way: dict[str, Any], w_way: dict[str, Any], opened: Sequence[Any] = (),
    more: Arrays | None = None, opset: int = 21, **attributes: Any,
) -> tuple[Any, Arrays]:  # fmt: skip
    """An op of two dequantised values, w a constant; the model and its feed."""
    left, x_tensors = dequantised("x", x.dtype, **x_way)
    right, w_tensors = dequantised("w", w.dtype, **w_way)
    made = node(op, ["x_f", "w_f", *(more or {})], ["y"], **attributes)
    constants = {"w": w, **x_tensors, **w_tensors, **(more or {})}
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(
        [left, right, made], "g", [port("x", opened or x.shape, x.dtype)], [onnx.ValueInfoProto(name="y")], tensors
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), {"x": x}


# -- products ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero", ["none", "middle", "low", "high"])
@pytest.mark.parametrize("x_kind", KINDS)
@pytest.mark.parametrize("w_kind", KINDS)
def test_a_matrix_product(x_kind: str, w_kind: str, zero: str) -> None:
    x, w = integers(KINDS[x_kind], (3, 5, 40)), integers(KINDS[w_kind], (40, 24), 1)
    ways = []
    for array, scale in ((x, 0.02), (w, 0.5)):
        limits = np.iinfo(array.dtype)
        chosen = {"none": None, "middle": (limits.min + limits.max) // 2, "low": limits.min, "high": limits.max}[zero]
        ways.append({"scale": scale, "zero": chosen})
    check(*two("MatMul", x, w, ways[0], ways[1], ["n", 5, 40]), [DType.I32])


def test_scales_that_vary_along_the_columns() -> None:
    x, w = integers(np.uint8, (5, 40)), integers(np.int8, (40, 24), 1)
    scales, zeros = np.linspace(0.01, 1, 24), integers(np.int8, (24,), 2)
    for zero in (None, zeros):
        check(*two("MatMul", x, w, {"scale": 0.1, "zero": 3}, {"scale": scales, "zero": zero, "axis": 1}), [DType.I32])
        check(*two("MatMul", x, w, {"scale": 0.1, "zero": 3}, {"scale": scales, "zero": zero, "axis": -1}), [DType.I32])


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("per_channel", [False, True])
def test_gemm(trans_a: int, trans_b: int, per_channel: bool) -> None:
    x = integers(np.uint8, (40, 5) if trans_a else (5, 40))
    w = integers(np.int8, (24, 40) if trans_b else (40, 24), 1)
    way = {"scale": np.linspace(0.01, 1, 24), "axis": 0 if trans_b else 1} if per_channel else {"scale": 0.3, "zero": 7}
    bias = {"c": np.linspace(-4, 4, 24, dtype=np.float32)}
    for more, numbers in (({}, {}), (bias, {}), (bias, {"alpha": 0.5, "beta": -2.0})):
        made = two("Gemm", x, w, {"scale": 0.1, "zero": 9}, way, more=more, transA=trans_a, transB=trans_b, **numbers)
        check(*made, [DType.I32])


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("opened", [(), ("n", 4, "h", "v")], ids=["fixed", "open"])
def test_a_convolution_pads_by_what_stands_for_zero(group: int, per_channel: bool, opened: Sequence[Any]) -> None:
    x, w = integers(np.uint8, (2, 4, 9, 11)), integers(np.int8, (8, 4 // group, 3, 3), 1)
    way = (
        {"scale": np.linspace(0.01, 1, 8), "zero": np.zeros(8), "axis": 0}
        if per_channel
        else {"scale": 0.3, "zero": -5}
    )
    for more in ({}, {"b": np.linspace(-4, 4, 8, dtype=np.float32)}):
        made = two(
            "Conv", x, w, {"scale": 0.1, "zero": 200}, way, opened, more=more, group=group, pads=[1, 2, 0, 1],
            strides=[1, 2], dilations=[2, 1],
        )  # fmt: skip
        check(*made, [DType.I32])


BIASES = {
    "whole": (np.arange(-4, 4) * 1000, 1.0, np.int32(0), True),
    "without a zero point": (np.arange(-4, 4) * 1000, 1.0, None, True),
    "another scale": (np.arange(-4, 4) * 1000, 1.01, None, False),
    "a zero point": (np.arange(-4, 4) * 1000, 1.0, np.int32(5), False),
    "beyond 32 bits": (np.full(8, (1 << 31) - 1000), 1.0, None, False),
}


@pytest.mark.parametrize("kind", BIASES)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("zero", [0, 200])
def test_a_bias_of_32_bits_is_added_to_the_sums(kind: str, per_channel: bool, zero: int) -> None:
    whole, more, point, is_whole = BIASES[kind]
    x, w = integers(np.uint8, (2, 4, 9, 11)), integers(np.int8, (8, 4, 3, 3), 1)
    scales = np.linspace(0.01, 1, 8) if per_channel else np.asarray(0.3)
    way = {"scale": scales, "zero": np.zeros(8), "axis": 0} if per_channel else {"scale": scales}
    given, feed = two("Conv", x, w, {"scale": 0.1, "zero": zero}, way, pads=[1, 1, 1, 1])
    own = (np.float32(0.1) * scales.astype(np.float32) * np.float32(more)).astype(np.float32)
    tensors = {"b": whole.astype(np.int32), "b_s": own}
    tensors |= {} if point is None else {"b_z": np.full_like(own, point, np.int32)}
    given.graph.node.insert(0, node("DequantizeLinear", list(tensors), ["b_f"], **({"axis": 0} if per_channel else {})))
    given.graph.node[-1].input.append("b_f")
    given.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    check(given, feed, [DType.I32])
    convs = [n for n in prepared(given, None, ()).nodes if n.op == "conv"]
    assert [len(n.inputs) == 3 and bool(n.inputs[2]) for n in convs] == [is_whole]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_quantised_in_the_model(kind: str) -> None:
    """As NNCF writes them: floats, QuantizeLinear and DequantizeLinear after each other, a scale for each channel."""
    rng = np.random.default_rng(2)
    scales, w = np.linspace(0.01, 0.1, 8).astype(np.float32), rng.standard_normal((8, 4, 3, 3))
    tensors = {
        "s": np.float32(0.1), "z": np.asarray(3, KINDS[kind]), "w": w.astype(np.float32), "ws": scales,
        "wz": np.zeros(8, np.int8), "b": np.linspace(-1, 1, 8, dtype=np.float32),
    }  # fmt: skip
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["x_q"]), node("DequantizeLinear", ["x_q", "s", "z"], ["x_d"]),
        node("QuantizeLinear", ["w", "ws", "wz"], ["w_q"], axis=0),
        node("DequantizeLinear", ["w_q", "ws", "wz"], ["w_d"], axis=0),
        node("Conv", ["x_d", "w_d", "b"], ["y"], pads=[1, 1, 1, 1]),
    ]  # fmt: skip
    given = model(nodes, [port("x", [2, 4, 9, 11], np.float32)], ["y"], tensors, 21)
    check(given, {"x": (rng.standard_normal((2, 4, 9, 11)) * 5).astype(np.float32)}, [DType.I32])


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("zero", ["none", "one", "several"])
def test_channels_that_are_summed_by_themselves_have_scales_of_their_own(zero: str, times: int) -> None:
    """As NNCF quantises what depthwise convolutions read."""
    x, w = integers(np.uint8, (2, 6, 9, 11)), integers(np.int8, (6 * times, 1, 3, 3), 1)
    zeros = {"none": None, "one": np.full(6, 7), "several": np.arange(6) * 40}[zero]
    way = {"scale": np.linspace(0.01, 1, 6), "zero": zeros, "axis": 1}
    weights = {"scale": np.linspace(0.1, 1, 6 * times), "axis": 0}
    check(*two("Conv", x, w, way, weights, group=6, pads=[1, 1, 1, 1]), [DType.I32])
    check(*two("Conv", x, w, way, {"scale": 0.5}, ["n", 6, "h", "w"], group=6), [DType.I32])


def test_channels_of_a_group_that_have_scales_of_their_own_are_summed_in_floats() -> None:
    x, w = integers(np.uint8, (2, 6, 9, 11)), integers(np.int8, (6, 2, 3, 3), 1)
    way = {"scale": np.linspace(0.01, 1, 6), "axis": 1}
    check(*two("Conv", x, w, way, {"scale": 0.5}, group=3), [DType.F32])


def test_two_activations() -> None:
    """Scores of attention: both sides come with the run."""
    ends = [dequantised(name, np.int8, scale, 3) for name, scale in (("q", 0.1), ("k", 0.2))]
    nodes = [*(end for end, _ in ends), node("MatMul", ["q_f", "k_f"], ["y"])]
    tensors = {name: array for _, each in ends for name, array in each.items()}
    given = model(nodes, [port("q", ["n", 7, 16], np.int8), port("k", ["n", 16, 9], np.int8)], ["y"], tensors, 21)
    check(given, {"q": integers(np.int8, (2, 7, 16)), "k": integers(np.int8, (2, 16, 9), 1)}, [DType.I32])


def test_sums_are_exact_up_to_the_end_of_32_bits() -> None:
    """33,025 products of 255 * 255 are the most that fit: floats would round them."""
    for depth, kind in ((33_025, DType.I32), (33_026, DType.F32)):
        x, w = np.full((1, depth), 255, np.uint8), np.full((depth, 1), 255, np.uint8)
        x[0, :100] = 254
        given, feed = two("MatMul", x, w, {"scale": 1.0, "zero": 0}, {"scale": 1.0, "zero": 0})
        assert products(prepared(given, None)) == [kind]
        if kind is DType.I32:
            exact = np.float32(int(x.astype(np.int64).sum() * 255))
            assert mapsto.compile(given, exact_integers=True).run(feed)["y"].item() == exact


def some_products() -> dict[str, tuple[Any, Arrays]]:
    """Small ones of each kind."""
    x, w = integers(np.uint8, (2, 3, 5, 6)), integers(np.int8, (4, 3, 3, 3), 1)
    a, c = integers(np.int8, (3, 7)), integers(np.uint8, (5, 7), 1)
    tensor, channels = {"scale": 0.1, "zero": 9}, {"scale": np.linspace(0.1, 1, 4), "axis": 0}
    return {
        "Conv": two("Conv", x, w, tensor, channels, ["n", 3, "h", "w"], pads=[1, 1, 1, 1]),
        "Gemm": two("Gemm", a, c, tensor, tensor, transB=1, alpha=0.5),
        "MatMul": two("MatMul", a, c.T.copy(), tensor, {"scale": np.linspace(0.1, 1, 5), "axis": 1}, ["m", 7]),
    }


def float_products() -> dict[str, tuple[Any, Arrays]]:
    x, w = integers(np.uint8, (5, 40)), integers(np.int8, (40, 24), 1)
    tensor, blocks = {"scale": 0.1, "zero": 9}, np.full((4, 24), 0.5)
    return {
        "along what is summed": two("MatMul", x, w, tensor, {"scale": np.linspace(0.1, 1, 40), "axis": 0}),
        "of the left side": two("MatMul", x, w, {"scale": np.linspace(0.1, 1, 5), "axis": 0}, tensor),
        "blocks": two("MatMul", x, w, tensor, {"scale": blocks, "axis": 0, "block_size": 10}),
        "16 bits": two("MatMul", x, w.astype(np.int16), tensor, {"scale": 0.1, "zero": 9}),
        "an open depth": two("MatMul", x, w, tensor, tensor, [5, "k"]),
    }


@pytest.mark.parametrize("kind", float_products())
def test_what_cannot_be_summed_in_integers_is_summed_in_floats(kind: str) -> None:
    given, feed = float_products()[kind]
    check(given, feed, [DType.F32])


def test_a_value_that_is_an_output_too() -> None:
    given, feed = two(
        "MatMul", integers(np.uint8, (5, 40)), integers(np.int8, (40, 24)), {"scale": 0.1}, {"scale": 0.2}
    )
    given.graph.output.append(onnx.ValueInfoProto(name="x_f"))
    check(given, feed, [DType.I32])


def test_inside_a_branch() -> None:
    """What is dequantised around a branch is known in it."""
    given, feed = two("MatMul", integers(np.uint8, (5, 40)), integers(np.int8, (40, 5)), {"scale": 0.1}, {"scale": 0.2})
    product = given.graph.node.pop()
    results = [onnx.ValueInfoProto(name="y")]
    then, other = (
        helper.make_graph([each], name, [], results)
        for name, each in (("t", product), ("e", node("MatMul", ["w_t", "w_f"], ["y"])))
    )
    given.graph.node.append(node("Transpose", ["w_f"], ["w_t"], perm=[1, 0]))
    given.graph.node.append(node("If", ["c"], ["y"], then_branch=then, else_branch=other))
    given.graph.input.append(port("c", [], np.bool_))
    for chosen in (True, False):
        check(given, {**feed, "c": np.array(chosen)}, [DType.I32])


# -- moved data --------------------------------------------------------------------------------------------------------

MOVED: dict[str, tuple[dict[str, np.ndarray], dict[str, Any]]] = {
    "Transpose": ({}, {"perm": [2, 0, 3, 1]}),
    "Reshape": ({"a": np.array([0, -1])}, {}),
    "Flatten": ({}, {"axis": 2}),
    "Squeeze": ({"a": np.array([0])}, {}),
    "Unsqueeze": ({"a": np.array([1, 3])}, {}),
    "Identity": ({}, {}),
    "Slice": ({"a": np.array([1]), "e": np.array([9]), "d": np.array([2])}, {}),
    "Gather": ({"a": np.array([[3, -1], [0, 0]])}, {"axis": 1}),
    "GatherElements": ({"a": np.array([[[[1]]]])}, {"axis": 1}),
    "GatherND": ({"a": np.array([[0, 1], [0, 2]])}, {}),
    "Expand": ({"a": np.array([3, 4, 6, 8])}, {}),
    "Tile": ({"a": np.array([1, 2, 1, 1])}, {}),
    "DepthToSpace": ({}, {"blocksize": 2}),
    "SpaceToDepth": ({}, {"blocksize": 2}),
    "MaxPool": ({}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "GlobalMaxPool": ({}, {}),
    "Split": ({"a": np.array([1, 3])}, {"axis": 1}),
}


def requantised(op: str, scale: float, again: float) -> tuple[Any, Arrays]:
    """Q(op(DQ(x))) with these scales."""
    x = integers(np.uint8, (1, 4, 6, 8))
    more, attributes = MOVED[op]
    starts = more if op != "Slice" else {"a": more["a"], "e": more["e"], "axes": np.array([2]), "d": more["d"]}
    first, tensors = dequantised("x", np.uint8, scale, 9)
    names = ["m", "rest"] if op == "Split" else ["m"]
    nodes = [
        first,
        node(op, ["x_f", *starts], names, **attributes),
        node("QuantizeLinear", ["m", "again", "x_z"], ["y"]),
    ]
    constants = {**tensors, **starts, "again": np.array(again, np.float32)}
    return model(nodes, [port("x", ["n" if op == "Transpose" else 1, 4, 6, 8], np.uint8)], ["y"], constants, 17), {
        "x": x
    }


@pytest.mark.parametrize("op", MOVED)
def test_moved_bytes_stay_bytes(op: str) -> None:
    given, feed = requantised(op, 0.25, 0.25)
    graph = prepared(given, None)
    assert {value.dtype for n in graph.nodes for value in n.outputs} <= {DType.U8, DType.I64}
    np.testing.assert_array_equal(mapsto.compile(given).run(feed)["y"], by_another(given, feed)[0])
    given, feed = requantised(op, 0.25, 0.5)
    assert any(n.op == "round" for n in prepared(given, None).nodes)
    np.testing.assert_array_equal(mapsto.compile(given).run(feed)["y"], by_another(given, feed)[0])


@pytest.mark.parametrize(("second", "moved"), [(0.25, True), (0.5, False)])
def test_parts_of_one_scale_are_joined_as_bytes(second: float, moved: bool) -> None:
    ends = [dequantised("a", np.int8, 0.25, 1), dequantised("b", np.int8, second, 1)]
    nodes = [
        *(end for end, _ in ends),
        node("Concat", ["a_f", "b_f"], ["m"], axis=1),
        node("QuantizeLinear", ["m", "a_s", "a_z"], ["y"]),
    ]
    tensors = {name: array for _, each in ends for name, array in each.items()}
    given = model(nodes, [port("a", ["n", 2], np.int8), port("b", ["n", 3], np.int8)], ["y"], tensors, 17)
    assert any(n.op == "round" for n in prepared(given, None).nodes) is not moved
    feed = {"a": integers(np.int8, (4, 2)), "b": integers(np.int8, (4, 3), 1)}
    np.testing.assert_array_equal(mapsto.compile(given).run(feed)["y"], by_another(given, feed)[0])


@pytest.mark.parametrize("scale", [0.0, 1e-40, 1e-36, -0.25, np.inf, np.nan])
def test_scales_of_which_quotients_may_leave_the_floats(scale: float) -> None:
    """Only scales that are sure to give the integers back let the round trip be left out."""
    first, tensors = dequantised("x", np.uint8, scale, 9)
    again = [first, node("QuantizeLinear", ["x_f", "x_s", "x_z"], ["y"])]
    graph = prepared(model(again, [port("x", ["n"], np.uint8)], ["y"], tensors, 17), None)
    assert any(n.op == "round" for n in graph.nodes) is (scale != -0.25)


def test_extents_of_a_run_have_one_name() -> None:
    """A slice that ends where the run says: its integers may not bring a second size for one extent."""
    first, tensors = dequantised("x", np.uint8, 0.25, 9)
    nodes = [
        first,
        node("Slice", ["x_f", "zero", "end"], ["m"]),
        node("QuantizeLinear", ["m", "x_s", "x_z"], ["q"]),
        node("DequantizeLinear", ["q", "x_s", "x_z"], ["d"]),
        node("Add", ["m", "d"], ["y"]),
    ]
    constants = {**tensors, "zero": np.array([0])}
    given = model(nodes, [port("x", ["n"], np.uint8), port("end", [1], np.int64)], ["y"], constants, 17)
    exe = mapsto.compile(given)
    for end in (1, 5, 100):
        feed = {"x": integers(np.uint8, (9,)), "end": np.array([end])}
        np.testing.assert_array_equal(exe.run(feed)["y"], by_another(given, feed)[0])


def test_a_negative_scale_is_no_order() -> None:
    """A maximum of numbers is a minimum of integers there."""
    first, tensors = dequantised("x", np.uint8, -0.25, 9)
    nodes = [
        first,
        node("MaxPool", ["x_f"], ["m"], kernel_shape=[2]),
        node("QuantizeLinear", ["m", "x_s", "x_z"], ["y"]),
    ]
    given = model(nodes, [port("x", [1, 1, 9], np.uint8)], ["y"], tensors, 17)
    feed = {"x": integers(np.uint8, (1, 1, 9))}
    np.testing.assert_array_equal(mapsto.compile(given).run(feed)["y"], by_another(given, feed)[0])


# -- what a quantiser writes -------------------------------------------------------------------------------------------


class _Samples(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, shape: Sequence[int]) -> None:
        rng = np.random.default_rng(7)
        self.left = iter([{name: rng.standard_normal(shape).astype(np.float32)} for _ in range(4)])

    def get_next(self) -> Any:
        return next(self.left, None)


def drawn(name: str, *shape: int) -> tuple[str, np.ndarray]:
    scale = np.sqrt(max(1, int(np.prod(shape[1:]))))
    return name, (np.random.default_rng(len(name) + sum(shape)).standard_normal(shape) / scale).astype(np.float32)


def small_network() -> Any:
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1] * 4),
        node("Relu", ["c1"], ["r1"]),
        node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p1", "w2", "b2"], ["c2"], pads=[1] * 4, group=2),
        node("Relu", ["c2"], ["r2"]),
        node("Flatten", ["r2"], ["f"]),
        node("Gemm", ["f", "w3", "b3"], ["g"], transB=1),
        node("Relu", ["g"], ["r3"]),
        node("MatMul", ["r3", "w4"], ["y"]),
    ]
    tensors = dict([
        drawn("w1", 8, 3, 3, 3), drawn("b1", 8), drawn("w2", 12, 4, 3, 3), drawn("b2", 12), drawn("w3", 32, 768),
        drawn("b3", 32), drawn("w4", 32, 10),
    ])  # fmt: skip
    made = model(nodes, [port("x", ["n", 3, 16, 16])], ["y"], tensors, 17)
    made.graph.output[0].CopyFrom(port("y", ["n", 10]))
    return made


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("activations", [QuantType.QUInt8, QuantType.QInt8], ids=["u8", "i8"])
def test_a_network_of_onnxruntimes_quantiser(tmp_path: Path, per_channel: bool, activations: Any) -> None:
    onnx.save(small_network(), tmp_path / "float.onnx")
    quantize_static(
        tmp_path / "float.onnx", tmp_path / "int8.onnx", _Samples("x", (2, 3, 16, 16)), QuantFormat.QDQ,
        per_channel=per_channel, activation_type=activations, weight_type=QuantType.QInt8,
    )  # fmt: skip
    given = onnx.load(tmp_path / "int8.onnx")
    x = np.random.default_rng(3).standard_normal((3, 3, 16, 16)).astype(np.float32)
    check(given, {"x": x}, [DType.I32] * 4, 0.02)  # a step of its last quantisation, where a sum lies between two
    pooled = [n.output.dtype for n in prepared(given, None).nodes if n.op == "max_pool"]
    assert pooled == [DType.U8 if activations == QuantType.QUInt8 else DType.I8]
    # each product and what follows it, to the bytes that the next one reads, is one kernel
    works = [work for work in mapsto.compile(given).plan.works if PRODUCTS & set(work.ops)]
    assert [{"round", "mul"} <= set(work.ops) for work in works] == [True] * 4
