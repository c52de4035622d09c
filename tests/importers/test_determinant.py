"""Det against numpy: no rows to many, batches, singular matrices, NaN."""

from __future__ import annotations

import numpy as np
import pytest
from tests.importers.models import model, node

from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ModelError, UnsupportedError
from mapsto.importers.onnx import load
from mapsto.ops.interpret import run_graph
from mapsto.session.compile import build


def matrices(size: int) -> np.ndarray:
    """Four of them: of random numbers, with a zero first, with two equal rows, and with a NaN."""
    x = np.random.default_rng(size).standard_normal((4, size, size)).astype(np.float32)
    if size > 1:
        x[1, 0, 0], x[2, 1], x[3, -1, 0] = 0, x[2, 0], np.nan
    return x


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 7, 32])
def test_any_size(size: int) -> None:
    x = matrices(size)
    graph = load(model([node("Det", ["x"])], {"x": ["n", "m", "m"]}), {"x": ("n", size, size)})
    found = run_graph(graph, {"x": x})["y"]
    with np.errstate(invalid="ignore"):
        wanted = np.linalg.det(x.astype(np.float64))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6 * np.nanmax(np.abs(wanted)))


def test_native_code(workers: Workers) -> None:
    x = matrices(5)
    found = build(load(model([node("Det", ["x"])], {"x": ["n", 5, 5]})), workers, 2, None).run({"x": x})["y"]
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found, np.linalg.det(x.astype(np.float64)), rtol=1e-5, atol=1e-6)


def test_what_is_no_square_matrix_is_refused() -> None:
    with pytest.raises(ModelError, match="no square matrix"):
        load(model([node("Det", ["x"])], {"x": [2, 3]}))
    with pytest.raises(UnsupportedError, match="up to 32 rows are supported"):
        load(model([node("Det", ["x"])], {"x": [33, 33]}))
