"""Integer products of ONNX are exact on every instruction set, at the ends of the types too.

Kernels that add pairs of products in 16 bits (vpmaddubsw) saturate there: 255 * 127 twice is beyond 32767. Ours do not,
and each test holds them to sums in 64 bits of numbers for which that rounding would show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper
from tests.differential.trying import executing

from mapsto.devices.cpu.workers import Workers

Array = Any
Expected = Callable[[Array], Array]
PAIRS = ((np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8), (np.int8, np.uint8))
DEPTHS = (1, 2, 3, 4, 31, 64, 65)
ROWS, COLUMNS = 5, 19


def ends(kind: Any) -> tuple[int, int]:
    return int(np.iinfo(kind).min), int(np.iinfo(kind).max)


def patterns(shape: tuple[int, ...], kind: Any, seed: int) -> Iterator[Array]:
    """Tensors of the ends of a type alone, of both by turns, and of anything."""
    low, high = ends(kind)
    yield np.full(shape, high, kind)
    yield np.full(shape, low, kind)
    yield np.where(np.arange(np.prod(shape)).reshape(shape) % 3 == 0, low, high).astype(kind)
    yield np.random.default_rng(seed).integers(low, high, shape, kind, endpoint=True)


def saturating(a: Array, w: Array) -> Array:
    """The product whose pairs are added in 16 bits."""
    products = a.astype(np.int64)[:, :, None] * w.astype(np.int64)[None]
    pairs = [products[:, k : k + 2].sum(1) for k in range(0, products.shape[1], 2)]
    return sum(np.clip(pair, -(1 << 15), (1 << 15) - 1) for pair in pairs)


def test_numbers_that_saturation_would_show() -> None:
    for a, w in PAIRS:
        shown = [
            not np.array_equal(saturating(x, y), x.astype(np.int64) @ y.astype(np.int64))
            for x, y in zip(patterns((ROWS, 64), a, 0), patterns((64, COLUMNS), w, 1), strict=True)
        ]
        assert any(shown), (a, w)


def model_of(
    nodes: list[tuple[str, list[str], dict[str, Any]]], given: Mapping[str, Array], constants: Mapping[str, Array]
) -> Any:
    """One output a node; every extent of the inputs is open."""
    ports = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), [f"{n}_{k}" for k in range(a.ndim)])
        for n, a in given.items()
    ]
    stored = [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
    made = [helper.make_node(op, inputs, [f"y{k}"], **more) for k, (op, inputs, more) in enumerate(nodes)]
    results = [helper.make_empty_tensor_value_info(f"y{k}") for k in range(len(nodes))]
    graph = helper.make_graph(made, "products", ports, results, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


# -- matrices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", PAIRS, ids=lambda k: f"{k[0].__name__}-{k[1].__name__}")
def test_matrices_that_come_with_the_run(workers: Workers, kinds: tuple[Any, Any]) -> None:
    """Zero points: none, of one element, one a row of a and one a column of b."""
    a_kind, w_kind = kinds
    example = {
        "a": np.zeros((2, 2), a_kind), "w": np.zeros((2, 2), w_kind), "p": np.zeros((), a_kind),
        "q": np.zeros((), w_kind), "rows": np.zeros(2, a_kind), "columns": np.zeros(2, w_kind),
    }  # fmt: skip
    zeros = (["", ""], ["p", ""], ["p", "q"], ["rows", "columns"])
    run = executing(workers)(model_of([("MatMulInteger", ["a", "w", *z], {}) for z in zeros], example, {}))
    for depth in DEPTHS:
        for seed, (a, w) in enumerate(
            zip(patterns((ROWS, depth), a_kind, depth), patterns((depth, COLUMNS), w_kind, 9), strict=True)
        ):
            p, q = np.array(ends(a_kind)[seed % 2], a_kind), np.array(ends(w_kind)[seed // 2], w_kind)
            rng = np.random.default_rng(seed)
            rows, columns = (
                rng.choice(ends(kind), count).astype(kind) for kind, count in ((a_kind, ROWS), (w_kind, COLUMNS))
            )
            found = run({"a": a, "w": w, "p": p, "q": q, "rows": rows, "columns": columns})
            x, y = a.astype(np.int64), w.astype(np.int64)
            right = [x @ y, (x - p) @ y, (x - p) @ (y - q), (x - rows[:, None].astype(np.int64)) @ (y - columns)]
            for k, (ours, theirs) in enumerate(zip(found, right, strict=True)):
                assert ours.dtype == np.int32
                np.testing.assert_array_equal(ours, theirs, err_msg=f"{depth} {seed} {zeros[k]}")


@pytest.mark.parametrize("kinds", PAIRS, ids=lambda k: f"{k[0].__name__}-{k[1].__name__}")
def test_matrices_with_weights(workers: Workers, kinds: tuple[Any, Any]) -> None:
    """Weights and zero points that a compile knows: packed, less the zero point where the whole still fits a byte."""
    a_kind, w_kind = kinds
    depth = 65
    constants, nodes, right = _weights(a_kind, w_kind, depth)
    run = executing(workers)(model_of(nodes, {"a": np.zeros((2, depth), a_kind)}, constants))
    for a in patterns((ROWS, depth), a_kind, 3):
        for k, (ours, expected) in enumerate(zip(run({"a": a}), right, strict=True)):
            np.testing.assert_array_equal(ours, expected(a.astype(np.int64)), err_msg=str(nodes[k]))


def _weights(
    a_kind: Any, w_kind: Any, depth: int
) -> tuple[dict[str, Array], list[Any], list[Callable[[Array], Array]]]:
    constants: dict[str, Array] = {}
    nodes: list[Any] = []
    right: list[Expected] = []
    for k, w in enumerate(patterns((depth, COLUMNS), w_kind, 5)):
        p, q = np.array(ends(a_kind)[k % 2], a_kind), np.array(ends(w_kind)[k // 2], w_kind)
        constants |= {f"w{k}": w, f"p{k}": p, f"q{k}": q}
        nodes += [
            ("MatMulInteger", ["a", f"w{k}"], {}),
            ("MatMulInteger", ["a", f"w{k}", f"p{k}"], {}),
            ("MatMulInteger", ["a", f"w{k}", f"p{k}", f"q{k}"], {}),
        ]
        wide = w.astype(np.int64)
        for zero, centred in ((0, wide), (int(p), wide), (int(p), wide - q)):
            right.append(lambda a, z=zero, w=centred: (a - z) @ w)
    return constants, nodes, right


@pytest.mark.parametrize("kinds", PAIRS[:3], ids=lambda k: f"{k[0].__name__}-{k[1].__name__}")
def test_the_deepest_sum_that_32_bits_hold(workers: Workers, kinds: tuple[Any, Any]) -> None:
    """Products of the largest magnitude: no partial sum may lose a bit."""
    a_kind, w_kind = kinds
    far_a, far_w = (max(ends(k), key=abs) for k in kinds)
    depth = ((1 << 31) - 1) // abs(far_a * far_w)
    run = executing(workers)(
        model_of(
            [("MatMulInteger", ["a", "w"], {})], {"a": np.zeros((1, 1), a_kind), "w": np.zeros((1, 1), w_kind)}, {}
        )
    )
    (found,) = run({"a": np.full((2, depth), far_a, a_kind), "w": np.full((depth, 3), far_w, w_kind)})
    np.testing.assert_array_equal(found, np.full((2, 3), depth * far_a * far_w))


# -- windows -----------------------------------------------------------------------------------------------------------

WINDOWS: dict[str, dict[str, Any]] = {
    "padded": {"pads": [1, 1, 1, 1]},
    "stepping": {"pads": [1, 0, 0, 2], "strides": [2, 1], "dilations": [1, 2]},
    "grouped": {"group": 2, "pads": [1, 1, 1, 1]},
    "each": {"group": 4, "pads": [1, 1, 1, 1]},
}


def convolved(x: Array, w: Array, group: int = 1, **more: Any) -> Array:
    """Of centred tensors: what lies outside is zero. In 64 bits, tap by tap."""
    pads, strides, dilations = more["pads"], more.get("strides", [1, 1]), more.get("dilations", [1, 1])
    wide = np.pad(x, [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])])
    out = [(wide.shape[2 + k] - dilations[k] * (w.shape[2 + k] - 1) - 1) // strides[k] + 1 for k in (0, 1)]
    found = np.zeros((x.shape[0], w.shape[0], *out), np.int64)
    each, made = w.shape[1], w.shape[0] // group
    for g in range(group):
        for i, j in np.ndindex(*w.shape[2:]):
            rows, columns = (
                slice(at * d, at * d + s * (n - 1) + 1, s)
                for at, d, s, n in zip((i, j), dilations, strides, out, strict=True)
            )
            part = wide[:, g * each : (g + 1) * each, rows, columns]
            taps = w[g * made : (g + 1) * made, :, i, j]
            found[:, g * made : (g + 1) * made] += np.einsum("nchw,oc->nohw", part, taps)
    return found


@pytest.mark.parametrize("kinds", PAIRS[:3], ids=lambda k: f"{k[0].__name__}-{k[1].__name__}")
@pytest.mark.parametrize("known", [True, False], ids=["weights", "of the run"])
def test_windows(workers: Workers, kinds: tuple[Any, Any], known: bool) -> None:
    """A window that leaves the image reads zero points there. Those of weights: one for all, or one a channel."""
    x_kind, w_kind = kinds
    shape = (2, 4, 6, 7)
    nodes, constants, right = [], {}, []
    rng = np.random.default_rng(2)
    for k, more in enumerate(WINDOWS.values()):
        w = list(patterns((8, 4 // more.get("group", 1), 3, 3), w_kind, 1))[k]
        p, q = np.array(ends(x_kind)[1 - k % 2], x_kind), rng.choice(ends(w_kind), 8 if k % 2 else ()).astype(w_kind)
        constants |= {f"w{k}": w, f"p{k}": p, f"q{k}": q}
        point = q.astype(np.int64).reshape(-1, 1, 1, 1)
        for zeros, centred in (([f"p{k}", f"q{k}"], w - point), ([f"p{k}"], w.astype(np.int64))):
            nodes.append(("ConvInteger", ["x", f"w{k}", *zeros], more))
            right.append(lambda x, w=centred, p=int(p), more=more: convolved(x.astype(np.int64) - p, w, **more))
    run = executing(workers)(_conv_model(nodes, np.zeros(shape, x_kind), constants, known))
    for x in patterns(shape, x_kind, 4):
        for k, (ours, expected) in enumerate(zip(run({"x": x, **({} if known else constants)}), right, strict=True)):
            np.testing.assert_array_equal(ours, expected(x), err_msg=str(nodes[k]))


def _conv_model(nodes: list[Any], x: Array, constants: dict[str, Array], known: bool) -> Any:
    """Of a fixed number of channels."""
    given = {"x": x} if known else {"x": x, **constants}
    model = model_of(nodes, given, constants if known else {})
    for port in model.graph.input:
        for dim, extent in zip(port.type.tensor_type.shape.dim, given[port.name].shape, strict=True):
            if port.name != "x" or dim.dim_param == "x_1":
                dim.dim_value = extent
    return model


# -- scaled ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", PAIRS[:3], ids=lambda k: f"{k[0].__name__}-{k[1].__name__}")
def test_scaled_products_saturate_once(workers: Workers, kinds: tuple[Any, Any]) -> None:
    """Scales are powers of two, so the one rounding, to the result's integers, is known."""
    a_kind, w_kind = kinds
    depth = 64
    rng = np.random.default_rng(7)
    for w in patterns((depth, COLUMNS), w_kind, 6):
        p, q, r = (np.array(rng.integers(*ends(k), endpoint=True), k) for k in (a_kind, w_kind, a_kind))
        scales = {"as": 2.0**-6, "ws": 2.0**-7, "ys": 2.0**-2}
        constants = {"w": w, "p": p, "q": q, "r": r, **{n: np.array(s, np.float32) for n, s in scales.items()}}
        order = ["a", "as", "p", "w", "ws", "q", "ys", "r"]
        run = executing(workers)(
            model_of([("QLinearMatMul", order, {})], {"a": np.zeros((2, depth), a_kind)}, constants)
        )
        for a in patterns((ROWS, depth), a_kind, 8):
            (found,) = run({"a": a})
            total = (a.astype(np.int64) - int(p)) @ (w.astype(np.int64) - int(q))
            wide = np.round(total * 2.0**-11) + int(r)
            np.testing.assert_array_equal(found, np.clip(wide, *ends(a_kind)).astype(a_kind))


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (1,)])
def test_zeros_are_quantised_with_a_scale_of_one(workers: Workers, shape: tuple[int, ...]) -> None:
    """What has no range is quantised as ONNX Runtime does; range / 255 would be 0, and 0/0 the zero point."""
    x = np.zeros(shape, np.float32)
    model = model_of([("DynamicQuantizeLinear", ["x"], {})], {"x": x}, {})
    model.graph.node[0].output.extend(["scale", "zero"])
    model.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in ("scale", "zero"))
    whole, scale, zero = executing(workers)(model)({"x": x})
    assert (scale, zero) == (1, 0) and zero.dtype == np.uint8
    np.testing.assert_array_equal(whole, np.zeros(shape, np.uint8))
