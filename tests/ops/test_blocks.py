"""block_matmul: reference, lowering and shape rule agree, and are numpy's product by what the integers stand for."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.support import check, make_node, sample

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import floordiv, sym
from mapsto.kernel.ast import Cast, Load, Op
from mapsto.kernel.blocks import integer_of, low_bits, real_of

INTEGERS = [DType.I8, DType.I4]


@given(
    st.lists(st.integers(0, 3), max_size=2), st.integers(0, 9), st.integers(0, 5), st.integers(1, 10),
    st.sampled_from(INTEGERS), st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_product(lead: list[int], depth: int, columns: int, block: int, dtype: DType, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = sample(rng, (*lead, depth), DType.F32)
    q = sample(rng, (depth, columns), dtype)
    scale = sample(rng, (-(-depth // block), columns), DType.F32)
    (y,) = check("block_matmul", [x, q, scale], {"block": block}, frozenset({3}), 1e-4)
    w = np.zeros((depth, columns))
    for k in range(depth):
        w[k] = q[k].astype(np.int8).astype(np.float64) * scale[k // block]
    np.testing.assert_allclose(y, x.astype(np.float64) @ w, rtol=1e-6, atol=1e-6)


def test_the_high_bits_of_an_element_of_4_mean_nothing() -> None:
    q = np.array([[0x7F], [0xF8]], np.uint8).view(ml_dtypes.int4)  # -1 and -8
    (y,) = check("block_matmul", [np.float32([[1, 10]]), q, np.float32([[2]])], {"block": 2})
    assert y.tolist() == [[-162.0]]


def test_what_is_not_finite_comes_through() -> None:
    q, scale = np.ones((3, 2), np.int8), np.float32([[1, 2], [3, 4]])
    (y,) = check("block_matmul", [np.float32([[1, np.nan, 2], [1, np.inf, 2]]), q, scale], {"block": 2})
    assert np.isnan(y[0]).all() and np.isposinf(y[1]).all()


def test_errors() -> None:
    x, q, scale = np.zeros((2, 8), np.float32), np.zeros((8, 3), np.int8), np.zeros((2, 3), np.float32)
    for given_, attrs, message in (
        ([x[:, :7], q, scale], {"block": 4}, "the inner extents 7 and 8 differ"),
        ([x, q, scale], {"block": 3}, "the numbers of blocks of 3 2 and 3 differ"),
        ([x, q, scale[:, :2]], {"block": 4}, "the numbers of columns 2 and 3 differ"),
        ([x, q, scale], {"block": 0}, "a block has 1 element or more"),
        ([x, q.astype(np.int16), scale], {"block": 4}, "input 1 is i16; allowed: i4, i8"),
        ([x.astype(np.float64), q, scale], {"block": 4}, "input 0 is f64; allowed: f32"),
        ([x, q, scale[0]], {"block": 4}, "input 2 has rank 1, not 2"),
        ([x[0, 0], q, scale], {"block": 4}, "a scalar is no operand"),
    ):
        with pytest.raises(ShapeError, match=message):
            make_node("block_matmul", given_, attrs)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_how_an_integer_is_read_is_told(dtype: DType) -> None:
    load = Load("q", (sym("k"), floordiv(sym("n"), 2)), dtype)
    assert integer_of(real_of(load)) == load


def test_what_is_read_in_another_way_is_not() -> None:
    byte, half = Load("q", (sym("k"),), DType.I8), Load("q", (sym("k"),), DType.I4)
    three = Cast(low_bits(Op("bitcast", (half,), DType.I8), 3), DType.F32)
    unsigned = Cast(Load("q", (sym("k"),), DType.U8), DType.F32)
    for other in (three, unsigned, Cast(byte, DType.F64), Op("neg", (real_of(byte),), DType.F32), byte):
        assert integer_of(other) is None
