"""`Trainer.fit`: epochs over data, with validation, schedules, early stopping, and checkpoints that a training goes on
from with the same bits, also in the middle of an epoch.

All that decides what comes next is in the trainer's state and in a `Position`: the order of data follows from seed and
epoch, the rate from the step.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from mapsto.arguments import Progress, brief, flag_of, integer
from mapsto.errors import ArgumentError, ExecutionError, MapstoError
from mapsto.files import check_writable, name_of
from mapsto.train.callbacks import Callback, StoppingWatch, callbacks_of, early_stopping_of, told
from mapsto.train.checkpoint import (
    Checkpoint,
    ModelFacts,
    Position,
    read_checkpoint,
    see_belongs,
    see_order,
    write_checkpoint,
)
from mapsto.train.data import MOST_EPOCHS, Batch, Batches, IterableBatches, batches_of, digest
from mapsto.train.history import EpochReport, History, TimeShares
from mapsto.train.interrupt import Interruption
from mapsto.train.metrics import Measure, accuracy, metrics_of
from mapsto.train.nonfinite import nonfinite_of
from mapsto.train.progress import shown
from mapsto.train.schedules import Moment, Schedule, schedule_of, schedule_text

_OF_THE_MODEL = ("parameter/", "statistic/")  # what is kept of the best epoch


class Stepper(Protocol):
    """What is fitted: `Trainer`, as far as it is asked for here."""

    learning_rate: float

    @property
    def steps(self) -> int: ...
    def step(self, batch: Mapping[str, Any]) -> float: ...
    def evaluate(self, batch: Mapping[str, Any]) -> tuple[float, dict[str, np.ndarray]]: ...
    def state(self) -> dict[str, np.ndarray]: ...
    def load_state(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Subject:
    """A trainer with what fitting asks of it besides. inputs: of the model; label, output: what the loss is taken of.

    facts: what its checkpoints belong to. update_share: of a step's time, what updates take, by a batch.
    first_bad: in words, the first value of a step that is not finite, by its batch.
    """

    trainer: Stepper
    inputs: tuple[str, ...]
    label: str
    output: str
    seed: int
    facts: Callable[[], ModelFacts]
    update_share: Callable[[Batch], float]
    first_bad: Callable[[Batch], str]


@dataclass(frozen=True)
class FitOptions:
    """The arguments of `Trainer.fit`, looked at."""

    epochs: int
    callbacks: tuple[Callback, ...]
    schedule: Schedule | None
    metrics: Mapping[str, Measure] | None
    watch: StoppingWatch | None
    checkpoint: str | None
    every: int | None
    resume: bool


def fit(
    subject: Subject,
    data: Any,
    epochs: int = 1,
    validation: Any = None,
    callbacks: Any = (),
    *,
    batch: int = 32,
    shuffle: bool = True,
    drop_last: bool = False,
    schedule: Any = None,
    metrics: Any = None,
    early_stopping: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = True,
    progress: Any = True,
    seed: int | None = None,
) -> History:
    """See `Trainer.fit`."""
    number, size = _count(epochs, "epochs", most=MOST_EPOCHS), _count(batch, "batch")
    shuffled, dropped = flag_of(shuffle, "shuffle"), flag_of(drop_last, "drop_last")
    stopping = early_stopping_of(early_stopping)
    options = FitOptions(
        number,
        callbacks_of(callbacks),
        schedule_of(schedule),
        None if metrics is None else metrics_of(metrics),
        None if stopping is None else StoppingWatch(stopping),
        None if checkpoint is None else name_of(checkpoint, "checkpoint"),
        None if checkpoint_every is None else _count(checkpoint_every, "checkpoint_every"),
        flag_of(resume, "resume"),
    )
    drawn = subject.seed if seed is None else _count(seed, "seed", 0)
    names = (*subject.inputs, subject.label)
    batches = batches_of(data, names, size, shuffle=shuffled, drop_last=dropped, seed=drawn)
    held = None
    if validation is not None:
        held = batches_of(validation, names, size, shuffle=False, drop_last=False, seed=drawn, what="validation")
    _see_together(options, batches, held)
    with shown(progress) as tell, Interruption() as guard:
        return _Fitting(subject, options, batches, held, tell, guard).run()


def _see_together(options: FitOptions, batches: Batches, held: Batches | None) -> None:
    """Raises ArgumentError, FileError for what does not go together."""
    if options.checkpoint is None and options.every is not None:
        raise ArgumentError("checkpoint_every: there is no checkpoint to write: say checkpoint=PATH")
    if options.checkpoint is not None:
        check_writable(options.checkpoint)
    if options.metrics and held is None:
        raise ArgumentError("metrics: they are had of validation data, and there is none: say validation=...")
    if options.watch is not None:
        metrics = ("accuracy",) if options.metrics is None else tuple(options.metrics)
        options.watch.check(("loss",) if held is None else ("loss", "validation", *metrics))
    if options.epochs > 1:
        for each in (batches, held):
            if isinstance(each, IterableBatches) and each.once:
                raise ArgumentError(
                    f"{each.what}: an iterator is used up after one epoch of {options.epochs}; give something that can "
                    "be gone through again (a list, a loader)"
                )


def _count(value: Any, what: str, least: int = 1, most: int = 1 << 62) -> int:
    number = integer(value)
    if number is None or number < least:
        raise ArgumentError(f"{what}: expected an integer from {least} on, got {brief(value)}")
    if number > most:
        raise ArgumentError(f"{what}: {brief(value)} is more than {most}")
    return number


def scored(
    evaluate: Callable[[Batch], tuple[float, dict[str, np.ndarray]]],
    output: str | None,
    label: str,
    held: Batches,
    metrics: Mapping[str, Measure] | None,
) -> tuple[float, dict[str, float], int]:
    """The loss on data, metrics (None: accuracy, of what is told apart by classes), and how many examples there are.
    output: that metrics are of (None: the only one).
    """
    examples = 0
    sums: dict[str, float] = {}
    for batch in held.epoch(0):
        loss, outputs = evaluate(batch)
        count = len(next(iter(batch.values())))
        examples += count
        of = outputs[output] if output is not None else next(iter(outputs.values()))
        for name, value in {"": loss, **_measured(of, batch.get(label), label, metrics)}.items():
            sums[name] = sums.get(name, 0.0) + value * count
    return sums.pop("") / examples, {name: value / examples for name, value in sums.items()}, examples


def _measured(
    output: np.ndarray, wanted: np.ndarray | None, label: str, metrics: Mapping[str, Measure] | None
) -> dict[str, float]:
    if metrics is None:
        classes = wanted is not None and wanted.dtype.kind in "iu" and wanted.ndim == output.ndim - 1
        metrics = {"accuracy": accuracy} if classes and output.ndim > 1 else {}
    if metrics and wanted is None:
        raise ArgumentError(f"metrics: the validation data has no {label!r} to hold outputs against")
    return {name: metric(output, wanted) for name, metric in metrics.items() if wanted is not None}


@dataclass
class _Fitting:
    """A training as it goes."""

    subject: Subject
    options: FitOptions
    batches: Batches
    held: Batches | None
    tell: Progress
    guard: Interruption
    place: Position = field(default_factory=Position)
    reports: list[EpochReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    best: dict[str, np.ndarray] = field(default_factory=dict)
    before: dict[str, np.ndarray] = field(default_factory=dict)  # the state before the last step
    stepping: Position | None = None  # where the last step began: while it is the place, the state may be half a step's
    batch: Batch | None = None  # the last one
    update: float | None = None  # share of a step
    mark: Mapping[str, np.ndarray] | None = None  # of the epoch's order

    def run(self) -> History:
        trainer, options = self.subject.trainer, self.options
        self.base = trainer.learning_rate
        self.place = Position(first=trainer.steps)
        self.facts = self.subject.facts() if options.checkpoint is not None else None
        if options.checkpoint is not None and options.resume and os.path.exists(options.checkpoint):
            self._go_on(options.checkpoint)
        try:
            while self.place.epoch < options.epochs and not self.place.ended:
                self._epoch()
        except KeyboardInterrupt:
            self._interrupted()
            raise
        finally:
            trainer.learning_rate = self.base
        watch = options.watch
        if watch is not None and watch.stopping.restore_best and self.best:
            trainer.load_state({**trainer.state(), **self.best})
        ended = self.place.ended or f"all {options.epochs} epochs are done"
        return History(tuple(self.reports), ended, None if watch is None else watch.epoch, tuple(self.notes))

    # -- epochs --------------------------------------------------------------------------------------------------------

    def _epoch(self) -> None:
        if self.mark is None:
            self.mark = self.batches.mark()
        else:  # of a checkpoint
            self.batches.restore(self.mark)
        self._batches()
        self._end_epoch(*self._validated())

    def _batches(self) -> None:
        """The batches of the epoch that are left."""
        skipped = self.place.position
        iterator = iter(self.batches.epoch(self.place.number, skipped))
        while True:
            asked = perf_counter()
            batch = next(iterator, None)
            got = perf_counter()
            if skipped:
                self._see_skipped(skipped)
                skipped = 0
            if batch is None:
                return
            self._step(batch, got - asked)
            every = self.options.every
            if every is not None and self.place.steps % every == 0:
                self._save()

    def _step(self, batch: Batch, waited: float) -> None:
        trainer, place = self.subject.trainer, self.place
        if self.update is None:
            self.update = self.subject.update_share(batch)
        begun = perf_counter()
        rate = trainer.learning_rate = self._rate()
        self.guard.hold()
        self._keep_state()
        self.stepping = place
        loss = trainer.step(batch)
        if not math.isfinite(loss):
            self._not_finite(batch, f"the loss is {loss}")
        count = len(next(iter(batch.values())))
        self.batch = batch
        self.place = replace(
            place, position=place.position + 1, steps=place.steps + 1, losses=place.losses + loss * count,
            examples=place.examples + count, waited=place.waited + waited, rate=rate,
            seconds=place.seconds + waited + perf_counter() - begun,
        )  # fmt: skip
        self._tell()
        self.guard.release()

    def _rate(self) -> float:
        if self.options.schedule is None:
            return self.base
        place = self.place
        return self.options.schedule.rate(
            self.base, Moment(place.steps, place.epoch, self.options.epochs, self.batches.steps)
        )

    def _validated(self) -> tuple[float | None, Mapping[str, float]]:
        """The loss on validation data, and metrics: means over the examples."""
        if self.held is None:
            return None, {}
        subject = self.subject
        loss, metrics, _ = scored(
            subject.trainer.evaluate, subject.output, subject.label, self.held, self.options.metrics
        )
        return loss, metrics

    def _end_epoch(self, validation: float | None, metrics: Mapping[str, float]) -> None:
        place, watch = self.place, self.options.watch
        report = EpochReport(
            place.epoch + 1, place.position, place.examples, place.losses / max(place.examples, 1), validation,
            metrics, place.rate, place.seconds, self._shares(),
        )  # fmt: skip
        self.guard.hold()
        self.reports.append(report)
        if watch is not None and watch.see(report):
            state = self.subject.trainer.state()
            self.best = {n: a.copy() for n, a in state.items() if n.startswith(_OF_THE_MODEL)}
        after = Position(place.epoch + 1, 0, place.steps, first=place.first, rate=place.rate)
        if watch is not None:
            after = replace(after, best=watch.best, best_epoch=watch.epoch, waited_epochs=watch.waited)
            if watch.is_over:
                ended = f"stopped early after epoch {report.number}: the best was epoch {watch.epoch}"
                after = replace(after, ended=ended)
        try:
            if told(self.options.callbacks, report) and not after.ended:
                after = replace(after, ended=f"stopped by a callback after epoch {report.number}")
        finally:  # an epoch is kept, whatever a callback raises
            self.place, self.mark = after, None
            self._save()
        self.guard.release()

    def _shares(self) -> TimeShares:
        place, update = self.place, self.update or 0.0
        data = place.waited / place.seconds if place.seconds > 0 else 0.0
        return TimeShares(data, (1 - data) * (1 - update), (1 - data) * update)

    def _tell(self) -> None:
        place, steps = self.place, self.batches.steps
        total = 0 if steps is None else steps * self.options.epochs
        said = [f"epoch {place.epoch + 1}/{self.options.epochs}", f"loss {place.losses / place.examples:.4f}"]
        if self.reports:
            said += [f"{name} {value:.4f}" for name, value in self.reports[-1].metrics.items()]
        said.append(f"{place.examples / max(place.seconds, 1e-9):,.0f} examples/s")
        self.tell(place.steps, total, "  ".join(said))

    # -- what is not finite --------------------------------------------------------------------------------------------

    def _keep_state(self) -> None:
        for name, array in self.subject.trainer.state().items():
            kept = self.before.get(name)
            if kept is None or kept.shape != array.shape:
                self.before[name] = array.copy()
            else:
                np.copyto(kept, array)

    def _not_finite(self, batch: Batch, what: str) -> None:
        """Raises ExecutionError that names the first bad value; the state is that before the step."""
        trainer, place = self.subject.trainer, self.place
        trainer.load_state(self.before)
        try:
            first = self.subject.first_bad(batch) or "no value of a run by the numpy reference, which rounds otherwise"
        except MapstoError as error:
            first = f"not found ({error})"
        kept = "" if self.options.checkpoint is None else f", and the checkpoint {self.options.checkpoint} is as it was"
        raise ExecutionError(
            f"epoch {place.epoch + 1}, batch {place.position + 1} (step {place.steps + 1}): {what}\n"
            f"the first value that is not finite: {first}\n"
            f"the trainer's state is that before this step{kept}. What helps: a lower learning rate or a warm-up, "
            "clip_norm, data without such values"
        )

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.options.checkpoint is None:
            return
        assert self.facts is not None
        state, place = self.subject.trainer.state(), self.place
        spoiled = nonfinite_of(state)
        if spoiled:  # the last good checkpoint stays
            assert self.batch is not None
            if self.stepping is not None:
                self.place = self.stepping
            self._not_finite(self.batch, f"after it, {spoiled}")
        if place.position and self.batch is not None:
            place = replace(place, last=digest(self.batch))
        mark = self.batches.mark() if self.mark is None else self.mark
        write_checkpoint(
            self.options.checkpoint,
            Checkpoint(
                self.facts, place, self.batches.order(), schedule_text(self.options.schedule), self.base,
                self.options.epochs, tuple(self.reports), state, self.best, mark,
            ),  # fmt: skip
        )

    def _interrupted(self) -> None:
        """Writes where the training is; a second interruption ends that as well."""
        self.guard.hold()
        if self.stepping is self.place:  # the step was not done to its end
            self.subject.trainer.load_state(self.before)
        try:
            self._save()
        except MapstoError:  # the checkpoint before stays
            pass
        self.guard.release()

    def _go_on(self, path: str) -> None:
        """Takes a checkpoint's state."""
        trainer, options = self.subject.trainer, self.options
        found = read_checkpoint(path)
        assert self.facts is not None
        see_belongs(path, found, self.facts, trainer.state())
        others = see_order(path, found, self.batches.order())
        trainer.load_state(found.state)
        self.place, self.best = found.place, dict(found.best)
        self.reports = list(found.history[: found.place.epoch])
        self.mark = found.mark
        if options.watch is not None:
            options.watch.best, options.watch.epoch = found.place.best, found.place.best_epoch
            options.watch.waited = found.place.waited_epochs
        place = self.place
        self.notes.append(f"resumed from {path}: epoch {place.epoch + 1}, after {place.position} batches")
        self.notes += [f"order of the data from here on: {each}" for each in others]
        for what, then, now in (
            ("schedule", found.schedule, schedule_text(options.schedule)),
            ("learning rate", found.rate, self.base),
            ("epochs", found.epochs, options.epochs),
        ):
            if then != now:
                self.notes.append(f"{what}: {then} when the checkpoint was written, {now} from here on")
        if place.position and isinstance(self.batches, IterableBatches):
            self.notes.append(
                f"the first {place.position} batches of epoch {place.epoch + 1} were gone through and skipped; the "
                "last of them is the one that it was"
            )

    def _see_skipped(self, count: int) -> None:
        """Raises ArgumentError where the batch before the first one is not what it was."""
        last = self.batches.last_skipped(self.place.number, count)
        if last is None or digest(last) != self.place.last:
            raise ArgumentError(
                f"data: batch {count} of epoch {self.place.epoch + 1} is not what it was when the checkpoint was "
                "written: the data has changed, or comes in another order (an iterable that draws by itself?); "
                "training cannot go on in the middle of this epoch: give the same data, or start anew by resume=False"
            )
        self.batch = last
