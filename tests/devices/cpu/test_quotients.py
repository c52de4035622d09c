"""Division by a constant: a multiplication where the dividend is rounded already, and to the bit where it is exact."""

from __future__ import annotations

import numpy as np
import pytest

from mapsto.devices.cpu.workers import Workers
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import run_passes
from mapsto.session.compile import build

F32, I8, I32 = DType.F32, DType.I8, DType.I32


def divided(b: Builder, x: Value, divisor: float) -> Value:
    return b.one("div", [x, b.constant(np.asarray(divisor, np.float32))])


def product(divisor: float, exact: bool) -> Graph:
    """round(x w / divisor) of bytes, or x w / divisor of floats."""
    b, rng = Builder("g"), np.random.default_rng(2)
    dtype = I8 if exact else F32
    x = b.input("x", dtype, (24, 40))
    w = rng.integers(-9, 10, (40, 64)).astype(dtype.numpy)
    total = b.one("matmul", [x, b.constant(w, "w")], **({"result": I32} if exact else {}))
    if not exact:
        y = divided(b, total, divisor)
        return b.finish([y], names=["y"])
    scaled = b.one("mul", [b.one("cast", [total], to=F32), b.constant(np.asarray(0.25, np.float32))])
    return b.finish([b.one("round", [divided(b, scaled, divisor)])], names=["y"])


def beside(graph: Graph, workers: Workers, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    exe = build(run_passes(graph), workers, 1, None)
    return exe.run({"x": x})["y"], run_graph(graph, {"x": x})["y"]


@pytest.mark.parametrize("divisor", [0.3, 2.5, 7.5, 0.05])
def test_sums_of_integers_are_divided_to_the_bit(divisor: float, workers: Workers) -> None:
    """Halfway cases are many among a few hundred sums: a last bit more or less is another integer."""
    x = np.random.default_rng(1).integers(-9, 10, (24, 40), dtype=np.int8)
    found, expected = beside(product(divisor, True), workers, x)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("divisor", [6.0, -3.0, 1e-3, 1e28, 1e-28, 1e38, 3e38])
def test_sums_of_floats_are_divided_within_rounding(divisor: float, workers: Workers) -> None:
    """Also where the divisor's reciprocal would not be a normal number."""
    x = np.random.default_rng(1).standard_normal((24, 40)).astype(np.float32)
    found, expected = beside(product(divisor, False), workers, x)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    finite = np.isfinite(expected)
    scale = np.abs(expected[finite]).max(initial=0)
    np.testing.assert_allclose(found[finite], expected[finite], rtol=0, atol=2e-6 * scale + 1e-44)
