"""Networks of shuffles, in the interpreter, and how many shuffles they take."""

from __future__ import annotations

import numpy as np
import pytest

from mapsto.devices.generic.networks import apart, joined, together, transposed
from mapsto.devices.generic.scope import Code
from mapsto.ir.dtypes import DType
from mapsto.loop import ast as loop
from mapsto.loop.ast import Function, Param
from mapsto.loop.interpret import interpret
from mapsto.plan.loop_forms import shuffles

I32 = DType.I32


def run(network: object, count: int, lanes: int, source: np.ndarray) -> tuple[np.ndarray, int]:
    """What becomes of `count` vectors, which may have other lanes, and by how many shuffles."""
    code = Code(set())
    vectors = [code.let(loop.Load("x", k * lanes, loop.Type(I32, lanes))) for k in range(count)]
    made: list[loop.Value] = network(vectors, code.let)  # type: ignore[operator]
    for k, value in enumerate(made):
        code.emit(loop.Store("y", k * value.type.lanes, value))
    body = tuple(code.scopes[0].statements)
    out = np.zeros(len(made) * made[0].type.lanes, np.int32)
    interpret(Function("network", (Param("x", I32), Param("y", I32, True)), (), body), [source, out], {}, 0, 1)
    return out, sum(isinstance(s, loop.Let) and isinstance(s.value, loop.Shuffle) for s in body)


@pytest.mark.parametrize("chunk", [1, 2, 4, 16])
@pytest.mark.parametrize("lanes", [2, 4, 8, 16])
def test_a_transpose(lanes: int, chunk: int) -> None:
    x = np.arange(lanes * lanes, dtype=np.int32)
    got, count = run(lambda v, name: transposed(v, chunk, name), lanes, lanes, x)
    np.testing.assert_array_equal(got, x.reshape(lanes, lanes).T.ravel())
    assert count == lanes * shuffles(lanes)


@pytest.mark.parametrize("chunk", [1, 2, 4, 16])
@pytest.mark.parametrize(("height", "lanes"), [(2, 4), (2, 16), (4, 8), (8, 16), (8, 32), (16, 32)])
def test_a_transpose_of_rows_that_are_wider_than_they_are_many(height: int, lanes: int, chunk: int) -> None:
    x = np.arange(height * lanes, dtype=np.int32)
    columns, apart_by = run(lambda v, name: transposed(v, chunk, name), height, lanes, x)
    np.testing.assert_array_equal(columns, x.reshape(height, lanes).T.ravel())
    back, joined_by = run(lambda v, name: joined(v, chunk, name), lanes, height, columns)
    np.testing.assert_array_equal(back, x)
    assert apart_by == height * shuffles(height) + lanes  # and one for each piece that is cut out
    assert joined_by == height * shuffles(height) + lanes - height


@pytest.mark.parametrize("lanes", [4, 16])
@pytest.mark.parametrize("count", range(1, 16))
def test_streams_are_taken_apart_and_put_together(count: int, lanes: int) -> None:
    x = np.arange(lanes * count, dtype=np.int32)
    got, taken = run(lambda v, name: apart(v, 1, name), count, lanes, x)
    np.testing.assert_array_equal(got, x.reshape(lanes, count).T.ravel())
    back, again = run(together, count, lanes, got)
    np.testing.assert_array_equal(back, x)
    assert taken == again == count * shuffles(count)
