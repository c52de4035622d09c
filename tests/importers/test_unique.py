"""Unique against numpy: elements and slices, in order or as they come, of open sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.importers.models import model, node, port

from mapsto.devices.cpu.workers import Workers
from mapsto.importers.onnx import load
from mapsto.ops.interpret import run_graph
from mapsto.session.compile import build, prepared


def expected(x: np.ndarray, axis: int | None, ordered: bool) -> list[np.ndarray]:
    y, places, inverse, counts = np.unique(x, True, True, True, axis=axis)
    if not ordered:
        by = np.argsort(places)
        back = np.empty_like(by)
        back[by] = np.arange(len(by))
        y, places, counts = np.take(y, by, axis=0 if axis is None else axis), places[by], counts[by]
        inverse = back[inverse.reshape(-1)]
    return [y, places, inverse.reshape(-1), counts]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("axis", [None, 0, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_the_references(dtype: Any, axis: int | None, ordered: bool) -> None:
    graph = prepared(load(unique(dtype, axis, ordered)), None)
    check(lambda feeds: run_graph(graph, feeds), dtype, axis, ordered)


@pytest.mark.parametrize(("dtype", "axis", "ordered"), [(np.float32, None, False), (np.int64, 0, True)])
def test_native_code(dtype: Any, axis: int | None, ordered: bool, workers: Workers) -> None:
    check(build(prepared(load(unique(dtype, axis, ordered)), None), workers, 2, None).run, dtype, axis, ordered)


def unique(dtype: Any, axis: int | None, ordered: bool) -> Any:
    attributes = {"sorted": int(ordered)} | ({} if axis is None else {"axis": axis})
    outputs = ["y", "places", "inverse", "counts"]
    return model([node("Unique", ["x"], outputs, **attributes)], [port("x", ["a", "b"], dtype)], outputs)


def check(run: Callable[[dict[str, np.ndarray]], Any], dtype: Any, axis: int | None, ordered: bool) -> None:
    rng = np.random.default_rng(3)
    for shape in ((6, 2), (1, 1), (40, 3), (3, 5), (0, 2) if axis != -1 else (3, 1)):
        x = rng.integers(-1, 2, shape).astype(dtype)
        if dtype is np.float32 and axis is None and x.size > 5:
            x.flat[[3, 5]], x.flat[1] = np.nan, -0.0
        for found, wanted in zip(run({"x": x}).values(), expected(x, axis, ordered), strict=True):
            assert found.shape == wanted.shape
            np.testing.assert_array_equal(found, wanted)


def test_numbers_that_equal_each_other_are_one() -> None:
    """NaN is the largest, -0 is 0."""
    made = model([node("Unique", ["x"], ["y"], axis=0)], {"x": ["a", "b"]})
    x = np.array([[np.nan, 0], [1, -0.0], [np.nan, -0.0], [1, 0], [-np.inf, 2]], np.float32)
    np.testing.assert_array_equal(run_graph(load(made), {"x": x})["y"], x[[4, 1, 0]])
