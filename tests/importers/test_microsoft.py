"""Ops of com.microsoft, native, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import mapsto
from mapsto.errors import MapstoError

F32 = np.float32
Inputs = dict[str, Any]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return rng(seed).standard_normal(shape).astype(F32)


def integers(*shape: int, kind: Any = np.uint8, seed: int = 0) -> np.ndarray:
    info = np.iinfo(kind)
    return rng(seed).integers(info.min, info.max, shape, kind, endpoint=True)


def drawn_weights(*shape: int, kind: Any = np.int8, seed: int = 0) -> np.ndarray:
    """Signed ones are halved: on processors without VNNI, ONNX Runtime adds pairs of their products with bytes in 16
    bits, which saturate. Ours do not.
    """
    drawn = integers(*shape, kind=kind, seed=seed)
    return drawn // 2 if np.issubdtype(kind, np.signedinteger) else drawn


def one(number: float, kind: Any = F32) -> np.ndarray:
    return np.array(number, kind)


def model_of(op: str, given: Inputs, constants: Inputs, order: list[str], outputs: list[str], **attributes: Any) -> Any:
    def kind(array: Any) -> int:
        return int(helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype))

    ports = [
        helper.make_tensor_value_info(n, kind(a), [f"{n}{k}" for k in range(np.ndim(a))]) for n, a in given.items()
    ]
    stored = [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
    node = helper.make_node(op, order, outputs, "it", domain="com.microsoft", **attributes)
    results = [helper.make_empty_tensor_value_info(n) for n in outputs if n]
    graph = helper.make_graph([node], "one", ports, results, stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def theirs(model: Any, given: Inputs) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # a quantised LSTM takes ranges over what a thread has
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(a) for a in session.run(None, given)]


def check(
    op: str, given: Inputs, constants: Inputs | None = None, order: str = "", outputs: str = "y", near: float = 2e-5,
    apart: int = 0, **attributes: Any,
) -> None:  # fmt: skip
    """order: names of the inputs, "-" where one is left out. near: of floats, to the largest. apart: of integers."""
    constants = constants or {}
    names = ["" if n == "-" else n for n in (order.split() if order else [*given, *constants])]
    model = model_of(op, given, constants, names, outputs.split(), **attributes)
    found = list(mapsto.compile(model, cache=False).run(given).values())
    for ours, right in zip(found, theirs(model, given), strict=True):
        assert ours.dtype == right.dtype and ours.shape == right.shape
        if ours.dtype.kind in "iu":
            far = np.abs(ours.astype(np.int64) - right.astype(np.int64))
            assert far.max(initial=0) <= apart, (int(far.max()), float((far > 0).mean()))
        else:
            np.testing.assert_allclose(ours, right, rtol=near, atol=near * float(np.abs(right).max(initial=1)))


# -- floats ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Gelu", "FastGelu", "QuickGelu", "BiasGelu", "FastGelu with a bias"])
def test_gelus(op: str) -> None:
    given = {"x": 3 * floats(2, 5, 24)}
    if "ias" in op:
        given["b"] = floats(24, seed=1)
    check(op.split()[0], given, near=1e-4 if "Fast" in op else 2e-5)


@pytest.mark.parametrize("turned", [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (1, 1, 0, 0), (0, 0, 1, 0), (0, 1, 1, 1)])
def test_fused_matmul(turned: tuple[int, ...]) -> None:
    ta, tb, ba, bb = turned
    a, c = floats(3, 4, 5), floats(3, 5, 6, seed=1)
    a = a.swapaxes(1, 2) if ta else a
    c = c.swapaxes(1, 2) if tb else c
    a, c = (np.moveaxis(v, 0, 1) if on else v for v, on in ((a, ba), (c, bb)))
    given = {"a": np.ascontiguousarray(a), "c": np.ascontiguousarray(c)}
    check("FusedMatMul", given, alpha=0.5, transA=ta, transB=tb, transBatchA=ba, transBatchB=bb)


def test_fused_gemm_and_conv() -> None:
    given = {"a": floats(4, 5), "c": floats(5, 6, seed=1), "b": floats(6, seed=2)}
    check("FusedGemm", given, activation="LeakyRelu", activation_alpha=0.1, alpha=0.5, beta=2.0)
    weights = {"w": floats(4, 3, 3, 3, seed=1), "b": floats(4, seed=2)}
    for activation, parameters in (("Relu", []), ("Clip", [0.0, 6.0]), ("LeakyRelu", [0.1]), ("Sigmoid", [])):
        more = {"activation_params": parameters} if parameters else {}
        check("FusedConv", {"x": floats(1, 3, 8, 9)}, weights, activation=activation, pads=[1, 1, 1, 1], **more)
    summed = {"x": floats(1, 3, 8, 9), "z": floats(1, 4, 6, 7, seed=5)}
    check("FusedConv", summed, weights, "x w b z", activation="Relu")


def test_skip_layer_normalization() -> None:
    given = {"x": floats(2, 3, 16), "s": floats(2, 3, 16, seed=1)}
    parameters = {"g": floats(16, seed=2), "b": floats(16, seed=3), "a": floats(16, seed=4)}
    check("SkipLayerNormalization", given, parameters, outputs="y", epsilon=1e-5)
    check("SkipLayerNormalization", given, parameters, "x s g b", epsilon=1e-5)
    node = model_of("SkipLayerNormalization", given, parameters, [*given, *parameters], ["y", "", "", "t"])
    found = mapsto.compile(node, cache=False).run(given)
    np.testing.assert_allclose(found["t"], given["x"] + given["s"] + parameters["a"], rtol=1e-6)
    check("SkipSimplifiedLayerNormalization", given, {"g": parameters["g"]}, epsilon=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_embed_layer_normalization(masked: bool) -> None:
    ids = {n: rng(k).integers(0, 7, (2, 5)).astype(np.int32) for k, n in enumerate(("ids", "segments"))}
    if masked:
        ids["mask"] = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    tables = {n: floats(7, 16, seed=k) for k, n in enumerate(("words", "places", "kinds"))}
    tables |= {"g": floats(16, seed=4), "b": floats(16, seed=5)}
    order = "ids segments words places kinds g b" + (" mask" if masked else "")
    check("EmbedLayerNormalization", ids, tables, order, "y lengths", epsilon=1e-5)


@pytest.mark.parametrize("kind", ["none", "rows", "lengths", "whole", "unidirectional", "past"])
def test_attention(kind: str) -> None:
    batch, rows, width, heads = 2, 5, 12, 3
    given: Inputs = {"x": floats(batch, rows, width)}
    order, outputs, attributes = "x w b", "y", {}
    if kind == "rows":
        given["m"] = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    if kind == "lengths":
        given["m"] = np.array([3, 5], np.int32)
    if kind == "whole":
        given["m"] = np.tril(np.ones((batch, rows, rows), np.int32))
    if kind == "unidirectional":
        attributes["unidirectional"] = 1
    order += " m" if "m" in given else ""
    if kind == "past":
        given["p"] = floats(2, batch, heads, 4, width // heads, seed=7)
        order, outputs, attributes = "x w b - p", "y present", {"unidirectional": 1}
    weights = {"w": floats(width, 3 * width, seed=1), "b": floats(3 * width, seed=2)}
    check("Attention", given, weights, order, outputs, num_heads=heads, **attributes)


def test_a_key_after_the_query_weighs_nothing_beside_keys_that_the_mask_leaves_out() -> None:
    """A row of which the mask leaves nothing still reads no key that comes after it."""
    given = {"x": floats(2, 4, 12), "m": np.array([[0, 1, 1, 1], [0, 0, 0, 0]], np.int32)}
    weights = {"w": floats(12, 36, seed=1), "b": floats(36, seed=2)}
    check("Attention", given, weights, "x w b m", num_heads=3, unidirectional=1)


# -- integers ----------------------------------------------------------------------------------------------------------

KINDS = pytest.mark.parametrize("kind", [np.uint8, np.int8])


def scaled(kind: Any, scale: float, zero: int, name: str) -> Inputs:
    return {f"{name}s": one(scale), f"{name}z": one(zero, kind)}


@KINDS
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("shape", [(2, 3, 20), (20,), (3, 1), (), (2, 0, 20)])
def test_sums_and_products_of_integers(op: str, kind: Any, shape: tuple[int, ...]) -> None:
    given = {"a": integers(2, 0 if 0 in shape else 3, 20, kind=kind), "c": integers(*shape, kind=kind, seed=1)}
    constants = scaled(kind, 0.02, 3, "a") | scaled(kind, 0.05, 7, "c") | scaled(kind, 0.08, 5, "y")
    check(op, given, constants, "a as az c cs cz ys yz", apart=1)


@KINDS
@pytest.mark.parametrize("op", ["QLinearSigmoid", "QLinearLeakyRelu"])
def test_functions_of_integers(op: str, kind: Any) -> None:
    constants = scaled(kind, 0.03, 12, "x") | scaled(kind, 1 / 256 if "Sig" in op else 0.05, 4, "y")
    more = {"alpha": 0.2} if "Leaky" in op else {}
    check(op, {"x": integers(3, 100, kind=kind)}, constants, "x xs xz ys yz", apart=1, **more)


@KINDS
@pytest.mark.parametrize("opset", [7, 13])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_of_integers_by_the_version_that_its_attribute_names(kind: Any, opset: int, axis: int) -> None:
    constants = scaled(kind, 0.03, 12, "x") | scaled(kind, 1 / 256, 0 if kind is np.uint8 else -128, "y")
    given = {"x": integers(3, 4, 5, kind=kind)}
    check("QLinearSoftmax", given, constants, "x xs xz ys yz", apart=1, opset=opset, axis=axis)


@KINDS
def test_averages_of_integers(kind: Any) -> None:
    constants = scaled(kind, 0.03, 12, "x") | scaled(kind, 0.02, 4, "y")
    given = {"x": integers(2, 4, 9, 8, kind=kind)}
    check("QLinearGlobalAveragePool", given, constants, "x xs xz ys yz", apart=1)
    pool = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}
    for count in (0, 1):
        check("QLinearAveragePool", given, constants, "x xs xz ys yz", apart=1, count_include_pad=count, **pool)


@KINDS
def test_averages_of_integers_with_the_channels_last(kind: Any) -> None:
    constants = scaled(kind, 0.03, 12, "x") | scaled(kind, 0.02, 4, "y")
    given = {"x": integers(2, 9, 8, 4, kind=kind)}
    check("QLinearGlobalAveragePool", given, constants, "x xs xz ys yz", apart=1, channels_last=1)
    check("QLinearAveragePool", given, constants, "x xs xz ys yz", apart=1, channels_last=1, kernel_shape=[3, 2])


@KINDS
@pytest.mark.parametrize("shapes", [((2, 3), (2, 3)), ((3,), (2, 1)), ((), (0, 3))])
def test_integers_chosen_by_a_condition(kind: Any, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    constants = scaled(kind, 0.03, 12, "a") | scaled(kind, 0.02, 4, "c") | scaled(kind, 0.04, 1, "y")
    given = {"m": rng().random(shapes[1]) < 0.5}
    given |= {n: integers(*shape, kind=kind, seed=k) for k, (n, shape) in enumerate(zip("ac", shapes, strict=True))}
    check("QLinearWhere", given, constants, "m a as az c cs cz ys yz", apart=1)


@KINDS
def test_integers_one_behind_the_other(kind: Any) -> None:
    constants = scaled(kind, 0.03, 12, "a") | scaled(kind, 0.02, 4, "c") | scaled(kind, 0.04, 1, "y")
    given = {"a": integers(2, 3, 5, kind=kind), "c": integers(2, 4, 5, kind=kind, seed=1)}
    check("QLinearConcat", given, constants, "ys yz a as az c cs cz", apart=1, axis=1)


@KINDS
@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("turned", [(0, 0), (1, 0), (0, 1)])
def test_qgemm(kind: Any, quantised: bool, turned: tuple[int, int]) -> None:
    a, c = integers(7, 70), drawn_weights(70, 9, kind=kind, seed=1)
    given = {"a": np.ascontiguousarray(a.T) if turned[0] else a}
    constants = {
        "c": np.ascontiguousarray(c.T) if turned[1] else c,
        "b": rng(2).integers(-999, 999, 9).astype(np.int32),
    }
    constants |= scaled(np.uint8, 0.02, 130, "a") | scaled(kind, 0.01, 3, "c")
    order = "a as az c cs cz b"
    if quantised:
        constants |= scaled(np.uint8, 0.4, 100, "y")
        order += " ys yz"
    check("QGemm", given, constants, order, apart=1, alpha=1.0, transA=turned[0], transB=turned[1])


@pytest.mark.parametrize("many", [False, True])
def test_products_of_integers_that_become_floats(many: bool) -> None:
    weights = {"c": drawn_weights(33, 9, seed=1), "cs": floats(9, seed=3) if many else one(0.02)}
    weights |= {"cz": np.zeros(9, np.int8) if many else one(4, np.int8), "b": floats(9, seed=2)}
    given = {"a": integers(4, 33), "as": one(0.03), "az": one(120, np.uint8)}
    check("MatMulIntegerToFloat", given, weights, "a c as cs az cz b")
    check("DynamicQuantizeMatMul", {"a": floats(4, 33)}, weights, "a c cs cz b")


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("points", ["none", "packed"])
@pytest.mark.parametrize("width", [64, 40])
def test_matmul_n_bits(bits: int, points: str, width: int) -> None:
    columns, size = 12, 32
    blocks = -(-width // size)
    scales = np.abs(floats(columns * blocks, seed=2)) + F32(0.1)
    constants: Inputs = {"q": integers(columns, blocks, size * bits // 8, seed=1), "s": scales}
    if points == "packed":
        constants["z"] = integers(columns * -(-blocks * bits // 8), seed=3)
    check(
        "MatMulNBits", {"a": floats(2, 5, width)}, constants, near=1e-4, K=width, N=columns, bits=bits, block_size=size
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_matmul_n_bits_of_halves(bits: int) -> None:
    columns, width, size = 12, 96, 32
    scales = (np.abs(floats(columns * 3, seed=2)) * F32(0.02) + F32(0.01)).astype(np.float16)
    constants: Inputs = {"q": integers(columns, 3, size * bits // 8, seed=1), "s": scales}
    given = {"a": floats(2, width).astype(np.float16)}
    check("MatMulNBits", given, constants, near=2e-3, K=width, N=columns, bits=bits, block_size=size)
    attributes = {"K": width, "N": columns, "bits": bits, "block_size": size}
    model = model_of("MatMulNBits", given, constants, ["a", "q", "s"], ["y"], **attributes)
    assert "block_matmul" in {op for work in mapsto.compile(model, cache=False).plan.works for op in work.ops}


TABLES = {
    "4 bits in bytes": (np.dtype(np.uint8), 4), "bytes": (np.dtype(np.uint8), 8),
    "int4": (np.dtype(ml_dtypes.int4), 4), "uint4": (np.dtype(ml_dtypes.uint4), 4),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("points", [False, True])
@pytest.mark.parametrize("halves", [False, True])
def test_rows_of_a_table_in_blocks(kind: str, points: bool, halves: bool) -> None:
    """Three blocks of 16 elements and a half in each row; the zero points of 4 bits have one to spare."""
    (dtype, bits), rows, width, size = TABLES[kind], 9, 56, 16
    packed = 2 if dtype == np.uint8 and bits == 4 else 1
    table = integers(rows, width // packed, seed=1)
    if dtype != np.uint8:
        table = (table % 16 - (0 if "uint" in kind else 8)).astype(np.int8).astype(dtype)
    constants: Inputs = {"q": table, "s": np.abs(floats(rows, 4, seed=2)).astype(np.float16 if halves else F32)}
    if points:
        zero = integers(rows, 4 // packed, seed=3)
        constants["z"] = zero if dtype == np.uint8 else (zero % 8).astype(np.int8).astype(dtype)
    given = {"i": np.array([[0, 8, -1], [4, 4, -9]], np.int64)}
    order = "q i s z" if points else "q i s"
    attributes = {"bits": bits} if dtype == np.uint8 else {}
    check("GatherBlockQuantized", given, constants, order, near=1e-6, block_size=size, **attributes)


@pytest.mark.parametrize(("gathered", "quantised"), [(1, 0), (0, 0), (1, 1), (2, 1), (-1, -3)])
def test_a_table_in_blocks_along_any_axis(gathered: int, quantised: int) -> None:
    shape = [6, 32, 5]
    blocks = [-(-n // 16) if d == quantised % 3 else n for d, n in enumerate(shape)]
    table = (integers(*shape, seed=1) % 16).astype(np.int8).astype(ml_dtypes.uint4)
    constants: Inputs = {"q": table, "s": floats(*blocks, seed=2)}
    given = {"i": np.array([3, 0, -2], np.int32)}
    axes = {"gather_axis": gathered, "quantize_axis": quantised}
    check("GatherBlockQuantized", given, constants, "q i s", near=1e-6, block_size=16, **axes)


def test_tables_that_are_not_supported_are_said() -> None:
    given = {"q": integers(4, 8), "i": np.zeros(2, np.int64), "s": floats(4, 1)}
    model = model_of("GatherBlockQuantized", given, {}, ["q", "i", "s"], ["y"], block_size=16)
    with pytest.raises(MapstoError, match="two elements in a byte; make it an initializer"):
        mapsto.compile(model, cache=False)
    constants = {"q": integers(4, 8), "s": floats(4, 1)}
    wrong = {"bits may be 4 or 8": (2, 16), "do not cover axis 1": (4, 4), "block_size is 0": (4, 0)}
    for said, (bits, size) in wrong.items():
        attributes = {"bits": bits, "block_size": size}
        model = model_of("GatherBlockQuantized", {"i": given["i"]}, constants, ["q", "i", "s"], ["y"], **attributes)
        with pytest.raises(MapstoError, match=said):
            mapsto.compile(model, cache=False)


def test_qattention() -> None:
    batch, rows, width, heads = 2, 5, 12, 3
    given = {"x": integers(batch, rows, width), "m": np.array([3, 5], np.int32)}
    constants = {"w": drawn_weights(width, 3 * width, seed=1), "b": floats(3 * width, seed=2)}
    constants |= scaled(np.uint8, 0.01, 128, "x") | scaled(np.int8, 0.01, 0, "w")
    check("QAttention", given, constants, "x w b xs ws m xz wz", num_heads=heads)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("many", [False, True])
def test_dynamic_quantize_lstm(direction: str, many: bool) -> None:
    """Inputs and states are quantised by the same ranges: no step rounds otherwise, in so small a layer."""
    dirs, inputs, hidden = (2 if direction == "bidirectional" else 1), 6, 8
    constants: Inputs = {
        "w": drawn_weights(dirs, inputs, 4 * hidden, seed=1),
        "r": drawn_weights(dirs, hidden, 4 * hidden, seed=2),
        "b": floats(dirs, 8 * hidden, seed=3) * F32(0.1),
    }
    shape = (dirs, 4 * hidden) if many else (dirs,)
    for k, name in enumerate(("w", "r")):
        constants[f"{name}s"] = np.full(shape, 0.004 * (1 + k), F32)
        constants[f"{name}z"] = np.zeros(shape, np.int8)
    order = "x w r b - - - - ws wz rs rz"
    given = {"x": floats(7, 3, inputs)}
    check("DynamicQuantizeLSTM", given, constants, order, "y h c", 2e-5, hidden_size=hidden, direction=direction)


@pytest.mark.parametrize("masked", ["rows", "past", "columns"])
def test_qattention_with_what_may_be_given(masked: str) -> None:
    """A mask of each key, keys and values of before, scales and zero points of each column of the weights."""
    batch, rows, width, heads = 2, 5, 12, 3
    given: Inputs = {"x": integers(batch, rows, width)}
    constants: Inputs = {"w": drawn_weights(width, 3 * width, seed=1), "b": floats(3 * width, seed=2)}
    constants |= scaled(np.uint8, 0.01, 128, "x") | scaled(np.int8, 0.01, 3, "w")
    order, outputs, more = "x w b xs ws - xz wz", "y", {}
    if masked == "rows":
        given["m"] = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]], np.int32)
        order = order.replace(" - ", " m ")
    if masked == "past":
        given["p"] = floats(2, batch, heads, 4, width // heads, seed=7)
        order, outputs, more = f"{order} p", "y present", {"unidirectional": 1}
    if masked == "columns":
        constants["ws"] = np.linspace(0.001, 0.02, 3 * width).astype(F32)
        constants["wz"] = integers(3 * width, kind=np.int8, seed=4)
    check("QAttention", given, constants, order, outputs, num_heads=heads, **more)


@KINDS
@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
@pytest.mark.parametrize("peepholes", [False, True])
def test_dynamic_quantize_lstm_with_lengths_and_states(kind: Any, direction: str, peepholes: bool) -> None:
    """Steps with peepholes are computed in f32, where ONNX Runtime rounds states to 8 bits."""
    dirs, inputs, hidden, batch = (2 if direction == "bidirectional" else 1), 5, 4, 3
    middle = 128 if kind is np.uint8 else 0
    constants: Inputs = {
        "w": drawn_weights(dirs, inputs, 4 * hidden, kind=kind, seed=1),
        "r": drawn_weights(dirs, hidden, 4 * hidden, kind=kind, seed=2),
        "b": floats(dirs, 8 * hidden, seed=3) * F32(0.1),
        "p": floats(dirs, 3 * hidden, seed=4) * F32(0.1),
    }
    for k, name in enumerate(("w", "r")):
        constants[f"{name}s"] = np.array([0.004, 0.006][:dirs], F32) * F32(1 + k)
        constants[f"{name}z"] = np.full(dirs, middle + 5 * k, kind)
    given = {"x": floats(6, batch, inputs), "n": np.array([6, 1, 3], np.int32)}
    given |= {n: floats(dirs, batch, hidden, seed=5 + k) * F32(0.3) for k, n in enumerate("hc")}
    order = "x w r b n h c p ws wz rs rz" if peepholes else "x w r b n h c - ws wz rs rz"
    if not peepholes:
        del constants["p"]
    near = 2e-2 if peepholes else 2e-5
    check("DynamicQuantizeLSTM", given, constants, order, "y yh yc", near, hidden_size=hidden, direction=direction)


@KINDS
def test_quantize_and_dequantize_along_an_axis(kind: Any) -> None:
    constants = {"s": np.array([0.1, 0.02, 0.3], F32), "z": np.array([1, 2, 3], kind)}
    check("QuantizeLinear", {"x": 3 * floats(2, 3, 4)}, constants, axis=1)
    check("DequantizeLinear", {"x": integers(2, 3, 4, kind=kind)}, constants, axis=1)


def test_what_is_not_supported_is_said() -> None:
    given = {"a": floats(2, 32), "q": integers(4, 1, 16), "s": floats(4)}
    model = model_of("MatMulNBits", given, {}, ["a", "q", "s"], ["y"], K=32, N=4, bits=4, block_size=32)
    with pytest.raises(MapstoError, match="make them initializers"):
        mapsto.compile(model, cache=False)
