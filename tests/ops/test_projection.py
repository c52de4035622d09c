"""x W + b of all steps of a recurrent layer, against the same in numpy; what does not fit is refused."""

from __future__ import annotations

import numpy as np
import pytest

import mapsto.ops  # noqa: F401
from mapsto.errors import ShapeError
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import sym
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.ops.projection import Layer, last_bias, projected

TIME, BATCH, INPUTS, HIDDEN = 3, 2, 5, 4


def operands(gates: int, directions: int, dtype: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = gates * HIDDEN
    shapes = {"x": (TIME, BATCH, INPUTS), "w": (directions, rows, INPUTS), "b": (directions, 2 * rows)}
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("gates, apart", [(4, False), (3, False), (3, True), (1, False)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_all_steps_at_once(dtype: type, gates: int, apart: bool, with_bias: bool) -> None:
    given = operands(gates, 2, dtype)
    b = Builder("g")
    x = b.input("x", from_numpy(given["x"].dtype), (sym("t"), sym("b"), INPUTS))
    w = b.input("w", x.dtype, given["w"].shape)
    bias = b.input("b", x.dtype, given["b"].shape) if with_bias else None
    made = projected(b, Layer(x, w, bias, 2, gates, HIDDEN, apart))
    assert made.dtype is (DType.F64 if dtype is np.float64 else DType.F32)
    assert made.shape == (sym("t"), sym("b"), 2 * gates * HIDDEN)
    feeds = given if with_bias else {name: given[name] for name in "xw"}
    (found,) = run_graph(b.finish([made]), feeds).values()
    wide = {name: array.astype(np.float64) for name, array in given.items()}
    both = wide["b"].reshape(2, 2, gates, HIDDEN)
    start = both.sum(1)
    if apart:
        start[:, -1] = both[:, 0, -1]
    wanted = wide["x"] @ wide["w"].reshape(-1, INPUTS).T + (start.reshape(-1) if with_bias else 0)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12 if dtype is np.float64 else 1e-5)


def test_the_bias_that_is_scaled() -> None:
    given = operands(3, 2)
    b = Builder("g")
    made = last_bias(b, b.input("b", DType.F32, given["b"].shape), HIDDEN)
    (found,) = run_graph(b.finish([made]), {"b": given["b"]}).values()
    np.testing.assert_array_equal(found, given["b"][:, -HIDDEN:])


@pytest.mark.parametrize(
    "shapes, message",
    [
        ({"w": (2, 4 * HIDDEN + 1, INPUTS)}, "weights should have the shape .2, 16, 5., not .2, 17, 5."),
        ({"w": (2, 4 * HIDDEN, INPUTS + 1)}, "weights should have the shape"),
        ({"b": (2, 4 * HIDDEN)}, "bias should have the shape .2, 32., not .2, 16."),
        ({"b": (2 * 8 * HIDDEN,)}, "bias should be f32"),
        ({"x": (TIME, INPUTS)}, "input should have 3 axes"),
    ],
)
def test_weights_that_do_not_fit_are_refused(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    b = Builder("g")
    known = {"x": (TIME, BATCH, INPUTS), "w": (2, 4 * HIDDEN, INPUTS), "b": (2, 8 * HIDDEN)} | shapes
    x, w, bias = (b.input(name, DType.F32, known[name]) for name in known)
    with pytest.raises(ShapeError, match=message):
        Layer(x, w, bias, 2, 4, HIDDEN).check(b)
