"""What is done at the end of each epoch beside training: early stopping, and functions of the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapsto.arguments import brief, integer, real
from mapsto.errors import ArgumentError, MapstoError
from mapsto.train.history import EpochReport
from mapsto.train.metrics import is_larger_better

Callback = Callable[[EpochReport], Any]
"""Told of each epoch at its end; the training stops where it gives True."""


@dataclass(frozen=True)
class EarlyStopping:
    """Stops when `monitor` has not got better by more than `min_delta` for `patience` epochs. monitor: "validation",
    "loss", or a metric (None: the loss on validation data, where there are any). larger_is_better: of a metric that is
    not ours. restore_best: parameters are then those after the best epoch.
    """

    patience: int = 3
    min_delta: float = 0.0
    monitor: str | None = None
    larger_is_better: bool | None = None
    restore_best: bool = True

    def __post_init__(self) -> None:
        patience, delta = integer(self.patience), real(self.min_delta)
        if patience is None or patience < 1:
            raise ArgumentError(f"EarlyStopping: patience: expected an integer from 1 on, got {brief(self.patience)}")
        if delta is None or not 0 <= delta < math.inf:
            raise ArgumentError(f"EarlyStopping: min_delta: expected a number from 0 on, got {brief(self.min_delta)}")
        if self.monitor is not None and not isinstance(self.monitor, str):
            raise ArgumentError(f"EarlyStopping: monitor: expected a name, got {brief(self.monitor)}")
        for name in ("larger_is_better", "restore_best"):
            value = getattr(self, name)
            if not isinstance(value, bool) and not (value is None and name == "larger_is_better"):
                raise ArgumentError(f"EarlyStopping: {name}: expected True or False, got {brief(value)}")


@dataclass
class StoppingWatch:
    """Early stopping as it goes: the best figure, the epoch that it is of, and how many epochs ago that was."""

    stopping: EarlyStopping
    best: float | None = None
    epoch: int | None = None
    waited: int = 0

    def check(self, known: Collection[str]) -> None:
        """Raises ArgumentError where epochs that have these figures lack what is watched."""
        name = self.stopping.monitor
        if name is None:
            return
        if name not in known:
            raise ArgumentError(f"early_stopping: there is no {name!r} to watch; there is {', '.join(known)}")
        self._larger(name)

    def see(self, report: EpochReport) -> bool:
        """Looks at an epoch; whether it is the best so far. Raises as `check` does."""
        figures = {"loss": report.loss, "validation": report.validation, **report.metrics}
        known = {name: figure for name, figure in figures.items() if figure is not None}
        self.check(known)
        name = self.stopping.monitor or ("validation" if "validation" in known else "loss")
        figure = known[name]
        sign = -1.0 if self._larger(name) else 1.0
        if self.best is None or sign * figure < sign * self.best - self.stopping.min_delta:
            self.best, self.epoch, self.waited = figure, report.number, 0
            return True
        self.waited += 1
        return False

    @property
    def is_over(self) -> bool:
        return self.waited >= self.stopping.patience

    def _larger(self, name: str) -> bool:
        if self.stopping.larger_is_better is not None:
            return self.stopping.larger_is_better
        larger = False if name in ("loss", "validation") else is_larger_better(name)
        if larger is None:
            raise ArgumentError(f"early_stopping: say whether a larger {name} is better: larger_is_better=...")
        return larger


def early_stopping_of(given: Any) -> EarlyStopping | None:
    """None, an `EarlyStopping`, or a patience. Raises ArgumentError."""
    if given is None or isinstance(given, EarlyStopping):
        return given
    if integer(given) is None:
        raise ArgumentError(f"early_stopping: expected an EarlyStopping or a number of epochs, got {brief(given)}")
    return EarlyStopping(patience=given)


def callbacks_of(given: Any) -> tuple[Callback, ...]:
    """Functions, or one. Raises ArgumentError."""
    found = (given,) if callable(given) else tuple(given) if isinstance(given, Iterable) else None
    if found is None or not all(callable(each) for each in found):
        raise ArgumentError(f"callbacks: expected functions of an EpochReport, got {brief(given)}")
    return found


def told(callbacks: Iterable[Callback], report: EpochReport) -> bool:
    """Tells all of an epoch; whether one of them asks to stop. What one raises becomes an ArgumentError."""
    stop = False
    for callback in callbacks:
        try:
            answer = callback(report)
            stop = stop or (isinstance(answer, bool | np.bool_) and bool(answer))
        except MapstoError:
            raise
        except Exception as error:
            raise ArgumentError(f"callbacks: {brief(callback)} raised {type(error).__name__}: {error}") from error
    return stop
