"""What results may lose to narrower number formats, and by which data that is seen."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapsto.arguments import brief
from mapsto.errors import ArgumentError
from mapsto.formats.format import FORMATS
from mapsto.formats.ranges import USUAL
from mapsto.ir.graph import Value
from mapsto.session.calibration import Calibration, Example

Results = Mapping[str, np.ndarray]

# Given outputs and examples run by run, a number that is larger the better they are.
Metric = Callable[[Sequence[Results], Sequence[Example]], float]

_LABELS = ("label", "labels")
_DRAWS = 400  # of runs, for an interval
_WITHIN = 0.95


@dataclass(frozen=True, eq=False)
class Accuracy:
    """What results may lose.

    data: examples as `Calibration` takes them. Every other run of them chooses formats, and those between are kept
    apart: it has to hold on them. metric: a function of outputs and examples, lists of dicts, one a run, to a number
    that is larger the better they are; "top-1": the share of `label` that the largest of the last axis of the first
    output is at; None: how far outputs are from those in f32, as the root of the squares of all differences over that
    of all values, of the worst output. drop: what the metric may lose, or that error may be. formats: those that may be
    taken. calibrator: see `Calibration`. seconds: that looking for formats may take, about.
    """

    data: Any
    metric: Metric | str | None = None
    drop: float = 0.005
    formats: tuple[str, ...] = ("int8", "int16", "bf16", "f16")
    calibrator: str = USUAL
    seconds: float = 120.0

    def __post_init__(self) -> None:
        Calibration(self.data, self.calibrator)
        if self.metric is not None and self.metric != "top-1" and not callable(self.metric):
            raise ArgumentError(f"metric: expected a function, 'top-1' or None, got {brief(self.metric)}")
        for name, number in (("drop", self.drop), ("seconds", self.seconds)):
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < math.inf:
                raise ArgumentError(f"{name}: {brief(number)} is no number from 0 on")
        if unknown := [name for name in self.formats if FORMATS.get(name) is None]:
            narrower = ", ".join(name for name, each in FORMATS.items() if each is not None)
            raise ArgumentError(f"formats: {brief(unknown[0])}; there are {narrower}")

    @property
    def digest(self) -> str:
        """Of all that decides. Raises AttributeError for a metric that is a function: what it does is not known."""
        if callable(self.metric):
            raise AttributeError("a metric that is a function")
        asked = f"{self.metric} {self.drop} {self.formats} {self.seconds}"
        return hashlib.sha256(f"{asked} {self.calibration.digest}".encode()).hexdigest()

    @property
    def calibration(self) -> Calibration:
        return Calibration(self.data, self.calibrator)

    def loss(self, outputs: Sequence[Results], plain: Sequence[Results], examples: Sequence[Example]) -> float:
        """What these outputs have lost beside those in f32. Raises ArgumentError where the metric gives no number."""
        if self.metric is None:
            return moved(outputs, plain)
        score = top_1 if self.metric == "top-1" else self.metric
        assert callable(score)
        values = [score(each, examples) for each in (plain, outputs)]
        if not all(isinstance(value, (int, float, np.number)) and math.isfinite(value) for value in values):
            raise ArgumentError(f"metric: expected a number, got {brief(values[1])}")
        return float(values[0] - values[1])

    def interval(
        self, outputs: Sequence[Results], plain: Sequence[Results], examples: Sequence[Example]
    ) -> tuple[float, float]:
        """Where the loss is in 95 of 100 draws of as many runs (bootstrap; Efron 1979)."""
        rng = np.random.default_rng(0)
        found = []
        for _ in range(_DRAWS):
            rows = rng.integers(0, len(outputs), len(outputs))
            found.append(self.loss(*([every[row] for row in rows] for every in (outputs, plain, examples))))
        low, high = np.quantile(found, [(1 - _WITHIN) / 2, (1 + _WITHIN) / 2])
        return float(low), float(high)


def moved(outputs: Sequence[Results], plain: Sequence[Results]) -> float:
    """The root of the squares of all differences over that of all values, of the output where it is largest; infinite
    where one is not finite that was.
    """
    return max((_moved(name, outputs, plain) for name in plain[0]), default=0.0)


def _moved(name: str, outputs: Sequence[Results], plain: Sequence[Results]) -> float:
    size = off = 0.0
    for run, before_run in zip(outputs, plain, strict=True):
        before, after = np.asarray(before_run[name], np.float64), np.asarray(run[name], np.float64)
        finite = np.isfinite(before)
        if before.shape != after.shape or not np.isfinite(after[finite]).all():
            return math.inf
        size += float((before[finite] ** 2).sum())
        off += float(((after[finite] - before[finite]) ** 2).sum())
    return math.sqrt(off / size) if size > 0 else (math.inf if off > 0 else 0.0)


def top_1(outputs: Sequence[Results], examples: Sequence[Example]) -> float:
    """The share of examples whose label is where the first output is largest, along its last axis."""
    right = count = 0
    for each, example in zip(outputs, examples, strict=True):
        labels = next((np.asarray(example[name]) for name in _LABELS if name in example), None)
        scores = np.asarray(next(iter(each.values())))
        if labels is None or scores.ndim < 1 or labels.size != scores.size // max(scores.shape[-1], 1):
            raise ArgumentError("metric 'top-1': the data needs an array `label`, a number for each example")
        right += int((scores.argmax(-1).reshape(-1) == labels.reshape(-1)).sum())
        count += labels.size
    return right / max(count, 1)


def runs_of(accuracy: Accuracy, inputs: Sequence[Value]) -> tuple[list[Example], list[Example]]:
    """The runs that choose, and those that are kept apart, with labels. Raises ArgumentError for fewer than two."""
    runs = list(accuracy.calibration.runs(inputs, whole=True))
    if len(runs) < 2:
        raise ArgumentError("accuracy: the data is one run; it needs two at least, one of which is kept apart")
    return runs[::2], runs[1::2]
