"""Ops on an OpenCL device: cases of the ONNX backend test-suite, at least one for each op of the registry, and of each
dtype for those that compute; random graphs, of fixed and open sizes.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from tests import opencl
from tests.conformance import Case, check_case, conformance_cases
from tests.random_graphs import Case as RandomCase
from tests.random_graphs import cases, with_open_sizes
from tests.session.support import assert_same_bits, normal, parse
from tests.test_random_graphs import REFUSED, assert_agrees, by_another, common

from mapsto.devices.cpu.workers import Workers
from mapsto.devices.opencl.backend import OpenClBackend
from mapsto.errors import ExecutionError, UnsupportedError
from mapsto.ir.dtypes import DType
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.ops.registry import known_ops, op
from mapsto.passes import run_passes
from mapsto.session.compile import build, prepared

pytestmark = pytest.mark.opencl

# Of conformance_cases(), without "test_".
NAMES = """
acos acosh add_int16 add_int8 add_uint16 add_uint32 add_uint8 argmax_default_axis_example
argmin_default_axis_example asin asinh atan atanh attention_4d_gqa_with_past_and_present_fp16
attention_4d_padded_kv_bf16 bitshift_left_int64 bitshift_right_int32 bitwise_and_i32_2d bitwise_not_4d
bitcast_2d_float32_to_int32
cast_FLOAT_to_FLOAT8E4M3FN cast_FLOAT16_to_FLOAT8E5M2FNUZ cast_FLOAT8E5M2_to_FLOAT
cast_FLOAT4E2M1_to_FLOAT16 cast_e8m0_FLOAT_to_FLOAT8E8M0 cast_INT4_to_FLOAT cast_FLOAT_to_UINT2
cumprod_1d bitwise_or_ui8_bcast_4v3d
bitwise_xor_i16_3d causal_conv_with_state_silu celu_bfloat16 celu_float16
center_crop_pad_crop_and_pad_expanded clip_default_int8_max clip_default_int8_min compress_bfloat16
constantofshape_int_shape_zero convtranspose cos cosh cumsum_1d dequantizelinear_blocked dequantizelinear_float4e2m1
div_int16 div_int32_trunc
div_int8 div_uint16 div_uint32 div_uint8 einsum_scalar erf flexattention_double floor gathernd_example_int32
greater_equal greater_equal_bcast_expanded gridsample_nearest_align_corners_1_additional_1 gru_bidirectional if
isnan layer_normalization_2d_axis0 leakyrelu less_equal loop11 lppool_1d_default lstm_bidirectional max_float16
max_float64
max_int16 max_int32 max_uint16 max_uint32 max_uint64 max_uint8 maxpool_2d_uint8
maxpool_with_argmax_2d_precomputed_pads min_float16 min_float64 min_int16 min_int32 min_uint16 min_uint32 min_uint8
mish mod_broadcast mod_float16_mixed_sign_fmod_0 mod_float32_mixed_sign_fmod_0 mod_float64_mixed_sign_fmod_0
mod_mixed_sign_int16 mod_mixed_sign_int8 mod_uint16 mod_uint32 mod_uint64 mod_uint8 mul_int16 mul_int8 mul_uint16
mul_uint32 mul_uint64 mul_uint8 nonmaxsuppression_center_point_box_format onehot_without_axis
pow_types_int32_float32 qlinearconv qlinearmatmul_2D_int8_float16 quantizelinear_blocked_symmetric quantizelinear_int4
quantizelinear_uint16 range_bfloat16_type_positive_delta range_int32_type_negative_delta
reduce_log_sum_exp_do_not_keepdims_example reduce_max_bool_inputs relu reshape_allowzero_reordered
resize_downsample_scales_cubic reversesequence_bfloat16 rnn_seq_length scan9_multi_state scatternd sign sin sinh
sub_int16 sub_int8
sub_uint16 sub_uint32 sub_uint8 tan tensorscatter_circular tile top_k_same_values xor2d
""".split()

# Ops that no case has: a test of their own runs them.
OTHERS = {"not", "random_normal", "random_uniform", "variadic"}
# What no ONNX graph of one op becomes.
MADE = {"block_matmul", "max_pool_gradient"}
# Ops that are steps of a program and no code of a device.
STEPS = {"bind_dim", "bounds_check", "fail", "if", "loop", "require"}


@functools.cache
def _cases() -> dict[str, Case]:
    wanted = {f"test_{name}" for name in NAMES}
    return {case.name.removeprefix("test_"): case for case in conformance_cases() if case.name in wanted}


@pytest.mark.parametrize("name", NAMES)
def test_a_case_of_the_standard(name: str, backend: OpenClBackend) -> None:
    def on_device(model: Any, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        return list(build(prepared(model, None), backend, 1, None).run(feeds).values())

    check_case(_cases()[name], on_device)


def test_every_op_is_run() -> None:
    nodes = [node for case in _cases().values() for node in prepared(case.model, None).walk()]
    gone = {"detach"}  # passes take it out
    assert set(known_ops()) - {node.op for node in nodes} <= OTHERS | MADE | STEPS | gone
    assert all(op(name).lower is None for name in STEPS)
    dtypes = {value.dtype.value for node in nodes for value in node.outputs}
    assert dtypes >= {"f32", "f64", "f16", "bf16", "bool", *(f"{s}{bits}" for s in "iu" for bits in (8, 16, 32, 64))}


def test_ops_that_no_case_has(backend: OpenClBackend) -> None:
    """Random numbers are those of the CPU."""
    values = ", ".join(["x"] * 99)  # more than one kernel takes
    model = parse(f"""g (bool[N] b, float[N] x) => (bool[N] c, float[N] m, float[40] u, float[40] v) {{
        c = Not(b)
        m = Sum({values})
        u = RandomUniform<shape = [40], seed = 3.0, low = -1.0>()
        v = RandomNormal<shape = [40], seed = 4.0, scale = 2.0>()
    }}""")
    graph, feed = prepared(model, None), {"b": normal(7) > 0, "x": normal(7)}
    assert {node.op for node in graph.walk()} >= OTHERS
    with Workers(False) as workers:
        native = build(graph, workers, 1, None).run(feed)
    found = build(graph, backend, 1, None).run(feed)
    assert found["c"].tolist() == (~feed["b"]).tolist()
    assert len(set(found["u"].tolist())) == len(set(found["v"].tolist())) == 40
    for name in ("m", "u", "v"):
        np.testing.assert_allclose(found[name], native[name], rtol=1e-6, atol=1e-6)


def test_ops_that_are_made_of_others(backend: OpenClBackend) -> None:
    """Weights in blocks, and the gradient of a pool."""
    b, rng = Builder("made"), np.random.default_rng(2)
    x, g = b.input("x", DType.F32, (2, 3, 4, 6)), b.input("g", DType.F32, (2, 3, 2, 3))
    q, scale = rng.integers(-7, 8, (6, 5)).astype(np.int8), rng.standard_normal((2, 5)).astype(np.float32)
    spread = b.one("max_pool_gradient", [x, g], kernel=(2, 2))
    multiplied = b.one("block_matmul", [x, b.constant(q, "q"), b.constant(scale, "s")], block=3)
    graph = run_passes(b.finish([spread, multiplied], names=["spread", "multiplied"]))
    assert {node.op for node in graph.walk()} >= MADE
    feed = {"x": normal(2, 3, 4, 6), "g": normal(2, 3, 2, 3, seed=1)}
    found, wide = build(graph, backend, 1, None).run(feed), run_graph(graph, feed, wide=True)
    np.testing.assert_array_equal(found["spread"], wide["spread"].astype(np.float32))
    np.testing.assert_allclose(found["multiplied"], wide["multiplied"], rtol=1e-5, atol=1e-5)


@settings(common, max_examples=12)
@given(case=cases())
def test_random_graphs(case: RandomCase) -> None:
    every = by_another(case) | case.feed
    exe = build(prepared(case.model, case.shapes), opencl.backend(), 1, None)
    found = exe.run(case.feed)
    assert_agrees(case, found, every)
    exe.poison()
    assert_same_bits(exe.run(case.feed), found)


@settings(common, max_examples=12)
@given(case=cases(most_nodes=4))
def test_random_graphs_of_open_sizes(case: RandomCase) -> None:
    every = by_another(case) | case.feed
    empty = {name: shape for name, shape in case.shapes.items() if 0 in shape}
    try:
        found = build(prepared(with_open_sizes(case.model), empty), opencl.backend(), 1, None).run(case.feed)
    except (UnsupportedError, ExecutionError) as error:
        assert REFUSED.search(str(error)), error
        return
    assert_agrees(case, found, every)


def test_kernels_of_many_tensors(backend: OpenClBackend) -> None:
    """The sum of 64 different inputs: their pointers are most of what may be passed to a kernel."""
    names = [f"x{k}" for k in range(64)]
    inputs = ", ".join(f"float[N] {name}" for name in names)
    graph = prepared(parse(f"g ({inputs}) => (float[N] y) {{ y = Sum({', '.join(names)}) }}"), None)
    feed = {name: np.full(5, k, np.float32) for k, name in enumerate(names)}
    assert build(graph, backend, 1, None).run(feed)["y"].tolist() == [sum(range(64))] * 5
