"""nonzero against its numpy reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.devices.routines.harness import run

import mapsto.ops  # noqa: F401
from mapsto.devices.cpu.isa import Isa
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import sym
from mapsto.ir.graph import Node, Value
from mapsto.ops.registry import op

DTYPES = ["float32", "float64", "float16", "bfloat16", "int8", "int64", "uint16", "bool"]


def sample(shape: tuple[int, ...], dtype: str, density: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    kept = rng.random(shape) < density
    return (kept * rng.integers(1, 100, shape)).astype(DType[_NAMES[dtype]].numpy)


_NAMES = {d.numpy.name: d.name for d in DType}


def expect(x: np.ndarray, **options: object) -> None:
    indices = Value("indices", DType.I64, (x.ndim, x.size))
    node = Node("nonzero", ("x",), (indices, Value("count", DType.I64, ())))
    reference = op("nonzero").reference
    assert reference is not None
    wanted = reference([x], {}, [(x.ndim, x.size), ()])
    found = run(node, {"x": x}, **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found["count"], wanted[1])
    np.testing.assert_array_equal(found["indices"], wanted[0])


@settings(deadline=None, max_examples=40)
@given(
    shape=st.lists(st.integers(0, 7), max_size=4).map(tuple),
    dtype=st.sampled_from(DTYPES),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    lanes=st.sampled_from([1, 4, 16]),
)
def test_any_shape_and_dtype(shape: tuple[int, ...], dtype: str, density: float, lanes: int) -> None:
    expect(sample(shape, dtype, density), lanes=lanes)


@pytest.mark.parametrize("dtype", DTYPES)
def test_native_code(isa: Isa, dtype: str) -> None:
    expect(sample((3, 5, 37), dtype, 0.2), isa=isa)


def test_nan_is_not_zero_and_minus_zero_is(isa: Isa) -> None:
    expect(np.array([0.0, -0.0, np.nan, np.inf, 1e-45, -1e-45], np.float32), isa=isa)


def test_one_code_for_every_size() -> None:
    n, m = sym("n"), sym("m")
    inputs = (Value("x", DType.F32, (n, 3, m)),)
    outputs = (Value("indices", DType.I64, (3, 3 * n * m)), Value("count", DType.I64, ()))
    for shape in [(2, 3, 5), (0, 3, 4), (4, 3, 33), (1, 3, 0)]:
        x = sample(shape, "float32", 0.3)
        found = run(Node("nonzero", ("x",), outputs), {"x": x}, {"n": shape[0], "m": shape[2]}, inputs=inputs)
        places = np.array(np.nonzero(x))
        assert int(found["count"]) == places.shape[1]
        np.testing.assert_array_equal(found["indices"][:, : places.shape[1]], places)
        assert found["indices"].shape == (3, math.prod(shape)) and not found["indices"][:, places.shape[1] :].any()


def test_a_share_without_the_item_does_nothing() -> None:
    x = np.ones((2, 3), np.float32)
    assert from_numpy(x.dtype) is DType.F32
    expect(x, shares=3)
