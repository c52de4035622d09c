"""Models with floats of 8 and 4 bits and integers of 4 and 2, run natively: every rule of ONNX's casts, all ops that
move them, quantisation, artifacts.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tests.kernel.test_minifloats import random_floats

import mapsto
from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ModelError, ShapeError
from mapsto.ir.dtypes import DType
from mapsto.kernel.minifloats import ROUNDINGS, encode_reference
from mapsto.session.compile import build, prepared

NUMBERS = {
    "FLOAT8E4M3FN": DType.F8E4M3FN,
    "FLOAT8E4M3FNUZ": DType.F8E4M3FNUZ,
    "FLOAT8E5M2": DType.F8E5M2,
    "FLOAT8E5M2FNUZ": DType.F8E5M2FNUZ,
    "FLOAT8E8M0": DType.F8E8M0,
    "FLOAT4E2M1": DType.F4E2M1,
    "INT4": DType.I4,
    "UINT4": DType.U4,
    "INT2": DType.I2,
    "UINT2": DType.U2,
}
WITH_TABLES = ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ")


def typed(name: str) -> int:
    return int(TensorProto.DataType.Value(name))


def codes(name: str) -> np.ndarray:
    dtype = NUMBERS[name]
    return np.arange(1 << dtype.bits, dtype=np.uint8).view(dtype.numpy)


def model_of(
    nodes: list[Any], inputs: dict[str, tuple[str, list[Any]]], outputs: dict[str, str], *constants: Any
) -> Any:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, typed(kind), shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, typed(kind), None) for name, kind in outputs.items()],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])


def cast_model(source: str, target: str, **attributes: Any) -> Any:
    node = helper.make_node("Cast", ["x"], ["y"], to=typed(target), **attributes)
    return model_of([node], {"x": (source, ["n"])}, {"y": target})


def run(model: Any, workers: Workers, **feeds: np.ndarray) -> list[np.ndarray]:
    return list(build(prepared(model, None), workers, 1, None).run(feeds).values())


def by_the_standard(model: Any, **feeds: np.ndarray) -> list[np.ndarray]:
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model).run(None, feeds)


def same_bits(found: np.ndarray, wanted: np.ndarray) -> None:
    """NaN is any NaN, as its sign and payload are not said between floats of one kind and another."""
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    kind = f"u{found.itemsize}"
    with np.errstate(all="ignore"):
        nan = np.isnan(found.astype(np.float64)) & np.isnan(wanted.astype(np.float64))
    np.testing.assert_array_equal(np.where(nan, 0, found.view(kind)), np.where(nan, 0, wanted.view(kind)))


def halves(dtype: Any) -> np.ndarray:
    return np.arange(1 << 16, dtype=np.uint16).view(dtype)


SOURCES = {"FLOAT": random_floats, "FLOAT16": lambda: halves(np.float16), "BFLOAT16": lambda: halves(DType.BF16.numpy)}


@pytest.mark.parametrize("target", [*WITH_TABLES, "FLOAT4E2M1"])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("saturate", [1, 0])
def test_casts_to_small_floats(workers: Workers, source: str, target: str, saturate: int) -> None:
    x, model = SOURCES[source](), cast_model(source, target, saturate=saturate)
    (found,), (wanted,) = run(model, workers, x=x), by_the_standard(model, x=x)
    np.testing.assert_array_equal(found.view(np.uint8), wanted.view(np.uint8))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("saturate", [1, 0])
def test_casts_to_powers_of_two(workers: Workers, source: str, rounding: str, saturate: int) -> None:
    """Against the standard's table: `tests/kernel/test_minifloats.py` says where its reference is not that."""
    x = SOURCES[source]()
    (found,) = run(cast_model(source, "FLOAT8E8M0", saturate=saturate, round_mode=rounding), workers, x=x)
    wanted = encode_reference(x, DType.F8E8M0, bool(saturate), rounding)
    np.testing.assert_array_equal(found.view(np.uint8), wanted.view(np.uint8))


@pytest.mark.parametrize("target", [*WITH_TABLES, "FLOAT4E2M1", "FLOAT8E8M0"])
def test_doubles_are_rounded_once(workers: Workers, target: str) -> None:
    values = np.unique(codes(target).astype(np.float64))
    values = values[np.isfinite(values)]
    ties = (values[1:] + values[:-1]) / 2
    x = np.concatenate([values, ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf), [np.inf, np.nan, 1e300]])
    (found,) = run(cast_model("DOUBLE", target), workers, x=x)
    wanted = encode_reference(x, NUMBERS[target], True, "up")
    np.testing.assert_array_equal(found.view(np.uint8), wanted.view(np.uint8))


@pytest.mark.parametrize("source", NUMBERS)
@pytest.mark.parametrize("target", ["FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "INT32", "UINT64", "BOOL"])
def test_casts_of_every_code(workers: Workers, source: str, target: str) -> None:
    """What no integer type holds is left out: the standard does not say what becomes of it."""
    x, model = codes(source), cast_model(source, target)
    if target.startswith(("INT", "UINT")):
        wide = x.astype(np.float32)
        low, high = (0, 2**60) if target == "UINT64" else (-128, 127)
        x = x[(wide >= low) & (wide <= high)]
    (found,) = run(model, workers, x=x)
    with np.errstate(all="ignore"):
        same_bits(found, x.astype(np.float32).astype(helper.tensor_dtype_to_np_dtype(typed(target))))


@pytest.mark.parametrize("target", ["INT4", "UINT4", "INT2", "UINT2"])
@pytest.mark.parametrize("source", ["FLOAT", "FLOAT16", "DOUBLE", "INT8", "UINT16", "INT64", "BOOL", "FLOAT8E5M2"])
def test_casts_to_small_integers_keep_low_bits(workers: Workers, source: str, target: str) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(typed(source))
    x = np.arange(-200, 200, 1 if np.dtype(dtype).kind in "iu" else 0.5).astype(dtype)
    (found,) = run(cast_model(source, target), workers, x=x)
    np.testing.assert_array_equal(found, np.trunc(x.astype(np.float64)).astype(np.int64).astype(found.dtype))


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations((*WITH_TABLES, "FLOAT4E2M1"), 2)))
def test_casts_between_small_floats(workers: Workers, source: str, target: str) -> None:
    x = codes(source)
    (found,) = run(cast_model(source, target), workers, x=x)
    wanted = encode_reference(x.astype(np.float32), NUMBERS[target], True, "up")
    np.testing.assert_array_equal(found.view(np.uint8), wanted.view(np.uint8))


@pytest.mark.parametrize("kind", NUMBERS)
def test_elements_are_moved_as_they_are(workers: Workers, kind: str) -> None:
    x = np.resize(codes(kind), (6, 5))
    steps = [
        helper.make_node("Transpose", ["x"], ["a"], perm=[1, 0]),
        helper.make_node("Pad", ["a", "widths", "border"], ["b"]),
        helper.make_node("Reshape", ["b", "shape"], ["c"]),
        helper.make_node("Identity", ["c"], ["y"]),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["z"], value=numpy_helper.from_array(codes(kind)[3:4], "v")),
    ]
    widths = numpy_helper.from_array(np.array([1, 0, 0, 2]), "widths")
    shape = numpy_helper.from_array(np.array([3, -1]), "shape")
    border = numpy_helper.from_array(codes(kind)[1:2].reshape(()), "border")
    model = model_of(steps, {"x": (kind, ["n", 5])}, {"y": kind, "z": kind}, widths, shape, border)
    y, z = run(model, workers, x=x)
    padded = np.full((6, 8), 1, np.uint8)
    padded[1:, :6] = x.view(np.uint8).T
    np.testing.assert_array_equal(y.view(np.uint8), padded.reshape(3, 16))
    np.testing.assert_array_equal(z.view(np.uint8), np.full((6, 5), 3))
    assert y.dtype == z.dtype == x.dtype


@pytest.mark.parametrize("kind", ["FLOAT8E5M2", "INT4", "UINT2"])
def test_branches_and_rounds_hand_them_on(workers: Workers, kind: str) -> None:
    def branch(name: str, op: str) -> Any:
        node = helper.make_node(op, ["x"], [name], **({"perm": [1, 0]} if op == "Transpose" else {}))
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, typed(kind), None)])

    body = helper.make_graph(
        [helper.make_node("Transpose", ["s"], ["t"], perm=[1, 0]), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", typed(kind), [3, 3]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("t", typed(kind), [3, 3]),
        ],
    )
    steps = [
        helper.make_node("If", ["c"], ["y"], then_branch=branch("p", "Transpose"), else_branch=branch("q", "Identity")),
        helper.make_node("Loop", ["rounds", "", "y"], ["z"], body=body),
    ]
    model = model_of(steps, {"x": (kind, [3, 3]), "c": ("BOOL", []), "rounds": ("INT64", [])}, {"y": kind, "z": kind})
    x = np.resize(codes(kind), (3, 3))
    for condition, rounds in itertools.product((True, False), (0, 1, 4)):
        y, z = run(model, workers, x=x, c=np.array(condition), rounds=np.array(rounds))
        wanted = x.T if condition else x
        np.testing.assert_array_equal(y, wanted)
        np.testing.assert_array_equal(z, wanted.T if rounds % 2 else wanted)


def linear(
    op: str, source: str, target: str, shape: list[int], scale: np.ndarray, zero: bool, **attributes: Any
) -> Any:
    """x and a zero point are inputs, the scale as well."""
    zero_kind = target if op == "QuantizeLinear" else source
    scale_kind = TensorProto.DataType.Name(helper.np_dtype_to_tensor_dtype(scale.dtype))
    node = helper.make_node(op, ["x", "scale", *(["zero"] if zero else [])], ["y"], **attributes)
    inputs = {"x": (source, shape), "scale": (scale_kind, list(scale.shape))}
    if zero:
        inputs["zero"] = (zero_kind, list(scale.shape))
    return model_of([node], inputs, {"y": target})


SCALES = {
    "one": (np.array(0.37), {}),
    "axis": (np.linspace(0.1, 2.5, 5), {"axis": 1}),
    "blocks": (np.linspace(0.1, 2.5, 4 * 2).reshape(4, 2), {"axis": 1, "block_size": 3}),
    "blocks of the first": (np.linspace(0.1, 2.5, 2 * 5).reshape(2, 5), {"axis": 0, "block_size": 2}),
}


@pytest.mark.parametrize("target", [kind for kind in NUMBERS if kind != "FLOAT8E8M0"])
@pytest.mark.parametrize("source", ["FLOAT", "FLOAT16"])
@pytest.mark.parametrize("scales", SCALES)
def test_quantised(workers: Workers, source: str, target: str, scales: str) -> None:
    scale, attributes = SCALES[scales]
    dtype = helper.tensor_dtype_to_np_dtype(typed(source))
    x = (np.random.default_rng(4).standard_normal((4, 5)) * 9).astype(dtype)
    scale = scale.astype(dtype)
    plain = linear("QuantizeLinear", source, target, [4, 5], scale, False, output_dtype=typed(target), **attributes)
    (found,), (wanted,) = run(plain, workers, x=x, scale=scale), by_the_standard(plain, x=x, scale=scale)
    np.testing.assert_array_equal(found, wanted)
    if target in ("INT4", "UINT4", "INT2", "UINT2"):
        zero = np.resize(codes(target), scale.shape)
        shifted = linear("QuantizeLinear", source, target, [4, 5], scale, True, **attributes)
        feeds = {"x": x, "scale": scale, "zero": zero}
        np.testing.assert_array_equal(run(shifted, workers, **feeds)[0], by_the_standard(shifted, **feeds)[0])


@pytest.mark.parametrize("source", [kind for kind in NUMBERS if kind != "FLOAT8E8M0"])
@pytest.mark.parametrize("target", ["FLOAT", "FLOAT16", "BFLOAT16"])
@pytest.mark.parametrize("scales", SCALES)
def test_dequantised(workers: Workers, source: str, target: str, scales: str) -> None:
    scale, attributes = SCALES[scales]
    x = np.resize(codes(source), (4, 5))
    scale = scale.astype(helper.tensor_dtype_to_np_dtype(typed(target)))
    plain = linear("DequantizeLinear", source, target, [4, 5], scale, False, **attributes)
    (found,), (wanted,) = run(plain, workers, x=x, scale=scale), by_the_standard(plain, x=x, scale=scale)
    same_bits(found, wanted)
    if source in ("INT4", "UINT4", "INT2", "UINT2"):
        feeds = {"x": x, "scale": scale, "zero": np.resize(codes(source)[::-1], scale.shape)}
        shifted = linear("DequantizeLinear", source, target, [4, 5], scale, True, **attributes)
        same_bits(run(shifted, workers, **feeds)[0], by_the_standard(shifted, **feeds)[0])


def test_scales_may_be_powers_of_two(workers: Workers) -> None:
    """The microscaling formats: blocks of small floats, their scales in f8e8m0."""
    scale = np.array([[120, 127], [130, 125]], np.uint8).view(DType.F8E8M0.numpy)
    x = np.resize(codes("FLOAT4E2M1"), (2, 8))
    node = helper.make_node("DequantizeLinear", ["x", "scale"], ["y"], axis=1, block_size=4, output_dtype=1)
    model = model_of([node], {"x": ("FLOAT4E2M1", [2, 8]), "scale": ("FLOAT8E8M0", [2, 2])}, {"y": "FLOAT"})
    (found,) = run(model, workers, x=x, scale=scale)
    same_bits(found, x.astype(np.float32) * np.repeat(scale.astype(np.float32), 4, axis=1))


def test_precision_is_what_the_division_is_rounded_to(workers: Workers) -> None:
    x = np.linspace(-300, 300, 999).astype(np.float32)
    scale = np.array(0.77, np.float32)
    model = linear(
        "QuantizeLinear", "FLOAT", "INT8", [999], scale, False, output_dtype=3, precision=TensorProto.FLOAT16
    )
    (found,) = run(model, workers, x=x, scale=scale)
    np.testing.assert_array_equal(found, by_the_standard(model, x=x, scale=scale)[0])


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("raw", [True, False])
def test_constants_of_a_file(workers: Workers, kind: str, raw: bool) -> None:
    """Fewer than 8 bits lie packed in a file, the first element in the low bits; an odd count leaves some over."""
    x = np.resize(codes(kind), (3, 5))
    packed = numpy_helper.from_array(x, "w")
    if not raw:
        packed = TensorProto(name="w", dims=[3, 5], data_type=typed(kind), int32_data=list(packed.raw_data))
    (found,) = run(
        model_of([helper.make_node("Transpose", ["w"], ["y"], perm=[1, 0])], {}, {"y": kind}, packed), workers
    )
    np.testing.assert_array_equal(found.view(np.uint8), x.T.view(np.uint8))


def test_a_constant_of_another_count_is_refused() -> None:
    packed = TensorProto(name="w", dims=[3, 5], data_type=typed("INT4"), raw_data=bytes(7))
    node = helper.make_node("Transpose", ["w"], ["y"], perm=[1, 0])
    with pytest.raises(ModelError, match="7 bytes of data for .3, 5. elements of i4, which are 8 bytes"):
        mapsto.compile(model_of([node], {}, {"y": "INT4"}, packed))


@pytest.mark.parametrize("kind", ["FLOAT8E4M3FN", "INT4"])
def test_an_artifact_keeps_the_types(tmp_path: Any, kind: str) -> None:
    node = helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])
    made = mapsto.compile(model_of([node], {"x": (kind, [2, 3])}, {"y": kind}), threads=1)
    made.save(tmp_path / "a.mapsto")
    x = np.resize(codes(kind), (2, 3))
    (found,) = mapsto.load(tmp_path / "a.mapsto").run({"x": x}).values()
    np.testing.assert_array_equal(found, x.T)
    assert found.dtype == x.dtype


def test_another_type_at_the_boundary_is_refused_by_name() -> None:
    made = mapsto.compile(cast_model("FLOAT8E4M3FN", "FLOAT"), threads=1)
    for wrong in (np.zeros(3, np.uint8), np.zeros(3, np.float32), codes("FLOAT8E5M2")[:3]):
        with pytest.raises(ShapeError, match="float8_e4m3fn was expected"):
            made.run({"x": wrong})


def test_ops_that_compute_refuse_them() -> None:
    model = model_of([helper.make_node("Add", ["x", "x"], ["y"])], {"x": ("FLOAT8E4M3FN", [3])}, {"y": "FLOAT8E4M3FN"})
    with pytest.raises(ModelError, match="f8e4m3fn; allowed"):
        mapsto.compile(model)


def test_quantised_products_of_small_floats(workers: Workers) -> None:
    random = np.random.default_rng(5)
    names = ["a", "a_scale", "zero", "b", "b_scale", "zero", "y_scale", "zero"]
    kind = "FLOAT8E4M3FN"
    inputs: dict[str, tuple[str, list[Any]]] = {"a": (kind, [4, 6]), "b": (kind, [6, 3]), "zero": (kind, [])}
    inputs |= {name: ("FLOAT", []) for name in ("a_scale", "b_scale", "y_scale")}
    model = model_of([helper.make_node("QLinearMatMul", names, ["y"])], inputs, {"y": kind})
    a, b = ((random.standard_normal(shape) * 3).astype(DType.F8E4M3FN.numpy) for shape in ((4, 6), (6, 3)))
    scales = {"a_scale": np.float32(0.5), "b_scale": np.float32(0.25), "y_scale": np.float32(0.3)}
    zero = np.zeros((), DType.F8E4M3FN.numpy)
    (found,) = run(model, workers, a=a, b=b, zero=zero, **{k: np.asarray(v) for k, v in scales.items()})
    real = (a.astype(np.float64) @ b.astype(np.float64)) * 0.125 / np.float32(0.3)
    np.testing.assert_array_equal(found, encode_reference(real.astype(np.float32), DType.F8E4M3FN, True, "up"))


@pytest.mark.parametrize("op", ["QuantizeLinear", "DequantizeLinear"])
def test_a_zero_point_that_is_known_to_be_zero_costs_nothing(op: str) -> None:
    small, real = ("y", "x") if op == "QuantizeLinear" else ("x", "y")
    kinds = {small: "FLOAT8E4M3FN", real: "FLOAT"}
    zero = numpy_helper.from_array(np.zeros((), DType.F8E4M3FN.numpy), "zero")
    scale = numpy_helper.from_array(np.array(0.5, np.float32), "scale")
    node = helper.make_node(op, ["x", "scale", "zero"], ["y"])
    graph = prepared(model_of([node], {"x": (kinds["x"], [7])}, {"y": kinds["y"]}, zero, scale), None)
    assert {n.op for n in graph.nodes} <= {"decode", "encode", "mul", "div"}
