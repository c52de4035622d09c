"""The matrices of short convolutions, exactly; and the additions that they are made of."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapsto.devices.contraction.toom_cook import Matrix, combined, operations, short_convolution
from mapsto.ir.dtypes import DType
from mapsto.loop import ast as loop
from mapsto.loop.interpret import interpret

ORDERS = [(2, 3), (4, 3), (3, 3), (2, 5), (1, 3)]


def times(matrix: Matrix, vector: list[Fraction]) -> list[Fraction]:
    return [sum((a * b for a, b in zip(row, vector, strict=True)), Fraction(0)) for row in matrix]


@pytest.mark.parametrize(("m", "r"), ORDERS)
@given(st.data())
def test_products_at_points_are_the_convolution(m: int, r: int, data: st.DataObject) -> None:
    numbers = st.fractions(-10, 10, max_denominator=50)
    inputs = data.draw(st.lists(numbers, min_size=m + r - 1, max_size=m + r - 1))
    taps = data.draw(st.lists(numbers, min_size=r, max_size=r))
    short = short_convolution(m, r)
    products = [a * b for a, b in zip(times(short.taps, taps), times(short.inputs, inputs), strict=True)]
    direct = [sum((inputs[k + i] * taps[i] for i in range(r)), Fraction(0)) for k in range(m)]
    assert times(short.results, products) == direct


@pytest.mark.parametrize(("m", "r"), ORDERS)
def test_inputs_and_results_are_exact_in_binary(m: int, r: int) -> None:
    short = short_convolution(m, r)
    for row in (*short.inputs, *short.results):
        assert all(c.denominator & (c.denominator - 1) == 0 for c in row)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("m", "r"), [(2, 3), (4, 3)])
@pytest.mark.parametrize("which", ["inputs", "results"])
def test_additions_are_the_matrix(m: int, r: int, which: str, fused: bool) -> None:
    matrix: Matrix = getattr(short_convolution(m, r), which)
    kind, width = loop.Type(DType.F32, 4), len(matrix[0])
    body: list[loop.Statement] = []

    def name(hint: str, value: loop.Value) -> loop.Value:
        body.append(loop.Let(f"{hint}{len(body)}", value))
        return loop.Var(f"{hint}{len(body) - 1}", value.type)

    vectors: list[loop.Value] = [loop.Load("x", 4 * k, kind) for k in range(width)]
    found = combined(matrix, vectors, name, fused)
    assert len(body) <= operations(matrix)
    body += [loop.Store("y", 4 * k, value) for k, value in enumerate(found)]
    function = loop.Function("f", (loop.Param("x", DType.F32), loop.Param("y", DType.F32, True)), (), tuple(body))
    x = np.random.default_rng(0).integers(-64, 64, (width, 4)).astype(np.float32)  # all sums are exact
    y = np.full((len(matrix), 4), np.nan, np.float32)
    interpret(function, [x.reshape(-1), out := y.reshape(-1)], [], 0, 1)
    expected = [[sum(float(c) * float(v) for c, v in zip(row, x[:, lane], strict=True)) for lane in range(4)]
                for row in matrix]  # fmt: skip
    assert np.array_equal(out.reshape(y.shape), np.array(expected, np.float32))
