"""Schedules: the learning rate of each step, as a function of where in the training it is.

Values are those of PyTorch's `torch.optim.lr_scheduler`, in closed form: a rate follows from the step alone, so that a
training that is resumed goes on with the rates that it would have had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mapsto.arguments import brief, integer, real
from mapsto.errors import ArgumentError, MapstoError

EPOCHS, STEPS = "epoch", "step"


@dataclass(frozen=True)
class Moment:
    """Where a training is: `step` and `epoch` count from 0. steps, epochs: of the whole training; steps_an_epoch: of
    each epoch. What is not known beforehand (of data without a length) is None.
    """

    step: int
    epoch: int
    epochs: int
    steps_an_epoch: int | None = None

    @property
    def steps(self) -> int | None:
        return None if self.steps_an_epoch is None else self.steps_an_epoch * self.epochs

    def at(self, per: str) -> int:
        return self.epoch if per == EPOCHS else self.step

    def total(self, per: str) -> int | None:
        return self.epochs if per == EPOCHS else self.steps


@dataclass(frozen=True)
class Schedule:
    """What a rate becomes. `rate` gives it for a moment; `base` is the rate that the trainer was given."""

    kind: ClassVar[str] = ""

    def rate(self, base: float, moment: Moment) -> float:
        raise ArgumentError(f"schedule: {type(self).__name__} does not say what a rate becomes")

    def _total(self, given: int | None, moment: Moment, per: str) -> int:
        total = moment.total(per) if given is None else given
        if total is None:
            raise ArgumentError(
                f"schedule: {type(self).__name__} ends with the training, whose steps are not known beforehand, as the "
                f"data has no length: say total=..., or per={EPOCHS!r}"
            )
        return total


@dataclass(frozen=True)
class StepDecay(Schedule):
    """base * factor^(t // every), t in epochs (or steps): `torch.optim.lr_scheduler.StepLR`."""

    every: int
    factor: float = 0.1
    per: str = EPOCHS
    kind: ClassVar[str] = "step"

    def __post_init__(self) -> None:
        _counts(self, "every")
        _positive(self, "factor")
        _unit(self)

    def rate(self, base: float, moment: Moment) -> float:
        return base * self.factor ** (moment.at(self.per) // self.every)


@dataclass(frozen=True)
class MultiStep(Schedule):
    """base * factor^(how many milestones are reached), in epochs (or steps): `torch.optim.lr_scheduler.MultiStepLR`."""

    milestones: tuple[int, ...]
    factor: float = 0.1
    per: str = EPOCHS
    kind: ClassVar[str] = "multi-step"

    def __post_init__(self) -> None:
        given = self.milestones
        try:
            milestones = tuple(integer(each) for each in given)
        except TypeError:
            milestones = ()
        if not milestones or any(each is None or each < 1 for each in milestones):
            raise ArgumentError(f"MultiStep: milestones: expected integers from 1 on, got {brief(given)}")
        object.__setattr__(self, "milestones", tuple(sorted(each for each in milestones if each is not None)))
        _positive(self, "factor")
        _unit(self)

    def rate(self, base: float, moment: Moment) -> float:
        reached = sum(each <= moment.at(self.per) for each in self.milestones)
        return base * self.factor**reached


@dataclass(frozen=True)
class Exponential(Schedule):
    """base * factor^t, t in epochs (or steps): `torch.optim.lr_scheduler.ExponentialLR`."""

    factor: float
    per: str = EPOCHS
    kind: ClassVar[str] = "exponential"

    def __post_init__(self) -> None:
        _positive(self, "factor")
        _unit(self)

    def rate(self, base: float, moment: Moment) -> float:
        return base * self.factor ** moment.at(self.per)


@dataclass(frozen=True)
class Cosine(Schedule):
    """From base down to `least` along half a cosine over `total` epochs (or steps; None: the whole training):
    `torch.optim.lr_scheduler.CosineAnnealingLR`; afterwards it stays at `least`.
    """

    total: int | None = None
    least: float = 0.0
    per: str = EPOCHS
    kind: ClassVar[str] = "cosine"

    def __post_init__(self) -> None:
        if self.total is not None:
            _counts(self, "total")
        _positive(self, "least", zero=True)
        _unit(self)

    def rate(self, base: float, moment: Moment) -> float:
        total = self._total(self.total, moment, self.per)
        share = min(moment.at(self.per) / total, 1.0)
        return self.least + (base - self.least) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class Warmup(Schedule):
    """From start * base up to base in a line over `length` steps (or epochs), then another schedule from its beginning
    (None: base): `torch.optim.lr_scheduler.LinearLR` and another one one after the other.
    """

    length: int
    then: Schedule | None = None
    start: float = 1.0 / 3
    per: str = STEPS
    kind: ClassVar[str] = "warm-up"

    def __post_init__(self) -> None:
        _counts(self, "length")
        _positive(self, "start")
        if self.then is not None and not isinstance(self.then, Schedule):
            raise ArgumentError(f"Warmup: then: expected a schedule or None, got {brief(self.then)}")
        _unit(self)

    def rate(self, base: float, moment: Moment) -> float:
        done = moment.at(self.per)
        if done < self.length:
            return base * (self.start + (1 - self.start) * done / self.length)
        return base if self.then is None else self.then.rate(base, self._after(moment))

    def _after(self, moment: Moment) -> Moment:
        """The moment as counted from the end of the warm-up, in whole epochs of what is left."""
        each = moment.steps_an_epoch
        if self.per == EPOCHS:
            steps = 0 if each is None else each * self.length
            return Moment(moment.step - steps, moment.epoch - self.length, max(moment.epochs - self.length, 1), each)
        if each is None:
            return Moment(moment.step - self.length, moment.epoch, moment.epochs, None)
        step = moment.step - self.length
        left = max(moment.epochs * each - self.length, 1)
        return _Left(step, step // each, max(-(-left // each), 1), each, left)


@dataclass(frozen=True)
class _Left(Moment):
    """After a warm-up that ends within an epoch: the steps that are left are no whole epochs."""

    left: int = 0

    @property
    def steps(self) -> int | None:
        return self.left


@dataclass(frozen=True)
class OneCycle(Schedule):
    """From highest / divisor up to `highest` in the first `rising` of `total` steps (None: the whole training), then
    down to highest / (divisor * last_divisor): `torch.optim.lr_scheduler.OneCycleLR` of two phases, with momentum
    left as it is. The trainer's own rate does not count. anneal: "cos" or "linear".
    """

    highest: float
    total: int | None = None
    rising: float = 0.3
    divisor: float = 25.0
    last_divisor: float = 1e4
    anneal: str = "cos"
    kind: ClassVar[str] = "one-cycle"

    def __post_init__(self) -> None:
        for name in ("highest", "divisor", "last_divisor"):
            _positive(self, name)
        if self.total is not None:
            _counts(self, "total")
        share = real(self.rising)
        if share is None or not 0 < share < 1:
            raise ArgumentError(f"OneCycle: rising: expected a share between 0 and 1, got {brief(self.rising)}")
        if self.anneal not in ("cos", "linear"):
            raise ArgumentError(f"OneCycle: anneal: expected 'cos' or 'linear', got {brief(self.anneal)}")

    def rate(self, base: float, moment: Moment) -> float:
        total = self._total(self.total, moment, STEPS)
        first = self.highest / self.divisor
        top, end = self.rising * total - 1, total - 1
        step = min(moment.step, end)
        if step <= top:
            return self._between(first, self.highest, step / top if top > 0 else 1.0)
        return self._between(self.highest, first / self.last_divisor, (step - top) / (end - top))

    def _between(self, start: float, end: float, share: float) -> float:
        if self.anneal == "cos":
            return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
        return start + (end - start) * share


@dataclass(frozen=True)
class Computed(Schedule):
    """A rate of the user's own: function(step) -> rate."""

    function: Callable[[int], float]

    def rate(self, base: float, moment: Moment) -> float:
        try:
            found = self.function(moment.step)
        except MapstoError:
            raise
        except Exception as error:
            raise ArgumentError(f"schedule({moment.step}) raised {type(error).__name__}: {error}") from error
        number = real(found)
        if number is None or not math.isfinite(number):
            raise ArgumentError(f"schedule({moment.step}) gave {brief(found)}, which is no finite number")
        return number


SCHEDULES: Mapping[str, type[Schedule]] = {
    each.kind: each for each in (StepDecay, MultiStep, Exponential, Cosine, Warmup, OneCycle)
}


def schedule_of(value: Any) -> Schedule | None:
    """The schedule for what `fit` was given: None, a schedule, or a function of the step. Raises ArgumentError."""
    if value is None or isinstance(value, Schedule):
        return value
    if callable(value):
        return Computed(value)
    known = ", ".join(each.__name__ for each in SCHEDULES.values())
    raise ArgumentError(f"schedule: expected one of {known}, a function of the step, or None; got {brief(value)}")


def schedule_text(schedule: Schedule | None) -> str:
    """What a schedule is, to compare it with another one; of a function its name."""
    if isinstance(schedule, Computed):
        return f"Computed({getattr(schedule.function, '__qualname__', type(schedule.function).__qualname__)})"
    return "None" if schedule is None else repr(schedule)


# ---- arguments -------------------------------------------------------------------------------------------------------


def _counts(schedule: Schedule, name: str) -> None:
    given = getattr(schedule, name)
    number = integer(given)
    if number is None or number < 1:
        raise ArgumentError(f"{type(schedule).__name__}: {name}: expected an integer from 1 on, got {brief(given)}")
    object.__setattr__(schedule, name, number)


def _positive(schedule: Schedule, name: str, zero: bool = False) -> None:
    given = getattr(schedule, name)
    number = real(given)
    if number is None or not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        least = "of 0 or more" if zero else "above 0"
        raise ArgumentError(f"{type(schedule).__name__}: {name}: expected a number {least}, got {brief(given)}")
    object.__setattr__(schedule, name, number)


def _unit(schedule: Any) -> None:
    if schedule.per not in (EPOCHS, STEPS):
        raise ArgumentError(
            f"{type(schedule).__name__}: per: expected {EPOCHS!r} or {STEPS!r}, got {brief(schedule.per)}"
        )
