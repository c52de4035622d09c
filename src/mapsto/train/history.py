"""What a training was like: a report of each epoch, and how it ended. Frozen data that prints as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mapsto.errors import ModelError


@dataclass(frozen=True)
class TimeShares:
    """Parts of an epoch's steps, which add up to 1: waiting for data; computing losses and gradients; updating
    parameters (the kernels that write them, with what is fused into these).
    """

    data: float
    compute: float
    update: float


@dataclass(frozen=True)
class EpochReport:
    """One epoch. number: from 1 on. loss: the mean over its batches, each before its step, weighted by examples.
    validation: the loss on validation data after it, with `metrics` of these; None and {} where there are none. rate:
    of its last step. seconds: of its steps; examples_per_second of these.
    """

    number: int
    steps: int
    examples: int
    loss: float
    validation: float | None
    metrics: Mapping[str, float]
    rate: float
    seconds: float
    shares: TimeShares

    @property
    def examples_per_second(self) -> float:
        return self.examples / self.seconds if self.seconds > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        shares = {"data": self.shares.data, "compute": self.shares.compute, "update": self.shares.update}
        return {
            "number": self.number, "steps": self.steps, "examples": self.examples, "loss": self.loss,
            "validation": self.validation, "metrics": dict(self.metrics), "rate": self.rate, "seconds": self.seconds,
            "examples_per_second": self.examples_per_second, "shares": shares,
        }  # fmt: skip

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> EpochReport:
        """The report of what `to_json` gave. Raises ModelError for anything else."""
        try:
            shares = TimeShares(*(float(data["shares"][part]) for part in ("data", "compute", "update")))
            validation = None if data["validation"] is None else float(data["validation"])
            metrics = {str(name): float(value) for name, value in data["metrics"].items()}
            number, steps, examples = (int(data[name]) for name in ("number", "steps", "examples"))
            loss, rate, seconds = (float(data[name]) for name in ("loss", "rate", "seconds"))
            return EpochReport(number, steps, examples, loss, validation, metrics, rate, seconds, shares)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"the history is damaged ({type(error).__name__}: {error})") from None


@dataclass(frozen=True)
class History:
    """A training: its epochs, in words how it `ended`, the number of the `best` epoch (of early stopping, None without
    it), and what there is to know of how it was resumed.
    """

    epochs: tuple[EpochReport, ...]
    ended: str
    best: int | None = None
    notes: tuple[str, ...] = field(default=())

    def series(self, name: str) -> tuple[float, ...]:
        """One figure of all epochs that have it: `loss`, `validation`, `rate`, or the name of a metric."""
        if name in ("loss", "rate"):
            return tuple(float(getattr(epoch, name)) for epoch in self.epochs)
        if name == "validation":
            return tuple(epoch.validation for epoch in self.epochs if epoch.validation is not None)
        return tuple(epoch.metrics[name] for epoch in self.epochs if name in epoch.metrics)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "epochs": [epoch.to_json() for epoch in self.epochs],
            "ended": self.ended,
            "best": self.best,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        return "\n".join([*(epoch_text(epoch) for epoch in self.epochs), *self.notes, self.ended])


def epoch_text(epoch: EpochReport) -> str:
    """One line about an epoch."""
    said = [f"epoch {epoch.number}: loss {epoch.loss:.4f}"]
    if epoch.validation is not None:
        said.append(f"validation {epoch.validation:.4f}")
    said += [f"{name} {value:.4f}" for name, value in epoch.metrics.items()]
    shares = f"data {epoch.shares.data:.1%}, compute {epoch.shares.compute:.1%}, update {epoch.shares.update:.1%}"
    said.append(f"rate {epoch.rate:.3g}")
    return f"{', '.join(said)}; {epoch.seconds:.1f} s, {epoch.examples_per_second:,.0f} examples/s ({shares})"
