"""Random numbers: the same in every run and for a seed that is said, others for others, and drawn as often as asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.importers.models import model, node, port

from mapsto.importers.onnx import load
from mapsto.ops.interpret import run_graph

COUNT = 20000


def drawn(
    op: str, x: np.ndarray | None, constants: dict[str, np.ndarray] | None = None, **attributes: Any
) -> list[Any]:
    inputs = [*([] if x is None else ["x"]), *(constants or {})]
    outputs = ["y", "mask"] if op == "Dropout" else ["y"]
    ports = [] if x is None else [port("x", x.shape)]
    made = model([node(op, inputs, outputs, name="draw", **attributes)], ports, outputs, constants, opset=22)
    return list(run_graph(load(made), {} if x is None else {"x": x}).values())


def test_classes_are_drawn_as_often_as_they_are_likely() -> None:
    likely = np.array([[0.1, 0.0, 0.6, 0.3], [1, 1, 1, 1]], np.float32)
    with np.errstate(divide="ignore"):
        (found,) = drawn("Multinomial", np.log(likely), sample_size=COUNT, seed=1.0)
    assert found.dtype == np.int32 and found.shape == (2, COUNT)
    for row, weights in zip(found, likely, strict=True):
        np.testing.assert_allclose(np.bincount(row, minlength=4) / COUNT, weights / weights.sum(), atol=0.015)
    assert not (found[0] == 1).any()


def test_dropout_keeps_the_mean() -> None:
    x = np.full((100, COUNT // 100), 3, np.float32)
    y, mask = drawn("Dropout", x, {"ratio": np.float32(0.25), "training": np.array(True)}, seed=4)
    np.testing.assert_array_equal(y, np.where(mask, x / np.float32(0.75), 0))
    assert abs(mask.mean() - 0.75) < 0.015


@pytest.mark.parametrize("op", ["RandomUniform", "RandomNormal"])
def test_seeds(op: str) -> None:
    draws = [drawn(op, None, shape=[64], **seed)[0] for seed in ({"seed": 1.0}, {"seed": 1.0}, {"seed": 2.0}, {}, {})]
    np.testing.assert_array_equal(draws[0], draws[1])
    np.testing.assert_array_equal(draws[3], draws[4])
    assert all((draws[0] != other).mean() > 0.9 for other in (draws[2], draws[3]))
