"""The trainer: a model, a loss, and parameters that each step moves, in place, by native code."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from mapsto.arguments import text_of
from mapsto.boundary import public
from mapsto.errors import MapstoError, ShapeError
from mapsto.ir.graph import Graph
from mapsto.passes.recompute import MEMORY
from mapsto.runtime.cpus import thread_count
from mapsto.runtime.executable import Executable
from mapsto.runtime.profile import StepTime
from mapsto.session.entry import compile_model
from mapsto.train.checkpoint import ModelFacts, facts_of, settings_text
from mapsto.train.fitting import Subject, fit
from mapsto.train.head import with_head
from mapsto.train.history import History
from mapsto.train.losses import Loss, checked_labels, loss_of, loss_text
from mapsto.train.model import chosen, factors_of, learnable_of, output_of, with_constants
from mapsto.train.nonfinite import first_nonfinite
from mapsto.train.optimizers import Optimizer, optimizer_of
from mapsto.train.settings import bound_of, by_name, count_of, formats_of, one_of, rate_of, same_names, seed_of
from mapsto.train.shares import update_share
from mapsto.train.step import StepGraph, Updating, run_number, step_graph, with_loss


class Trainer:
    """Trains a model by gradient descent. Forward, backward and update are compiled as one.

        trainer = Trainer("model.onnx", "cross_entropy", "adam", learning_rate=0.001)
        loss = trainer.step({"image": images, "label": labels})

    `parameters` are the arrays that the steps move; they stay where they are in memory, and what a caller writes into
    them counts in the next step. `learning_rate` may be set between steps.
    """

    @public
    def __init__(
        self,
        model: Any,
        loss: str | Loss = "cross_entropy",
        optimizer: str | Optimizer = "adam",
        *,
        learning_rate: float | None = None,
        parameters: Sequence[str] | None = None,
        frozen: Sequence[str] = (),
        rates: Mapping[str, float] | None = None,
        output: str | None = None,
        label: str = "label",
        shapes: Mapping[str, Sequence[int | str | None]] | None = None,
        threads: int | None = None,
        seed: int = 0,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
        example_inputs: Any = None,
        example_kwargs: Mapping[str, Any] | None = None,
        classes: int | None = None,
        formats: str | Mapping[str, str] | None = None,
        memory: str = "fast",
    ) -> None:
        """model: what `mapsto.compile` takes. loss: a name in `mapsto.train.LOSSES`, or a function like those.
        optimizer: an `Optimizer`, or a name in `mapsto.train.OPTIMIZERS`. learning_rate: in the place of its own.

        parameters: the constants to train, by names or patterns (`encoder.*`); None: every float constant of two
        elements or more. frozen: patterns of those that stay as they are. rates: pattern -> factor of the learning
        rate; of several that fit, the last. output: the output that the loss is taken of (None: the only one). label:
        the name of the input that holds what is wanted. shapes, threads: as for `mapsto.compile`. seed: of what is
        drawn in training. clip_value, clip_norm: bounds of the gradients' elements, and of the norm of all gradients.
        accumulate: how many batches make one step of the optimizer, by the mean of their gradients. example_inputs,
        example_kwargs: what a module of torch is traced with; its tensors' own memory is what the steps move. classes:
        the layer that makes the output is replaced by one of so many outputs, with fresh weights by the seed (of a
        module of torch in the trainer alone). formats: the number format of the step's products ("bf16", "f16"), or by
        patterns of nodes, as `mapsto.compile` has them; parameters, states and sums stay as they are. memory: "fast"
        keeps what gradients read until they do; "balanced" computes what goes element by element anew before it is
        read, "min" sums over axes and windows too (`trainer.executable.memory()`: what a step takes, and the bound).

        Raises ArgumentError for arguments of other types, ShapeError for a loss that does not fit or unknown names,
        UnsupportedError for an op without a gradient, and what `mapsto.compile` raises.
        """
        self._threads = thread_count(threads)
        self._label = text_of(label, "label (the name of an input)")
        self._optimizer = optimizer_of(optimizer)
        self.learning_rate = self._optimizer.learning_rate if learning_rate is None else rate_of(learning_rate)
        self._parts = count_of(accumulate, "accumulate")
        self._loss = loss_of(loss)
        self._formats = formats_of(formats)
        self._memory = one_of(memory, MEMORY, "memory")
        clips = bound_of(clip_value, "clip_value"), bound_of(clip_norm, "clip_norm")
        learnt = learnable_of(model, shapes, example_inputs, example_kwargs)
        self._output = output_of(learnt.inference, output)
        if classes is not None:
            learnt = with_head(learnt, self._output, count_of(classes, "classes"), seed_of(seed))
        scored = with_loss(learnt.training, self._output, self._loss, label)
        read = {name for node in scored.walk() for name in node.inputs}
        names = chosen(replace(learnt, weights=tuple(n for n in learnt.weights if n in read)), parameters, frozen)
        if not names:
            raise ShapeError(f"the loss of {self._output!r} depends on no float constant: there is nothing to train")
        self.parameters = {name: learnt.arrays[name] for name in names}
        self._statistics = {name: learnt.arrays[name] for name in learnt.statistics}
        self._run = learnt.run
        fixed = {n: a for n, a in learnt.arrays.items() if n not in self.parameters and n not in self._statistics}
        self._model = with_constants(learnt.inference, fixed)
        self._updating = updating = Updating(self._optimizer, factors_of(names, rates), *clips)
        opened = with_constants(scored, fixed)
        self._step = step_graph(opened, names, updating, self._parts, memory=self._memory)
        self._states = {
            s.name: (f"optimizer/{s.state}/{s.parameter}", np.full_like(self.parameters[s.parameter], s.start))
            for s in self._step.states
        }
        self._sums = {
            name: (f"gradient/{parameter}", np.zeros_like(self.parameters[parameter]))
            for parameter, name in self._step.sums.items()
        }
        self._counters = {
            "counter/step": np.array(0, np.int64),
            "counter/part": np.array(0, np.int64),
            "counter/seed": np.array(seed_of(seed), np.int64),
        }
        self.executable: Executable = compile_model(self._step.graph, threads=threads, formats=self._formats)
        self._part: Executable | None = None
        self._shared: float | None = None
        if self._parts > 1:
            part: StepGraph = step_graph(
                opened, names, updating, self._parts, is_last=False, memory=self._memory
            )
            self._part = compile_model(part.graph, threads=threads, formats=self._formats)

    @public
    def fit(
        self,
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
        """Steps through data, epoch by epoch; gives what it was like.

        data: a dict of arrays by the names of inputs and label, an iterable of batches (dicts, or tuples of the inputs
        in order and the label), or a loader of torch. validation: the like; its loss and metrics are had after each
        epoch. callbacks: functions of an `EpochReport`; training stops where one gives True.
        batch, shuffle, drop_last: of arrays: how many examples a step takes, whether they are permuted in each epoch,
        by the seed, and whether a last batch of fewer is left out. schedule: one of `mapsto.train.SCHEDULES`, or a
        function of the step. metrics: names or functions (None: accuracy, of classes). early_stopping: an
        `EarlyStopping`, or its patience. checkpoint: a file that is written at the end of each epoch, and every
        `checkpoint_every` steps; resume: go on from it where it is there, with the bits of a training that was not
        interrupted. progress: True: a bar, on a terminal; or a function of (steps done, in all, label). seed: of the
        order (None: the trainer's).

        Raises ArgumentError for arguments or data that are none, ShapeError for data that does not fit and a checkpoint
        of another model, ExecutionError for a loss that is not finite, which names the first such value,
        KeyboardInterrupt after a checkpoint has been written, ModelError for a damaged checkpoint, FileError.
        """
        return fit(
            self._subject, data, epochs, validation, callbacks, batch=batch, shuffle=shuffle, drop_last=drop_last,
            schedule=schedule, metrics=metrics, early_stopping=early_stopping, checkpoint=checkpoint,
            checkpoint_every=checkpoint_every, resume=resume, progress=progress, seed=seed,
        )  # fmt: skip

    @property
    def steps(self) -> int:
        """Steps of the optimizer that have been done."""
        return int(self._counters["counter/step"])

    @public
    def step(self, batch: Mapping[str, Any]) -> float:
        """The loss of a batch, before the step that it makes, or its part of one. batch: the model's inputs, and the
        label.

        Raises ShapeError for inputs that do not fit, ExecutionError for a label that is no class, ArgumentError for a
        learning rate that is no number.
        """
        by_name(batch)
        rate, done = rate_of(self.learning_rate), self._counters["counter/part"]
        is_last = int(done) + 1 == self._parts
        exe = self.executable if is_last else self._part
        assert exe is not None
        loss = exe.run({**self._fed(batch), **self._own(rate, is_last)})["loss"]
        done[...] = 0 if is_last else int(done) + 1
        if is_last:
            self._counters["counter/step"] += 1
        return float(loss)

    @public
    def evaluate(self, batch: Mapping[str, Any]) -> tuple[float, dict[str, np.ndarray]]:
        """The loss of a batch and the model's outputs by name, as the model is in inference. Raises as `step` does."""
        by_name(batch)
        found = self._scoring.run({**self._fed(batch), **self._held})
        return float(found["loss"]), {name: array for name, array in found.items() if name != "loss"}

    @public
    def predict(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The model's outputs by name, with the parameters as they are now."""
        by_name(inputs)
        return self._forward.run({**inputs, **self._held})

    @public
    def trained(self) -> Graph:
        """The model in inference, with the parameters and statistics as they are now, for `mapsto.compile`."""
        return with_constants(self._model, {name: array.copy() for name, array in self._held.items()})

    @public
    def state(self) -> dict[str, np.ndarray]:
        """All that decides the next step beside the batch and the rate, by name: `parameter/NAME`, `statistic/NAME` (of
        batch normalisation), `optimizer/...`, `gradient/NAME` (sums of the parts of a step), `counter/...`. The arrays
        themselves, not copies.
        """
        return {
            **{f"parameter/{name}": array for name, array in self.parameters.items()},
            **{f"statistic/{name}": array for name, array in self._statistics.items()},
            **dict(self._states.values()),
            **dict(self._sums.values()),
            **self._counters,
        }

    @public
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Copies a state in, so that training goes on as it did where the state was taken. Raises ShapeError where
        names, shapes or types are not those of `state()`, and changes nothing then.
        """
        by_name(state, "state")
        own = self.state()
        same_names(own, state)
        given = {name: np.asarray(array) for name, array in state.items()}
        for name, array in own.items():
            new = given[name]
            if new.shape != array.shape or new.dtype != array.dtype:
                raise ShapeError(
                    f"state: {name} is {new.dtype}{list(new.shape)}; {array.dtype}{list(array.shape)} was expected"
                )
        for name, array in own.items():
            np.copyto(array, given[name])

    def _fed(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch as the step takes it: labels looked at, and nothing in it that is the trainer's."""
        clash = sorted(set(batch) & self._own_names)
        if clash:
            raise ShapeError(f"{', '.join(clash)} belongs to the trainer; pass the model's inputs and {self._label!r}")
        fed = dict(batch)
        if self._label in fed:
            output = self._model.values()[self._output]
            fed[self._label] = checked_labels(self._loss, self._label, fed[self._label], output)
        return fed

    def _own(self, rate: float, is_last: bool) -> dict[str, Any]:
        """What a step takes beside the batch."""
        own: dict[str, Any] = {**self.parameters, **self._statistics}
        own.update((name, array) for name, (_, array) in self._sums.items())
        if self._run:
            done = self.steps * self._parts + int(self._counters["counter/part"])
            own[self._run] = np.asarray(run_number(int(self._counters["counter/seed"]), done), np.uint64)
        if not is_last:
            return own
        step = self.steps + 1
        for scalar in self._step.scalars:
            number = self._optimizer.scalars(rate * scalar.factor, step)[scalar.scalar]
            own[scalar.name] = np.asarray(number, scalar.dtype.numpy)
        return {**own, **{name: array for name, (_, array) in self._states.items()}}

    @cached_property
    def _own_names(self) -> frozenset[str]:
        """Inputs of a step that are the trainer's."""
        scalars = [scalar.name for scalar in self._step.scalars]
        return frozenset((*self.parameters, *self._statistics, *self._states, *self._sums, *scalars, self._run))

    @public
    def profile(self, batch: Mapping[str, Any]) -> list[StepTime]:
        """Nanoseconds of each part of a step, which is done for that, and undone. Raises as `step` does."""
        by_name(batch)
        given = {**self._fed(batch), **self._own(rate_of(self.learning_rate), is_last=True)}
        missing = [port.name for port in self.executable.program.inputs if port.name not in given]
        if missing:
            raise ShapeError(f"missing: {', '.join(missing)}")
        before = {name: array.copy() for name, array in self.state().items()}
        try:
            return self.executable.profile(*(given[port.name] for port in self.executable.program.inputs))
        finally:
            self.load_state(before)

    @cached_property
    def _forward(self) -> Executable:
        return compile_model(self._model, threads=self._threads)

    @cached_property
    def _scoring(self) -> Executable:
        graph = with_loss(self._model, self._output, self._loss, self._label, self._model.outputs)
        return compile_model(graph, threads=self._threads)

    @cached_property
    def _held(self) -> dict[str, np.ndarray]:
        """What the model reads in inference beside its inputs."""
        read = {value.name for value in self._model.inputs}
        return {n: a for n, a in {**self.parameters, **self._statistics}.items() if n in read}

    @cached_property
    def _subject(self) -> Subject:
        """The trainer as `fit` knows it."""
        inputs = tuple(value.name for value in self._model.inputs if value.name not in self._own_names)
        seed = int(self._counters["counter/seed"])
        return Subject(
            self, inputs, self._label, self._output, seed, self._facts, self._update_share, self._first_bad
        )

    def _facts(self) -> ModelFacts:
        up = self._updating
        settings = f"clip_value={up.clip_value}, clip_norm={up.clip_norm}, accumulate={self._parts}, rates={up.factors}"
        settings += f", formats={self._formats}" if self._formats else ""
        settings += f", memory={self._memory}" if self._memory != "fast" else ""
        optimizer = settings_text(self._optimizer, "learning_rate")
        return facts_of(self._model, self.parameters, loss_text(self._loss), optimizer, settings)

    def _update_share(self, batch: Mapping[str, Any]) -> float:
        """The share of a step's time that updates parameters, measured once; 0 where no profile can be had."""
        if self._shared is None:
            try:
                self._shared = update_share(self.profile(batch))
            except MapstoError:  # what is wrong with the batch, the step itself tells
                return 0.0
        return self._shared

    def _first_bad(self, batch: Mapping[str, Any]) -> str:
        own = self._own(rate_of(self.learning_rate), True)
        return first_nonfinite(self._step.graph, {**self._fed(batch), **own}, dict.fromkeys(own, "the trainer's state"))
