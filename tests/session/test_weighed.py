"""Products that a model has quantised: in integers or in floats, as the plan says; exact integers where asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tests.importers.models import node, port

import mapsto
from mapsto.devices.cpu import isa as isas
from mapsto.devices.cpu.maker import CpuMaker
from mapsto.devices.cpu.typical import typical
from mapsto.errors import ArgumentError
from mapsto.formats.format import AS_IT_IS, wanted
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.machine.spec import Machine
from mapsto.passes import run_passes
from mapsto.passes.float_products import float_products
from mapsto.plan.initial import constants_of
from mapsto.session.compile import prepared
from mapsto.session.formed import as_multiplied
from mapsto.session.weighed import FLOATS, INTEGERS, as_asked, in_integers, weighed

SCALE, CHANNELS = np.float32(0.05), 32
ISAS = [name for name in ("sse2", "avx2", "avx512", "avx512-vnni") if isas.runs(isas.by_name(name))]


def quantised_model(
    kind: Any = np.uint8, op: str = "Conv", zero: int = 3, batch: int = 2, sizes: tuple[int, int] = (3, 3),
    channels: int = CHANNELS,
) -> Any:  # fmt: skip
    """Two products after each other, quantised as onnxruntime does it: scales of weights a channel, a relu between.
    sizes: of the windows of convolutions.
    """
    rng = np.random.default_rng(7)
    tensors: dict[str, np.ndarray] = {"s": SCALE, "z": np.asarray(zero, kind)}
    nodes, at = [], "x"
    for k, size in zip((1, 2), sizes, strict=True):
        window = {"pads": [size // 2] * 4} if op == "Conv" else {}
        shape = (channels, channels, size, size) if op == "Conv" else (channels, channels)
        tensors[f"w{k}"] = rng.integers(-127, 128, shape).astype(np.int8)
        tensors[f"ws{k}"] = rng.uniform(0.001, 0.01, channels).astype(np.float32)
        tensors[f"wz{k}"] = np.zeros(channels, np.int8)
        axis = 0 if op == "Conv" else 1
        nodes += [
            node("QuantizeLinear", [at, "s", "z"], [f"q{k}"]),
            node("DequantizeLinear", [f"q{k}", "s", "z"], [f"d{k}"]),
            node("DequantizeLinear", [f"w{k}", f"ws{k}", f"wz{k}"], [f"wd{k}"], axis=axis),
            node(op, [f"d{k}", f"wd{k}"], [f"p{k}"], name=f"product {k}", **window),
            node("Relu", [f"p{k}"], [f"r{k}"]),
        ]
        at = f"r{k}"
    nodes.append(node("QuantizeLinear", [at, "s", "z"], ["y"]))
    shape = [batch, channels, 14, 14] if op == "Conv" else [batch, 9, channels]
    held = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    result = onnx.ValueInfoProto(name="y")
    graph = helper.make_graph(nodes, "g", [port("x", shape, np.float32)], [result], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def feed(given: Any, seed: int = 1) -> dict[str, np.ndarray]:
    shape = [d.dim_value for d in given.graph.input[0].type.tensor_type.shape.dim]
    return {"x": (np.random.default_rng(seed).standard_normal(shape) * 4).astype(np.float32)}


def by_exact_sums(given: Any, x: np.ndarray) -> np.ndarray:
    """The model by numpy, sums in f64, which are exact."""
    arrays = {each.name: numpy_helper.to_array(each) for each in given.graph.initializer}
    scale, zero = float(arrays["s"]), int(arrays["z"])
    limits, op = np.iinfo(arrays["z"].dtype), given.graph.node[3].op_type
    real = x.astype(np.float64)
    for k in (1, 2):
        q = np.clip(np.rint(real / scale) + zero, limits.min, limits.max) - zero
        w = arrays[f"w{k}"].astype(np.float64)
        if op == "Conv":
            padded = np.pad(q, ((0, 0), (0, 0), (1, 1), (1, 1)))
            views = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
            total = np.einsum("ncyxij,ocij->noyx", views, w)
            factor = arrays[f"ws{k}"].astype(np.float64)[:, None, None]
        else:
            total, factor = q @ w, arrays[f"ws{k}"].astype(np.float64)
        real = np.maximum(total * factor * scale, 0)
    return np.asarray(np.clip(np.rint(real / scale) + zero, limits.min, limits.max))


def near(found: np.ndarray, exact: np.ndarray) -> None:
    """One step off where a quotient is nearly in the middle, on the way or in the end."""
    off = np.abs(found.astype(np.int64) - exact.astype(np.int64))
    assert off.max(initial=0) <= 1 and (off > 0).mean() < 0.02


def types(graph: Graph) -> list[DType]:
    return [each.output.dtype for each in graph.nodes if each.op in ("conv", "matmul")]


# -- what is asked for -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Conv", "MatMul"])
@pytest.mark.parametrize("kind, zero", [(np.uint8, 0), (np.uint8, 3), (np.int8, -128), (np.int8, 0)])
def test_each_way_gives_the_models_numbers(op: str, kind: Any, zero: int) -> None:
    given = quantised_model(kind, op, zero)
    fed = feed(given)
    exact = by_exact_sums(given, fed["x"])
    for options in ({}, {"exact_integers": True}, {"formats": "f32"}, {"formats": {"product 2": "f32"}}):
        made = mapsto.compile(given, cache=False, **options)  # type: ignore[arg-type]
        near(made.run(fed)["y"], exact)


def test_the_plan_says_so() -> None:
    given = quantised_model()
    exe = mapsto.compile(given, formats={"product 2": "f32"}, cache=False)
    assert [each.format for each in exe.plan.formats] == [INTEGERS, FLOATS]
    assert "asked for" in exe.plan.explain("product 2") and "stay f32" in exe.plan.explain("product 2")
    exact = mapsto.compile(given, exact_integers=True, cache=False)
    assert {each.because for each in exact.plan.formats} == {"exact integers were asked for"}
    assert "are of integers" in exact.plan.explain("product 1")


def test_a_plan_is_replayed_as_it_says() -> None:
    given = quantised_model()
    for options in ({}, {"formats": {"product 1": "f32"}}, {"exact_integers": True}):
        exe = mapsto.compile(given, cache=False, **options)  # type: ignore[arg-type]
        again = mapsto.compile(given, plan=exe.plan.text(), cache=False)
        assert again.plan == exe.plan
        np.testing.assert_array_equal(again.run(feed(given))["y"], exe.run(feed(given))["y"])


def test_floats_beside_exact_integers_are_an_error() -> None:
    given = quantised_model()
    with pytest.raises(ArgumentError, match="product 2.*f32.*leave one out"):
        mapsto.compile(given, exact_integers=True, formats={"product 2": "f32"}, cache=False)
    plan = mapsto.compile(given, formats="f32", cache=False).plan
    with pytest.raises(ArgumentError, match="exact_integers"):
        mapsto.compile(given, exact_integers=True, plan=plan, cache=False)
    with pytest.raises(ArgumentError, match="exact_integers"):
        mapsto.compile(given, exact_integers="yes", cache=False)  # type: ignore[arg-type]


def test_other_models_have_nothing_to_choose() -> None:
    x = helper.make_tensor_value_info("x", 1, [2, 3])
    graph = helper.make_graph(
        [node("MatMul", ["x", "w"], ["y"])], "g", [x], [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.ones((3, 4), np.float32), "w")],
    )  # fmt: skip
    given = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    assert mapsto.compile(given, exact_integers=True, cache=False).plan.formats == ()


def test_what_is_stored_on_the_way_is_what_it_was() -> None:
    """A relu that is an output as well as what is quantised next."""
    given = quantised_model()
    given.graph.output.append(onnx.ValueInfoProto(name="r1"))
    fed = feed(given)
    found = mapsto.compile(given, exact_integers=True, cache=False).run(fed)
    near(found["y"], by_exact_sums(given, fed["x"]))
    again = np.clip(np.rint(found["r1"].astype(np.float64) / SCALE) + 3, 0, 255)
    assert found["r1"].dtype == np.float32 and float(found["r1"].max()) > 1 and 3 <= again.min() < again.max()
    arrays = {each.name: numpy_helper.to_array(each) for each in given.graph.initializer}
    q = np.clip(np.rint(fed["x"].astype(np.float64) / SCALE) + 3, 0, 255) - 3
    views = np.lib.stride_tricks.sliding_window_view(np.pad(q, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3))
    total = np.einsum("ncyxij,ocij->noyx", views, arrays["w1"].astype(np.float64))
    exact = np.maximum(total * arrays["ws1"].astype(np.float64)[:, None, None] * SCALE, 0)
    np.testing.assert_allclose(found["r1"], exact, rtol=1e-5, atol=1e-4)


# -- the same everywhere -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Conv", "MatMul"])
@pytest.mark.parametrize("kind, zero", [(np.uint8, 3), (np.int8, -128), (np.int8, 5)])
def test_exact_integers_have_the_same_bits_on_every_processor(op: str, kind: Any, zero: int) -> None:
    given = quantised_model(kind, op, zero)
    fed = feed(given, 3)
    found = [mapsto.compile(given, exact_integers=True, cache=False).run(fed)["y"]]
    found += [mapsto.compile(given, exact_integers=True, isa=isa, cache=False).run(fed)["y"] for isa in ISAS]
    for each in found[1:]:
        np.testing.assert_array_equal(each, found[0])


def silu_model(kind: Any, filters: int, kept: bool) -> Any:
    """A convolution and x sigmoid(x) of what it yields, each quantised: a function of one byte. kept: whether that
    byte is an output as well.
    """
    rng = np.random.default_rng(3)
    low = int(np.iinfo(kind).min)
    tensors = {
        "s": np.float32(0.05), "z": np.asarray(low + 40, kind), "gs": np.float32(1 / 256), "gz": np.asarray(low, kind),
        "ms": np.float32(0.03), "mz": np.asarray(low + 9, kind), "w": rng.integers(-127, 128, (filters, 16, 3, 3)),
        "ws": np.full(filters, 1e-3, np.float32), "wz": np.zeros(filters, np.int8),
    }  # fmt: skip
    tensors["w"] = tensors["w"].astype(np.int8)
    nodes = []
    for x, scale, zero in (("x", "s", "z"), ("p", "s", "z"), ("g", "gs", "gz"), ("m", "ms", "mz")):
        if x == "p":
            nodes.append(node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0))
            nodes.append(node("Conv", ["x_d", "wd"], ["p"], pads=[1] * 4, name="product"))
        elif x == "g":
            nodes.append(node("Sigmoid", ["p_d"], ["g"]))
        elif x == "m":
            nodes.append(node("Mul", ["p_d", "g_d"], ["m"]))
        nodes.append(node("QuantizeLinear", [x, scale, zero], [f"{x}_q"]))
        nodes.append(node("DequantizeLinear", [f"{x}_q", scale, zero], [f"{x}_d"]))
    held = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    results = [onnx.ValueInfoProto(name=name) for name in (("m_d", "p_q") if kept else ("m_d",))]
    graph = helper.make_graph(nodes, "g", [port("x", [1, 16, 9, 11], np.float32)], results, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("filters", [32, 20, 7])
@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_functions_of_bytes_have_the_same_bits_on_every_processor(kind: Any, filters: int, kept: bool) -> None:
    """Some look them up in tables, some compute them; some columns are left over."""
    given = silu_model(kind, filters, kept)
    fed = feed(given, 5)
    found = [mapsto.compile(given, exact_integers=True, isa=isa, cache=False).run(fed) for isa in ISAS]
    for each in found[1:]:
        for name, array in each.items():
            np.testing.assert_array_equal(array, found[0][name])
    x = np.clip(np.rint(fed["x"].astype(np.float64) / np.float32(0.05)) + 40, 0, 255) - 40
    weights = numpy_helper.to_array(next(t for t in given.graph.initializer if t.name == "w")).astype(np.float64)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    total = np.einsum("ncyxij,ocij->noyx", views, weights) * np.float32(0.05) * np.float32(1e-3)
    real = (np.clip(np.rint(total / np.float32(0.05)) + 40, 0, 255) - 40) * np.float32(0.05)
    gate = np.clip(np.rint(256 / (1 + np.exp(-real))), 0, 255) / 256
    exact = (np.clip(np.rint(real * gate / np.float32(0.03)) + 9, 0, 255) - 9) * np.float32(0.03)
    off = np.abs(found[0]["m_d"] - exact)
    assert off.max() < 2.5 * 0.05 and (off > 1e-4).mean() < 0.02


# -- what is weighed ---------------------------------------------------------------------------------------------------


def raw(given: Any) -> Graph:
    return prepared(given, None, ())


def device(speed: float) -> Any:
    """An AVX2 core whose products of integers are so many times as fast as those of f32."""
    isa = isas.by_name("avx2")
    host = typical(isa, 1)
    one = host.peaks[DType.F32, DType.F32, DType.F32]
    peaks = {types: one * speed if types[2] is DType.I32 else peak for types, peak in host.peaks.items()}
    machine = Machine((replace(host, peaks=peaks),))
    return lambda graph: CpuMaker(isa, constants_of(graph), lambda name, text, optimizer: None, machine)


def finish(graph: Graph) -> Graph:
    return as_multiplied(run_passes(graph), DType.I16)


@pytest.mark.parametrize("op", ["Conv", "MatMul"])
def test_what_is_predicted_to_take_less(op: str) -> None:
    graph = raw(quantised_model(op=op, batch=8))
    slow, fast = (weighed(graph, finish, device(speed)) for speed in (0.05, 50.0))
    assert types(slow.graph) == [DType.F32, DType.F32] and types(fast.graph) == [DType.I32, DType.I32]
    assert [each.format for each in slow.formats] == [FLOATS] * 2
    assert [each.format for each in fast.formats] == [INTEGERS] * 2
    assert all("in integers it would take" in each.because and "more" in each.because for each in slow.formats)
    assert all("in f32 it would take" in each.because and "more" in each.because for each in fast.formats)
    assert slow.mapped is not None and slow.mapped.graph is slow.graph


def test_some_in_floats_and_others_in_integers() -> None:
    """A window of 3x3 has products at points in f32, one of a single point has none."""
    graph = raw(quantised_model(zero=0, batch=8, sizes=(3, 1), channels=128))
    found = weighed(graph, finish, device(2.0))
    assert [each.format for each in found.formats] == [FLOATS, INTEGERS]
    assert types(found.graph) == [DType.F32, DType.I32]


def test_none_is_weighed_where_none_may_be_in_floats() -> None:
    graph = raw(quantised_model(op="MatMul"))
    found = in_integers(graph, finish, AS_IT_IS, "asked")
    assert types(found.graph) == [DType.I32] * 2 and found.mapped is None
    assert types(as_asked(graph, finish, AS_IT_IS).graph) == [DType.I32] * 2
    assert types(as_asked(graph, finish, wanted("f32")).graph) == [DType.F32] * 2
    with pytest.raises(ArgumentError, match="product 1"):
        in_integers(graph, finish, wanted("f32"), "asked")


@pytest.mark.parametrize("op", ["QLinearMatMul", "MatMulInteger"])
def test_ops_of_integers_are_always_integers(op: str) -> None:
    """They say no floats: the same sums whatever products take."""
    rng = np.random.default_rng(0)
    w = rng.integers(-127, 128, (40, 24)).astype(np.int8)
    x, made = port("x", [5, 40], np.uint8), onnx.ValueInfoProto(name="y")
    tensors = {"s": np.float32(0.1), "z": np.uint8(3), "w": w, "ws": np.float32(0.01), "wz": np.int8(0)}
    inputs = ["x", "s", "z", "w", "ws", "wz", "s", "z"] if op == "QLinearMatMul" else ["x", "w", "z", "wz"]
    held = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    given = helper.make_model(
        helper.make_graph([node(op, inputs, ["y"])], "g", [x], [made], held),
        opset_imports=[helper.make_opsetid("", 21)], ir_version=10,
    )  # fmt: skip
    graph = raw(given)
    assert float_products(graph) == ()
    assert types(weighed(graph, finish, device(0.01)).graph) == [DType.I32]
    assert mapsto.compile(given, formats="f32", cache=False).plan.formats == ()
