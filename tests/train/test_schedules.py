"""Schedules give the rates of `torch.optim.lr_scheduler`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mapsto.errors import ArgumentError
from mapsto.train.schedules import (
    Computed,
    Cosine,
    Exponential,
    Moment,
    MultiStep,
    OneCycle,
    Schedule,
    StepDecay,
    Warmup,
    schedule_of,
    schedule_text,
)

torch = pytest.importorskip("torch")
from torch.optim import lr_scheduler as of_torch  # noqa: E402

BASE, STEPS_AN_EPOCH, EPOCHS = 0.3, 7, 10


def ours(schedule: Schedule, per: str) -> list[float]:
    """A rate a tick, as a training of 10 epochs of 7 steps asks for it."""
    if per == "epoch":
        moments = [Moment(e * STEPS_AN_EPOCH, e, EPOCHS, STEPS_AN_EPOCH) for e in range(EPOCHS)]
    else:
        moments = [Moment(s, s // STEPS_AN_EPOCH, EPOCHS, STEPS_AN_EPOCH) for s in range(EPOCHS * STEPS_AN_EPOCH)]
    return [schedule.rate(BASE, moment) for moment in moments]


def theirs(make: Callable[[Any], Any], count: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE)
    schedule = make(optimizer)
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def sequential(optimizer: Any, length: int, start: float, then: Callable[[Any], Any]) -> Any:
    first = of_torch.LinearLR(optimizer, start, total_iters=length)
    return of_torch.SequentialLR(optimizer, [first, then(optimizer)], [length])


CASES: dict[str, tuple[Schedule, str, Callable[[Any], Any]]] = {
    "step": (StepDecay(3, 0.5), "epoch", lambda o: of_torch.StepLR(o, 3, 0.5)),
    "step by steps": (StepDecay(9, 0.7, per="step"), "step", lambda o: of_torch.StepLR(o, 9, 0.7)),
    "multi-step": (MultiStep((2, 5, 6), 0.2), "epoch", lambda o: of_torch.MultiStepLR(o, [2, 5, 6], 0.2)),
    "exponential": (Exponential(0.9), "epoch", lambda o: of_torch.ExponentialLR(o, 0.9)),
    "cosine": (Cosine(), "epoch", lambda o: of_torch.CosineAnnealingLR(o, EPOCHS)),
    "cosine by steps": (
        Cosine(per="step", least=0.01),
        "step",
        lambda o: of_torch.CosineAnnealingLR(o, EPOCHS * STEPS_AN_EPOCH, 0.01),
    ),
    "warm-up": (Warmup(5, start=0.1), "step", lambda o: of_torch.LinearLR(o, 0.1, total_iters=5)),
    "warm-up, then cosine": (
        Warmup(12, Cosine(per="step"), start=0.01),
        "step",
        lambda o: sequential(o, 12, 0.01, lambda x: of_torch.CosineAnnealingLR(x, EPOCHS * STEPS_AN_EPOCH - 12)),
    ),
    "warm-up by epochs, then multi-step": (
        Warmup(3, MultiStep((2, 4)), start=0.5, per="epoch"),
        "epoch",
        lambda o: sequential(o, 3, 0.5, lambda x: of_torch.MultiStepLR(x, [2, 4])),
    ),
    "one-cycle": (OneCycle(0.6), "step", lambda o: of_torch.OneCycleLR(o, 0.6, EPOCHS * STEPS_AN_EPOCH)),
    "one-cycle in lines": (
        OneCycle(0.5, total=40, rising=0.25, divisor=10, last_divisor=100, anneal="linear"),
        "step",
        lambda o: of_torch.OneCycleLR(
            o, 0.5, 40, pct_start=0.25, anneal_strategy="linear", div_factor=10, final_div_factor=100
        ),
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_rates_are_those_of_torch(case: str) -> None:
    schedule, per, make = CASES[case]
    found = ours(schedule, per)
    count = min(len(found), getattr(schedule, "total", None) or len(found))
    assert found[:count] == pytest.approx(theirs(make, count), rel=1e-11)
    assert len({round(rate, 9) for rate in found}) > 2


def test_an_epoch_schedule_after_a_warmup_by_steps_counts_its_epochs_from_there() -> None:
    schedule = Warmup(4, StepDecay(1, 0.5))
    rates = ours(schedule, "step")
    assert rates[4:11] == [BASE] * 7 and rates[11:18] == [BASE / 2] * 7


def test_after_its_end_a_rate_stays() -> None:
    late = Moment(900, 90, 100, 9)
    assert Cosine(10, least=0.02).rate(1.0, late) == 0.02
    assert OneCycle(1.0, total=40).rate(1.0, late) == pytest.approx(1 / 25 / 1e4)


def test_what_ends_with_a_training_of_unknown_length_is_refused() -> None:
    unknown = Moment(3, 0, 10, None)
    for schedule in (OneCycle(1.0), Cosine(per="step"), Warmup(1, Cosine(per="step"))):
        with pytest.raises(ArgumentError, match="the data has no length: say total="):
            schedule.rate(1.0, unknown)
    assert Cosine().rate(1.0, unknown) == 1.0 and OneCycle(1.0, total=20).rate(1.0, unknown) > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepDecay(0), "StepDecay: every: expected an integer from 1 on, got 0"),
        (lambda: StepDecay(2, float("nan")), "StepDecay: factor: expected a number above 0, got nan"),
        (lambda: StepDecay(2, per="week"), "StepDecay: per: expected 'epoch' or 'step', got 'week'"),
        (lambda: MultiStep(()), "MultiStep: milestones"),
        (lambda: MultiStep(7), "MultiStep: milestones"),  # type: ignore[arg-type]
        (lambda: Exponential("a"), "Exponential: factor"),  # type: ignore[arg-type]
        (lambda: Cosine(least=-1), "Cosine: least: expected a number of 0 or more, got -1"),
        (lambda: Warmup(3, "cosine"), "Warmup: then: expected a schedule or None"),  # type: ignore[arg-type]
        (lambda: OneCycle(1.0, rising=1.5), "OneCycle: rising"),
        (lambda: OneCycle(1.0, anneal="cubic"), "OneCycle: anneal"),
        (lambda: schedule_of("cosine"), "schedule: expected one of StepDecay"),
        (lambda: Computed(lambda step: float("inf")).rate(1.0, Moment(2, 0, 1)), r"schedule\(2\) gave inf"),
        (lambda: Computed(lambda step: 1 / 0).rate(1.0, Moment(2, 0, 1)), r"schedule\(2\) raised ZeroDivisionError"),
    ],
)
def test_wrong_schedules_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


def test_schedules_are_told_apart_by_their_text() -> None:
    assert schedule_text(Warmup(3, Cosine())) != schedule_text(Warmup(3, Cosine(4)))
    assert schedule_text(schedule_of(theirs)) == "Computed(theirs)" and schedule_text(None) == "None"
