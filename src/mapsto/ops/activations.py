"""The activations that recurrent layers may have (ONNX LSTM, GRU, RNN), by their names in lower case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapsto.ir.dtypes import Array, from_numpy
from mapsto.kernel.scalar import apply

# Activations by op: of the gates, of the cell, and of the output.
DEFAULTS: dict[str, tuple[str, ...]] = {
    "lstm": ("sigmoid", "tanh", "tanh"),
    "gru": ("sigmoid", "tanh"),
    "rnn": ("tanh",),
}
# Name -> alpha and beta where a node does not say them; None for an activation that has none.
PARAMETERS: dict[str, tuple[float | None, float | None]] = {
    "affine": (1.0, 0.0), "elu": (1.0, None), "hardsigmoid": (0.2, 0.5), "leakyrelu": (0.01, None),
    "relu": (None, None), "scaledtanh": (1.0, 1.0), "sigmoid": (None, None), "softplus": (None, None),
    "softsign": (None, None), "tanh": (None, None), "thresholdedrelu": (1.0, None),
}  # fmt: skip


@dataclass(frozen=True)
class Activation:
    """alpha and beta are 0 where the function has none."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0


def activations_of(op: str, attrs: Mapping[str, Any]) -> tuple[Activation, ...]:
    """A node's, from its attribute `activations`, a tuple of (name, alpha, beta); the defaults where it has none."""
    said = attrs.get("activations")
    return tuple(Activation(*entry) for entry in said) if said else tuple(Activation(name) for name in DEFAULTS[op])


def activated(f: Activation, x: Array) -> Array:
    """f(x), the reference."""
    if f.name in ("sigmoid", "tanh"):
        return apply(f.name, [x], from_numpy(x.dtype))
    with np.errstate(all="ignore"):
        return np.asarray(_REFERENCES[f.name](x, f.alpha, f.beta), x.dtype)


_REFERENCES: dict[str, Any] = {
    "affine": lambda x, a, b: a * x + b,
    "elu": lambda x, a, b: np.where(x < 0, a * np.expm1(x), x),
    "hardsigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "leakyrelu": lambda x, a, b: np.where(x < 0, a * x, x),
    "relu": lambda x, a, b: np.maximum(x, 0),
    "scaledtanh": lambda x, a, b: a * np.tanh(b * x),
    "softplus": lambda x, a, b: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    "softsign": lambda x, a, b: x / (1 + np.abs(x)),
    "thresholdedrelu": lambda x, a, b: np.where(x >= a, x, 0),
}
