"""LSTM, GRU and RNN; Fourier transforms; losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.differential.drawing import Draw
from tests.differential.form import Form

Maker = Callable[[Draw], Form]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(op: str) -> Maker:
    def make(d: Draw) -> Form:
        opset = d.one_of([7, 14, 22])
        both = d.one_of(["forward", "reverse", "bidirectional"])
        n = 2 if both == "bidirectional" else 1
        hidden, inputs, gates = d.one_of([1, 3, 8, 17]), d.one_of([1, 4, 9]), GATES[op]
        attributes: dict[str, Any] = {"hidden_size": hidden, "direction": both}
        if op == "GRU" and d.chance(0.5):
            attributes["linear_before_reset"] = 1
        if op == "LSTM" and d.chance(0.2):
            attributes["input_forget"] = 1
        if d.chance(0.2):
            attributes["clip"] = 1.5
        scale = np.float32(0.4)
        weights = {
            "w": d.values((n, gates * hidden, inputs), "float32", tame=True) * scale,
            "r": d.values((n, gates * hidden, hidden), "float32", tame=True) * scale,
        }
        more = [
            ("b", lambda f, batch: f.values((n, 2 * gates * hidden), "float32", tame=True)),
            ("l", lambda f, batch: f.rng.integers(1, 4, (batch,)).astype(np.int32)),
            ("h", lambda f, batch: f.values((n, batch, hidden), "float32", tame=True)),
        ]
        if op == "LSTM":
            more.append(("c", lambda f, batch: f.values((n, batch, hidden), "float32", tame=True)))
            more.append(("p", lambda f, batch: f.values((n, 3 * hidden), "float32", tame=True) * scale))
        chosen = [name if d.chance(0.5) else "" for name, _ in more]
        while chosen and not chosen[-1]:
            chosen.pop()
        names = ("x", "w", "r", *chosen)

        def feed(f: Draw) -> dict[str, Any]:
            steps, batch = f.integer(3, 7), f.integer(1, 4)
            found: dict[str, Any] = {"x": f.values((steps, batch, inputs), "float32", tame=True)}
            return found | {name: drawn(f, batch) for name, drawn in more if name in chosen}

        kept = {"x": [2], "b": range(2), "h": [0, 2], "c": [0, 2], "p": range(2)}
        return Form(
            op, feed, names, attributes, weights, outputs=3 if op == "LSTM" else 2, opset=opset, rule="norm",
            pinned=kept,
        )  # fmt: skip

    return make


def dft(d: Draw) -> Form:
    opset = d.one_of([17, 20])
    kind, real = d.one_of(["float32", "float64"]), d.chance(0.5)
    attributes: dict[str, Any] = {"inverse": 1} if d.chance(0.3) and not real else {}
    if real and d.chance(0.5):
        attributes["onesided"] = 1
    if opset < 20:
        attributes["axis"] = 1

    def feed(f: Draw) -> dict[str, Any]:
        found = {"x": f.values((f.integer(1, 3), f.integer(1, 20), 1 if real else 2), kind, tame=True)}
        return found if opset < 20 else {**found, "n": np.array(found["x"].shape[1]), "a": np.array(1)}

    names = ("x",) if opset < 20 else ("x", "n", "a")
    return Form("DFT", feed, names, attributes, opset=opset, rule="norm", pinned={"x": [2]})


def losses(op: str) -> Maker:
    def make(d: Draw) -> Form:
        opset = d.opset(op, 12)
        kind, more = d.one_of(["float32", "float64"]), d.integer(0, 2)
        attributes: dict[str, Any] = {"reduction": d.one_of(["none", "sum", "mean"])}
        weighted = d.chance(0.4)
        ignored = d.chance(0.4)
        if ignored:
            attributes["ignore_index"] = d.one_of([0, 1, -1, 255])
        classes = d.integer(2, 7)

        def feed(f: Draw) -> dict[str, Any]:
            n, tail = f.integer(1, 5), f.shape(more, 1, 50)
            found = {"x": f.values((n, classes, *tail), kind, tame=True)}
            target = f.rng.integers(0, classes, (n, *tail))
            if ignored:
                target = np.where(f.rng.random(target.shape) < 0.2, attributes["ignore_index"], target)
                target.flat[0] = classes - 1 if attributes["ignore_index"] != classes - 1 else 0
            found["t"] = target.astype(np.int64)
            return {
                **found,
                **({"w": np.abs(f.values((classes,), kind, tame=True)) + np.array(0.1, kind)} if weighted else {}),
            }

        names = ("x", "t", *(["w"] if weighted else []))
        return Form(op, feed, names, attributes, opset=opset, rule="whole", pinned={"x": [1], "w": [0]})

    return make


FORMS: dict[str, Maker] = {
    **{op: recurrent(op) for op in GATES},
    "DFT": dft,
    **{op: losses(op) for op in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")},
}
