"""Recurrent layers in whole models: a product of all steps and the steps, beside ONNX Runtime and the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.session.support import Feed, check, normal, parse

from mapsto.devices.cpu.workers import Workers
from mapsto.runtime.program import Run

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
INPUTS = 6


def layer(
    op: str, sizes: tuple[Any, Any], hidden: int, attrs: str = "", directions: int = 1, constant: bool = False
) -> tuple[Any, Feed]:
    """A model of one layer over [time, batch], and its weights: constants of it or inputs."""
    rows, (time, batch) = GATES[op] * hidden, sizes
    shapes = {"w": (directions, rows, INPUTS), "r": (directions, rows, hidden), "b": (directions, 2 * rows)}
    weights = {name: normal(*shape, seed=i) * 0.3 for i, (name, shape) in enumerate(shapes.items())}
    ports = [f"float[{time}, {batch}, {INPUTS}] x"]
    ports += [] if constant else [f"float{list(shape)} {name}" for name, shape in shapes.items()]
    held = ", ".join(
        f"float{list(weights[n].shape)} {n} = {{{', '.join(map(str, weights[n].reshape(-1)))}}}" for n in weights
    )
    model = parse(f"""g ({", ".join(ports)}) => (float[?, ?, ?, ?] y) {f"<{held}>" if constant else ""} {{
        y = {op}<hidden_size = {hidden}{attrs}>(x, w, r, b)
    }}""")
    return model, {} if constant else weights


@pytest.mark.parametrize("op, attrs", [
    ("LSTM", ""), ("GRU", ""), ("GRU", ", linear_before_reset = 1"), ("RNN", ""),
    ("RNN", ', activations = ["Relu", "Relu"]'),
])  # fmt: skip
@pytest.mark.parametrize("constant", [True, False], ids=["constants", "inputs"])
def test_layers(op: str, attrs: str, constant: bool, workers: Workers) -> None:
    """Of any time and batch, and of those that are known; weights as constants and as inputs."""
    attrs += ', direction = "bidirectional"'
    model, weights = layer(op, ("T", "B"), 21, attrs, 2, constant)
    check(workers, model, *({**weights, "x": normal(*sizes, INPUTS)} for sizes in [(4, 3), (1, 1), (2, 20)]))
    for sizes in [(1, 2), (7, 1), (3, 19)]:
        model, weights = layer(op, sizes, 21, attrs, 2, constant)
        check(workers, model, {**weights, "x": normal(*sizes, INPUTS)})


@pytest.mark.parametrize("op, packed", [("LSTM", 1), ("GRU", 2), ("RNN", 1)])
@pytest.mark.parametrize("time", [1, 5])
def test_constant_weights_are_packed_when_compiling(op: str, packed: int, time: int, workers: Workers) -> None:
    """A run multiplies and steps; nothing of it reads the weights as the model has them."""
    steps = []
    for constant in (True, False):
        model, weights = layer(op, (time, 2), 16, constant=constant)
        exe = check(workers, model, {**weights, "x": normal(time, 2, INPUTS)})
        steps.append(sum(isinstance(step, Run) for step in exe.program.steps))
    assert steps[0] == (1 if time == 1 and op != "GRU" else 2)
    assert steps[1] > steps[0]


def test_layout_with_the_batch_first(workers: Workers) -> None:
    model = parse("""g (float[B, T, 6] x, float[2, 20, 6] w, float[2, 20, 5] r, int32[B] n, float[B, 2, 5] h,
        float[B, 2, 5] c) => (float[B, T, 2, 5] y, float[B, 2, 5] z) {
        y, z = LSTM<hidden_size = 5, direction = "bidirectional", layout = 1>(x, w, r, , n, h, c)
    }""")
    feed = {
        "x": normal(3, 4, 6), "w": normal(2, 20, 6), "r": normal(2, 20, 5, seed=1), "n": np.array([4, 1, 3], np.int32),
        "h": normal(3, 2, 5, seed=2), "c": normal(3, 2, 5, seed=3),
    }  # fmt: skip
    check(workers, model, feed, onnxruntime=False)  # which has no layout 1
