"""Metrics: how good outputs are on validation data, beside the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mapsto.arguments import brief, real
from mapsto.errors import ArgumentError, MapstoError, ShapeError

Measure = Callable[[np.ndarray, np.ndarray], float]
"""(an output, what was wanted of it) -> a mean over the examples of a batch."""


def accuracy(output: np.ndarray, wanted: np.ndarray) -> float:
    """The share of examples whose largest score is at the label. output: [N, classes, ...]; wanted: classes
    [N, ...], or scores like the output's.
    """
    classes = wanted.argmax(1) if wanted.shape == output.shape else wanted
    found = output.argmax(1)
    if found.shape != classes.shape:
        raise ShapeError(f"accuracy takes labels of shape {list(found.shape)}, not {list(classes.shape)}")
    return float((found == classes).mean())


def top_5_accuracy(output: np.ndarray, wanted: np.ndarray) -> float:
    """The share of examples whose label is among the five largest scores. output: [N, classes]; wanted: [N]."""
    if output.ndim != 2 or wanted.shape != output.shape[:1]:
        raise ShapeError("top_5_accuracy takes scores [N, classes] and labels [N]")
    best = np.argsort(output, 1)[:, -5:]
    return float((best == wanted[:, None]).any(1).mean())


def binary_accuracy(output: np.ndarray, wanted: np.ndarray) -> float:
    """The share of elements whose logit is on the label's side of 0."""
    return float(((output > 0) == (wanted > 0.5)).mean())


def mean_absolute_error(output: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(output.astype(np.float64) - wanted).mean())


METRICS: Mapping[str, Measure] = {
    each.__name__: each for each in (accuracy, top_5_accuracy, binary_accuracy, mean_absolute_error)
}
_LARGER_IS_BETTER = ("accuracy", "top_5_accuracy", "binary_accuracy")


def is_larger_better(name: str) -> bool | None:
    """None where that is not known, of a metric of the user's own."""
    return True if name in _LARGER_IS_BETTER else False if name in METRICS else None


def metrics_of(given: Any) -> dict[str, Measure]:
    """Metrics by name: of names, of functions, or of a dict of functions. Raises ArgumentError."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        named: Sequence[tuple[Any, Any]] = list(given.items())
    elif isinstance(given, (str, bytes)) or callable(given):
        named = [(None, given)]
    else:
        try:
            named = [(None, each) for each in given]
        except TypeError:
            raise ArgumentError(f"metrics: expected names or functions, got {brief(given)}") from None
    found: dict[str, Measure] = {}
    for name, each in named:
        if isinstance(each, str) and each in METRICS:
            found[each if name is None else str(name)] = METRICS[each]
        elif callable(each):
            own = getattr(each, "__name__", type(each).__name__) if name is None else str(name)
            found[own] = _guarded(own, each)
        else:
            raise ArgumentError(f"metrics: there is no {brief(each)}; known: {', '.join(METRICS)}; or give a function")
    return found


def _guarded(name: str, function: Callable[[np.ndarray, np.ndarray], Any]) -> Measure:
    """A metric of the user's own; what it raises becomes an ArgumentError, with that as its cause."""

    def metric(output: np.ndarray, wanted: np.ndarray) -> float:
        try:
            found = function(output, wanted)
        except MapstoError:
            raise
        except Exception as error:
            raise ArgumentError(f"metrics: {name} raised {type(error).__name__}: {error}") from error
        number = real(found)
        if number is None:
            raise ArgumentError(f"metrics: {name} gave {brief(found)}, which is no number")
        return number

    return metric
