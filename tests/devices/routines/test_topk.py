"""topk against its numpy reference: order, ties, NaN, every dtype, sizes only a run knows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.devices.routines.harness import run, vectors

import mapsto.ops  # noqa: F401
from mapsto.devices.cpu.isa import Isa
from mapsto.devices.routines import routine
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import sym
from mapsto.ir.graph import Node, Value
from mapsto.ops.registry import op

DTYPES = [d for d in DType if d is not DType.BOOL and not d.is_storage]


def sample(shape: tuple[int, ...], dtype: DType, seed: int = 0) -> np.ndarray:
    """Few distinct values, so that there are ties; the extremes of the type; NaN and both zeros."""
    rng = np.random.default_rng(seed)
    if not dtype.is_float:
        info = np.iinfo(dtype.numpy)
        special = np.array([info.min, info.max, 0, 1, 7, info.max - 1], dtype.numpy)
    else:
        special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, -1.5, 1e-7, -30000.0]).astype(dtype.numpy)
    return rng.choice(special, shape)


def topk_node(x: np.ndarray, axis: int, k: int, largest: bool) -> Node:
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    outputs = (Value("values", from_numpy(x.dtype), shape), Value("indices", DType.I64, shape))
    return Node("topk", ("x",), outputs, {"axis": axis, "k": k, "largest": largest, "sorted": True})


def expect(x: np.ndarray, axis: int, k: int, largest: bool, **options: object) -> None:
    node = topk_node(x, axis, k, largest)
    reference = op("topk").reference
    assert reference is not None
    values, indices = reference([x], node.attrs, [tuple(v.shape) for v in node.outputs])  # type: ignore[misc]
    found = run(node, {"x": x}, **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found["indices"], indices)
    assert found["values"].tobytes() == np.ascontiguousarray(values).tobytes()  # the sign of zero too


@settings(deadline=None, max_examples=60)
@given(
    data=st.data(),
    shape=st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple),
    dtype=st.sampled_from(DTYPES),
    largest=st.booleans(),
    lanes=st.sampled_from([1, 4, 8]),
)
def test_any_shape_and_dtype(data, shape: tuple[int, ...], dtype: DType, largest: bool, lanes: int) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    k = data.draw(st.integers(0, shape[axis]))
    expect(sample(shape, dtype, seed=k), axis, k, largest, lanes=lanes, shares=2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_native_code(isa: Isa, dtype: DType) -> None:
    x = sample((2, 300, 3), dtype)
    for k, largest in [(5, True), (300, False)]:
        expect(x, 1, k, largest, isa=isa, shares=4)


@pytest.mark.parametrize("largest", [True, False])
def test_a_row_too_long_for_the_stack(largest: bool, isa: Isa) -> None:
    x = np.random.default_rng(0).standard_normal((2, 5000)).astype(np.float32)
    (call,) = routine(topk_node(x, 1, 3000, largest), (Value("x", DType.F32, x.shape),), "r", vectors(lanes=16)).parts
    assert call.scratch, "entries of 48 kB should be scratch memory"
    expect(x, 1, 3000, largest, isa=isa, shares=2)


@pytest.mark.parametrize("order", ["ascending", "descending", "equal"])
def test_rows_in_order(order: str, isa: Isa) -> None:
    rows = {"ascending": np.arange(500.0), "descending": -np.arange(500.0), "equal": np.zeros(500)}
    for k in (1, 20, 499, 500):
        expect(rows[order].astype(np.float32)[None], 1, k, True, isa=isa)


def test_sizes_that_only_a_run_knows() -> None:
    n, k = sym("n"), sym("k")
    inputs = (Value("x", DType.F32, (2, n)),)
    outputs = (Value("values", DType.F32, (2, k)), Value("indices", DType.I64, (2, k)))
    node = Node("topk", ("x",), outputs, {"axis": 1, "k": k, "largest": True, "sorted": True})
    for length, count in [(7, 3), (7, 7), (0, 0), (20, 1), (1, 1)]:
        x = np.random.default_rng(0).standard_normal((2, length)).astype(np.float32)
        found = run(node, {"x": x}, {"n": length, "k": count}, inputs=inputs)
        np.testing.assert_array_equal(found["indices"], np.argsort(-x, axis=1, kind="stable")[:, :count])


def test_a_k_beyond_the_row_reads_nothing_past_it() -> None:
    k = sym("k")
    inputs = (Value("x", DType.F32, (1, 3)),)
    outputs = (Value("values", DType.F32, (1, k)), Value("indices", DType.I64, (1, k)))
    node = Node("topk", ("x",), outputs, {"axis": 1, "k": k, "largest": True, "sorted": True})
    found = run(node, {"x": np.array([[1, 3, 2]], np.float32)}, {"k": 5}, inputs=inputs)
    np.testing.assert_array_equal(found["indices"], [[1, 2, 0, 0, 0]])
    np.testing.assert_array_equal(found["values"], [[3, 2, 1, 0, 0]])
