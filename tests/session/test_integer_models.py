"""ONNX ops on integers that f64 or 32 bits would damage: reference and native code against exact integers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tests.session.exact import power

from mapsto.devices.cpu import isa as isas
from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ExecutionError, ModelError
from mapsto.importers.onnx import load
from mapsto.ops.interpret import run_graph
from mapsto.session.compile import build, prepared

Array = np.ndarray
BIG = (1 << 62) + 1  # f64 takes it for 2^62
LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1


@pytest.fixture(scope="module", params=[n for n in ("sse2", "avx2", "avx512") if isas.runs(isas.by_name(n))])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    with Workers(cache=False, isa=request.param) as found:
        yield found


def i64(*values: int) -> Array:
    return np.array(values, np.int64)


def model(
    op: str, feed: Mapping[str, Array], constants: Mapping[str, Array] | None = None, outputs: int = 1, opset: int = 18,
    order: Sequence[str] = (), **attributes: Any,
) -> onnx.ModelProto:  # fmt: skip
    """One node whose inputs are those of the run, then the constants (or in the given order)."""
    constants = constants or {}
    names = [f"y{k}" for k in range(outputs)]
    ports = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feed.items()
    ]
    nodes = [helper.make_node(op, list(order or (*feed, *constants)), names, **attributes)]
    initializers = [numpy_helper.from_array(a, n) for n, a in constants.items()]
    graph = helper.make_graph(nodes, "g", ports, [onnx.ValueInfoProto(name=n) for n in names], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def check(workers: Workers, model: onnx.ModelProto, feed: Mapping[str, Array], expected: Array) -> None:
    exe = build(prepared(model, None), workers, 1, None)
    for found in (run_graph(load(model), feed), exe.run(feed)):
        got = found["y0"]
        assert got.dtype == expected.dtype and got.shape == expected.shape
        np.testing.assert_array_equal(got, expected)


WIDE = i64(BIG, -BIG, LOWEST, HIGHEST, 3)
# op, inputs of the run, constants, order, attributes, what comes out
MOVED: dict[str, tuple[str, dict[str, Array], dict[str, Array], Sequence[str], dict[str, Any], Array]] = {
    "pad": ("Pad", {"x": i64(3)}, {"p": i64(1, 1), "v": np.array(BIG)}, (), {}, i64(BIG, 3, BIG)),
    "where": ("Where", {"c": np.array([True, False])}, {"a": i64(BIG), "b": i64(HIGHEST)}, (), {}, i64(BIG, HIGHEST)),
    "clip": ("Clip", {"x": WIDE}, {"l": np.array(-BIG), "h": np.array(BIG)}, (), {}, i64(BIG, -BIG, -BIG, BIG, 3)),
    "constant of shape": (
        "ConstantOfShape", {}, {"s": i64(2)}, (), {"value": numpy_helper.from_array(i64(BIG))}, i64(BIG, BIG),
    ),
    "expand": ("Expand", {"x": i64(BIG)}, {"s": i64(3)}, (), {}, i64(BIG, BIG, BIG)),
    "trilu": ("Trilu", {"x": np.full((2, 2), BIG)}, {}, (), {"upper": 0}, np.array([[BIG, 0], [BIG, BIG]])),
    "cumsum": ("CumSum", {"x": i64(BIG, 1, -BIG)}, {"a": np.array(0)}, (), {}, i64(BIG, BIG + 1, 1)),
    "top-k": ("TopK", {"x": i64(BIG - 1, BIG, LOWEST, HIGHEST)}, {"k": i64(3)}, (), {}, i64(HIGHEST, BIG, BIG - 1)),
    "top-k without sign": (
        "TopK", {"x": np.array([1 << 63, (1 << 64) - 1, 0, (1 << 63) + 1], np.uint64)}, {"k": i64(2)}, (), {},
        np.array([(1 << 64) - 1, (1 << 63) + 1], np.uint64),
    ),
    "one-hot": (
        "OneHot", {"i": i64(1, -1, 5)}, {"d": np.array(2), "v": i64(BIG, HIGHEST)}, (), {},
        np.array([[BIG, HIGHEST], [BIG, HIGHEST], [BIG, BIG]]),
    ),
    "scatter": (
        "ScatterElements", {"x": i64(1, 2), "u": i64(BIG)}, {"i": i64(1)}, ("x", "i", "u"), {"reduction": "add"},
        i64(1, BIG + 2),
    ),
    "gemm": ("Gemm", {"a": WIDE.reshape(1, 5), "b": np.eye(5, dtype=np.int64)}, {}, (), {}, WIDE.reshape(1, 5)),
    "max pool of bytes": (
        "MaxPool", {"x": np.array([[[-128, -127, 127]]], np.int8)}, {}, (), {"kernel_shape": [2], "pads": [1, 1]},
        np.array([[[-128, -127, 127, 127]]], np.int8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVED)
def test_integers_keep_all_their_bits(workers: Workers, name: str) -> None:
    op, feed, constants, order, attributes, expected = MOVED[name]
    outputs = 2 if op == "TopK" else 1
    check(workers, model(op, feed, constants, outputs, order=order, **attributes), feed, expected)


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64])
def test_range_has_the_elements_that_python_says(workers: Workers, kind: type) -> None:
    low, high = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    feed = {n: np.array(0, kind) for n in ("start", "limit", "delta")}
    made = model("Range", feed)
    graph, exe = load(made), build(prepared(made, None), workers, 1, None)
    cases = [(low, high, high), (high, low, low), (low, high, high // 3), (high, low, -(high // 3))]
    cases += [(high - 4, high, 3), (0, 10, 3), (10, 0, -3), (0, 10, -1), (5, 5, 1), (low, low + 5, 2)]
    for case in cases:
        feed = dict(zip(feed, (np.array(v, kind) for v in case), strict=True))
        expected = np.array(range(*case), kind)
        np.testing.assert_array_equal(exe.run(feed)["y0"], expected)
        np.testing.assert_array_equal(run_graph(graph, feed)["y0"], expected)
        folded = load(model("Range", {}, feed))
        np.testing.assert_array_equal(run_graph(folded, {})["y0"], expected)
    feed["delta"] = np.array(0, kind)
    for run in (exe.run, lambda f: run_graph(graph, f)):
        with pytest.raises(ExecutionError, match="Range has no end"):
            run(feed)
    with pytest.raises(ModelError, match="has no end"):
        load(model("Range", {}, feed))


def test_range_of_floats_counts_in_f64(workers: Workers) -> None:
    """0.1f is a little more than a tenth of 0.3f's 3: four elements, as the exact quotient is above 3."""
    feed = {n: np.array(v, np.float32) for n, v in (("start", 0), ("limit", 0.3), ("delta", 0.1))}
    made = model("Range", feed)
    count = math.ceil(float(np.float32(0.3)) / float(np.float32(0.1)))
    for found in (build(prepared(made, None), workers, 1, None).run(feed), run_graph(load(made), feed)):
        assert found["y0"].shape == (count,)
    assert run_graph(load(model("Range", {}, feed)), {})["y0"].shape == (count,)


@pytest.mark.parametrize("kind", [np.int32, np.uint32, np.int64, np.uint64])
@pytest.mark.parametrize("keep", [0, 1])
def test_norms_of_integers(workers: Workers, kind: type, keep: int) -> None:
    high = int(np.iinfo(kind).max)
    rows = [[3, 4, 0], [46341, 0, 0], [1 << 26, 1, 0], [94906267, 0, 1], [2**31 - 1, 0, 0], [1, 1, 1], [7, 7, 7]]
    feed = {"x": np.array([[min(v, high) for v in row] for row in rows], kind)}
    expected = np.array([math.isqrt(sum(int(v) ** 2 for v in row)) for row in feed["x"]], kind)
    made = model("ReduceL2", feed, {"axes": i64(1)}, keepdims=keep)
    check(workers, made, feed, expected.reshape(-1, 1) if keep else expected)
    feed = {"x": np.full((1, 4), high, kind)}  # the root is twice the highest number
    check(workers, model("ReduceL2", feed), feed, np.array([[high]], kind))


@pytest.mark.parametrize("kind", [np.int32, np.uint32, np.int64, np.uint64])
def test_logarithms_of_sums_of_integers(workers: Workers, kind: type) -> None:
    feed = {"x": np.array([[1, 2, 5], [20, 3000, 100000]], kind)}
    expected = np.array([int(math.log(int(row.sum()))) for row in feed["x"]], kind)
    check(workers, model("ReduceLogSum", feed, {"axes": i64(1)}, keepdims=0), feed, expected)
    feed = {"x": np.array([[1, 2, 5], [20, 30, 10]], kind)}
    expected = np.array([int(math.log(sum(math.exp(int(v)) for v in row))) for row in feed["x"]], kind)
    check(workers, model("ReduceLogSumExp", feed, {"axes": i64(1)}, keepdims=0), feed, expected)


def extremes(shape: Sequence[int], kind: type, seed: int) -> Array:
    info = np.iinfo(kind)
    return np.random.default_rng(seed).choice(np.array([info.min, info.max, 0, 1], kind), tuple(shape))


@pytest.mark.parametrize("kinds", [(np.uint8, np.int8), (np.int8, np.int8), (np.uint8, np.uint8)])
@pytest.mark.parametrize("inner", [1, 63, 640])
def test_products_of_bytes_add_up_in_32_bits(workers: Workers, kinds: tuple[type, type], inner: int) -> None:
    a, b = extremes((5, inner), kinds[0], 0), extremes((inner, 19), kinds[1], 1)
    points = {"az": np.array(kinds[0](3)), "bz": np.array(kinds[1](100))}
    expected = (a.astype(np.int64) - 3) @ (b.astype(np.int64) - 100)
    check(workers, model("MatMulInteger", {"a": a}, {"b": b, **points}), {"a": a}, expected.astype(np.int32))
    check(workers, model("MatMulInteger", {"a": a, "b": b}, points), {"a": a, "b": b}, expected.astype(np.int32))


def test_quantised_products_are_summed_as_integers(workers: Workers) -> None:
    """In f32 the sum of 4097 products of 255 loses its low bits, and the result its neighbour."""
    inner = 4097
    a, b = np.full((1, inner), 255, np.uint8), np.full((inner, 1), 255, np.uint8)
    a[0, 0], b[0, 0] = 3, 1
    total = int(a.astype(np.int64)[0] @ b.astype(np.int64)[:, 0])
    for target in range(1, 200, 7):
        scale = np.float32(total / (target + 0.4999))
        one, zero = np.array(1, np.float32), np.array(0, np.uint8)
        parameters = {"as": one, "az": zero, "b": b, "bs": one, "bz": zero, "ys": np.array(scale), "yz": zero}
        found = run_graph(load(model("QLinearMatMul", {"a": a}, parameters)), {"a": a})["y0"]
        factor = np.float32(1) / scale
        assert int(found[0, 0]) == round(float(np.float32(total) * factor))
    check(workers, model("QLinearMatMul", {"a": a}, parameters), {"a": a}, found)


def test_convolutions_of_bytes_add_up_in_32_bits(workers: Workers) -> None:
    x, w = extremes((1, 40, 6, 6), np.uint8, 2), extremes((3, 40, 3, 3), np.int8, 3)
    wide = np.lib.stride_tricks.sliding_window_view(x.astype(np.int64) - 7, (3, 3), axis=(2, 3))
    expected = np.einsum("ncyxij,ocij->noyx", wide, w.astype(np.int64) - 2).astype(np.int32)
    points = {"xz": np.array(7, np.uint8), "wz": np.array(2, np.int8)}
    check(workers, model("ConvInteger", {"x": x}, {"w": w, **points}), {"x": x}, expected)


def test_quantising_saturates_and_rounds_halves_to_even(workers: Workers) -> None:
    x = np.array([0.5, 1.5, -0.5, 2.5, 126.5, 127.5, 1e9, -1e9, np.inf, -np.inf], np.float32)
    expected = np.array([0, 2, 0, 2, 126, 127, 127, -128, 127, -128], np.int8)
    points = {"s": np.array(1, np.float32), "z": np.array(0, np.int8)}
    check(workers, model("QuantizeLinear", {"x": x}, points), {"x": x}, expected)
    back = {"x": np.array([2**31 - 1, -(2**31), 5], np.int32)}
    shifted = {"s": np.array(0.5, np.float32), "z": np.array(-3, np.int32)}
    doubled = np.array([(2**31 + 2) / 2, (-(2**31) + 3) / 2, 4], np.float32)
    check(workers, model("DequantizeLinear", back, shifted), back, doubled)


def test_the_power_of_a_negative_number_has_the_sign_of_an_odd_exponent(workers: Workers) -> None:
    """Exponents that f64 does not hold; the powers of an infinity, of zeros."""
    x = np.array([[-1.0], [-np.inf], [-0.0], [-2.0]])
    e = np.array([2**53 + 1, 2**62 + 1, HIGHEST, 2**53 + 2, -(2**53) - 1, 3])
    odd = np.array([1, 1, 1, 0, 1, 1], bool)
    size = np.array([[1] * 6, [np.inf] * 4 + [0, np.inf], [0] * 4 + [np.inf, 0], [np.inf] * 4 + [0, 8]])
    feed = {"x": x, "e": e}
    made = model("Pow", feed)
    for found in (run_graph(load(made), feed), build(prepared(made, None), workers, 1, None).run(feed)):
        np.testing.assert_array_equal(np.abs(found["y0"]), size)
        np.testing.assert_array_equal(np.signbit(found["y0"]), np.broadcast_to(odd, size.shape))


def test_f64_powers_that_are_numbers_are_given_exactly(workers: Workers) -> None:
    cases = [(x, e) for x in (*range(2, 300), 1.5, 0.25, 3 * 2.0**40) for e in range(60)]
    exact = [(x, e, int(x * 4) ** e) for x, e in cases]  # times 4^e, so that all are integers
    kept = [(x, e) for x, e, v in exact if v.bit_length() - (v & -v).bit_length() < 53 and v.bit_length() < 1000]
    feed = {"x": np.array([float(x) for x, _ in kept]), "e": np.array([float(e) for _, e in kept])}
    expected = np.array([math.ldexp(float(power(int(x * 4), e)), -2 * e) for x, e in kept])
    made = model("Pow", feed)
    np.testing.assert_array_equal(build(prepared(made, None), workers, 1, None).run(feed)["y0"], expected)
