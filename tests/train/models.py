"""Small models and data that training is tried on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ir.graph import Graph
from mapsto.ops.builder import Builder
from mapsto.train import Adam, Trainer

DIGITS = Path(__file__).parents[2] / "examples" / "digits.npz"


def perceptron(inner: int = 8, inputs: int = 6, classes: int = 3, seed: int = 0) -> Graph:
    """scores = relu(x w1 + b1) w2 + b2, for any number of rows."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (inputs, inner), "b1": (inner,), "w2": (inner, classes), "b2": (classes,)}
    b = Builder("perceptron")
    x = b.input("x", DType.F32, (sym("rows"), inputs))
    p = {k: b.constant((rng.standard_normal(s) * (2 / s[0]) ** 0.5).astype(np.float32), k) for k, s in shapes.items()}
    with b.source("first"):
        hidden = b.one("relu", [b.one("add", [b.one("matmul", [x, p["w1"]]), p["b1"]])])
    with b.source("second"):
        scores = b.one("add", [b.one("matmul", [hidden, p["w2"]]), p["b2"]])
    return b.finish([scores], names=["scores"])


def data(rows: int = 50, inputs: int = 6, classes: int = 3, seed: int = 1) -> dict[str, np.ndarray]:
    """Points around as many centres as there are classes, with their labels."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, rows)
    centres = np.random.default_rng(7).standard_normal((classes, inputs)) * 2
    return {"x": (centres[label] + rng.standard_normal((rows, inputs))).astype(np.float32), "label": label}


@cache
def digits() -> dict[str, np.ndarray]:
    with np.load(DIGITS) as found:
        return {"image": found["image"], "label": found["label"]}


# ---- trainers --------------------------------------------------------------------------------------------------------

_MADE: dict[str, list[tuple[Trainer, dict[str, np.ndarray]]]] = {}
_GIVEN: list[str] = []


@contextmanager
def borrowed() -> Iterator[None]:
    """Trainers that are given inside of it are given back at its end."""
    yield
    _GIVEN.clear()


def trainer(model: Graph | None = None, **options: Any) -> Trainer:
    """A trainer of a perceptron as if it were new: compiled once, its state set back; another one each time until they
    are given back.
    """
    if model is not None:
        return Trainer(model, **{"optimizer": Adam(0.01), "threads": 1, **options})
    key = repr(options)
    made, place = _MADE.setdefault(key, []), _GIVEN.count(key)
    if place == len(made):
        new = trainer(perceptron(), **options)
        made.append((new, state_of(new)))
    _GIVEN.append(key)
    each, start = made[place]
    each.load_state(start)
    each.learning_rate = options.get("optimizer", Adam(0.01)).learning_rate
    return each


def state_of(each: Trainer) -> dict[str, np.ndarray]:
    """A copy."""
    return {name: array.copy() for name, array in each.state().items()}


def bits_of(each: Trainer) -> dict[str, bytes]:
    """Everything that decides the next step, to be compared."""
    return {name: array.tobytes() for name, array in each.state().items()}
