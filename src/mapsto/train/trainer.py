"""The trainer: a model, a loss, and parameters that each step moves, in place, by native code."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from mapsto.arguments import brief, real, text_of
from mapsto.boundary import public
from mapsto.errors import ArgumentError, ExecutionError, MapstoError, ShapeError, UnsupportedError
from mapsto.ir.graph import Graph
from mapsto.passes import AffineFolding, DeadCode
from mapsto.passes.gradient import as_inputs
from mapsto.runtime.cpus import thread_count
from mapsto.runtime.executable import Executable
from mapsto.session.compile import prepared
from mapsto.session.entry import compile_model
from mapsto.train.losses import LOSSES, Loss, cross_entropy
from mapsto.train.sgd import step_graph, trainable, with_loss


class Trainer:
    """Trains a model by gradient descent. Forward, backward and update are compiled as one.

        trainer = Trainer("model.onnx", loss="cross_entropy", learning_rate=0.05)
        loss = trainer.step({"image": images, "label": labels})

    `parameters` are the arrays that the steps move; they stay where they are in memory, and what a caller writes into
    them counts in the next step. `learning_rate` may be set between steps.
    """

    @public
    def __init__(
        self,
        model: Any,
        loss: str | Loss = "cross_entropy",
        learning_rate: float = 0.1,
        *,
        momentum: float = 0.0,
        parameters: Sequence[str] | None = None,
        output: str | None = None,
        label: str = "label",
        shapes: Mapping[str, Sequence[int | str | None]] | None = None,
        threads: int | None = None,
    ) -> None:
        """model: what `mapsto.compile` takes. loss: a name in `mapsto.train.LOSSES`, or a function like those.

        momentum: in [0, 1); 0 is plain gradient descent. parameters: the constants to train (None: every float constant
        of two elements or more). output: the output that the loss is taken of (None: the only one). label: the name of
        the input that holds what is wanted. shapes, threads: as for `mapsto.compile`.

        Raises ArgumentError for arguments of other types, ShapeError for a loss that does not fit or unknown names,
        UnsupportedError for an op without a gradient, and what `mapsto.compile` raises.
        """
        self._threads = thread_count(threads)
        self._label = text_of(label, "label (the name of an input)")
        self.learning_rate = _rate(learning_rate)
        rule, kept_share = _loss_named(loss), _momentum(momentum)
        # no pass that looks at what elements a constant has: a bias that starts at zero is to be trained, not left out
        self._model = prepared(model, shapes, (DeadCode(), AffineFolding(), DeadCode()))
        self._output = _output(self._model, output)
        scored = _scored(self._model, self._output, rule, label)
        names = trainable(scored) if parameters is None else _names(parameters)
        if not names:
            raise ShapeError(f"the loss of {self._output!r} depends on no float constant: there is nothing to train")
        self.parameters = {name: array.copy() for name, array in _chosen(self._model, names).items()}
        step = step_graph(as_inputs(scored, names), names, kept_share)
        self._velocities = {v: np.zeros_like(self.parameters[n]) for n, v in step.velocities}
        self._rate = step.rate
        self._checks_classes = rule is cross_entropy
        self.executable: Executable = compile_model(step.graph, threads=threads)

    @public
    def step(self, inputs: Mapping[str, Any]) -> float:
        """The loss of a batch, before the step that it makes. inputs: the model's, and the label.

        Raises ShapeError for inputs that do not fit, ExecutionError for a label that is no class, ArgumentError for a
        learning rate that is no number.
        """
        _by_name(inputs)
        own = {self._rate: np.float32(_rate(self.learning_rate)), **self.parameters, **self._velocities}
        clash = sorted(set(inputs) & set(own))
        if clash:
            raise ShapeError(f"{', '.join(clash)} belongs to the trainer; pass the model's inputs and {self._label!r}")
        if self._checks_classes and self._label in inputs:
            self._check_classes(inputs[self._label])
        return float(self.executable.run({**inputs, **own})["loss"])

    @public
    def predict(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The model's outputs by name, with the parameters as they are now."""
        _by_name(inputs)
        return self._forward.run({**inputs, **self.parameters})

    @public
    def trained(self) -> Graph:
        """The model with the parameters as they are now, for `mapsto.compile`."""
        now = {name: array.copy() for name, array in self.parameters.items()}
        return replace(self._model, constants={**self._model.constants, **now})

    @cached_property
    def _forward(self) -> Executable:
        return compile_model(as_inputs(self._model, list(self.parameters)), threads=self._threads)

    def _check_classes(self, given: Any) -> None:
        try:
            labels = np.asarray(given)
        except Exception:  # the run tells what is wrong with it
            return
        classes = self._model.values()[self._output].shape[1]
        if not labels.size or labels.dtype.kind not in "iu" or not isinstance(classes, int):
            return
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            wrong = low if low < 0 else high
            raise ExecutionError(
                f"input {self._label!r}: the label {wrong} is no class; classes are 0 to {classes - 1}"
            )


def _momentum(value: Any) -> float:
    number = real(value)
    if number is None or not 0 <= number < 1:
        raise ShapeError(f"momentum {brief(value)} is outside [0, 1)")
    return number


def _rate(value: Any) -> float:
    number = real(value)
    if number is None or not math.isfinite(number):
        raise ArgumentError(f"learning_rate: {brief(value)} is no finite number")
    return number


def _names(parameters: Any) -> tuple[str, ...]:
    try:
        names = () if isinstance(parameters, (str, bytes)) else tuple(parameters)
    except TypeError:
        names = ()
    if not names or not all(isinstance(name, str) for name in names):
        raise ArgumentError(f"parameters: expected names of constants, got {brief(parameters)}")
    return names


def _by_name(inputs: Any) -> None:
    if not isinstance(inputs, Mapping):
        raise ArgumentError(f"inputs: expected a dict by name, got {brief(inputs)}")


def _scored(model: Graph, output: str, rule: Loss, label: str) -> Graph:
    """The model with its loss. What a loss of the user's raises becomes an ArgumentError, with that as its cause."""
    try:
        return with_loss(model, output, rule, label)
    except MapstoError:
        raise
    except Exception as error:
        if rule in LOSSES.values():
            raise
        raise ArgumentError(f"loss: {brief(rule)} raised {type(error).__name__}: {error}") from error


def _loss_named(loss: Any) -> Loss:
    if not isinstance(loss, str):
        if not callable(loss):
            raise ArgumentError(f"loss: expected a name or a function, got {brief(loss)}; known: {', '.join(LOSSES)}")
        rule: Loss = loss
        return rule
    if loss not in LOSSES:
        raise UnsupportedError(f"there is no loss {loss!r}; known: {', '.join(LOSSES)}")
    return LOSSES[loss]


def _output(model: Graph, name: str | None) -> str:
    """The output that the loss is taken of."""
    if name is None and len(model.outputs) == 1:
        return model.outputs[0]
    if name not in model.outputs:
        said = "say which" if name is None else f"there is no output {name!r}"
        raise ShapeError(f"the model has the outputs {', '.join(model.outputs)}: {said}: output=...")
    return name


def _chosen(model: Graph, names: Sequence[str]) -> dict[str, np.ndarray]:
    missing = [name for name in names if name not in model.constants]
    if missing:
        known = ", ".join(trainable(model))
        raise ShapeError(f"the model has no constant named {', '.join(missing)}; its float constants are {known}")
    return {name: np.ascontiguousarray(model.constants[name]) for name in names}
