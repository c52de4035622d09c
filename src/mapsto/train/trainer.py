"""The trainer: a model, a loss, and parameters that each step moves, in place, by native code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from mapsto.errors import ExecutionError, ShapeError, UnsupportedError
from mapsto.ir.graph import Graph
from mapsto.passes import AffineFolding, DeadCode
from mapsto.passes.gradient import as_inputs
from mapsto.runtime.executable import Executable
from mapsto.session.compile import compile_model, prepared
from mapsto.train.losses import LOSSES, Loss, cross_entropy
from mapsto.train.sgd import step_graph, trainable, with_loss


class Trainer:
    """Trains a model by gradient descent. Forward, backward and update are compiled as one.

        trainer = Trainer("model.onnx", loss="cross_entropy", learning_rate=0.05)
        loss = trainer.step({"image": images, "label": labels})

    `parameters` are the arrays that the steps move; they stay where they are in memory, and what a caller writes into
    them counts in the next step. `learning_rate` may be set between steps.
    """

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

        Raises ShapeError for a loss that does not fit or unknown names, UnsupportedError for an op without a gradient,
        and what `mapsto.compile` raises.
        """
        self._threads = threads
        # no pass that looks at what elements a constant has: a bias that starts at zero is to be trained, not left out
        self._model = prepared(model, shapes, (DeadCode(), AffineFolding(), DeadCode()))
        self._output = _output(self._model, output)
        self._label = label
        rule = _loss_named(loss)
        scored = with_loss(self._model, self._output, rule, label)
        names = trainable(scored) if parameters is None else tuple(parameters)
        if not names:
            raise ShapeError(f"the loss of {self._output!r} depends on no float constant: there is nothing to train")
        self.parameters = {name: array.copy() for name, array in _chosen(self._model, names).items()}
        step = step_graph(as_inputs(scored, names), names, _momentum(momentum))
        self._velocities = {v: np.zeros_like(self.parameters[n]) for n, v in step.velocities}
        self._rate = step.rate
        self._checks_classes = rule is cross_entropy
        self.learning_rate = learning_rate
        self.executable: Executable = compile_model(step.graph, threads=threads)

    def step(self, inputs: Mapping[str, Any]) -> float:
        """The loss of a batch, before the step that it makes. inputs: the model's, and the label.

        Raises ShapeError for inputs that do not fit, ExecutionError for a label that is no class.
        """
        own = {self._rate: np.float32(self.learning_rate), **self.parameters, **self._velocities}
        clash = sorted(set(inputs) & set(own))
        if clash:
            raise ShapeError(f"{', '.join(clash)} belongs to the trainer; pass the model's inputs and {self._label!r}")
        if self._checks_classes and self._label in inputs:
            self._check_classes(np.asarray(inputs[self._label]))
        return float(self.executable.run({**inputs, **own})["loss"])

    def predict(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The model's outputs by name, with the parameters as they are now."""
        return self._forward.run({**inputs, **self.parameters})

    def trained(self) -> Graph:
        """The model with the parameters as they are now, for `mapsto.compile`."""
        now = {name: array.copy() for name, array in self.parameters.items()}
        return replace(self._model, constants={**self._model.constants, **now})

    @cached_property
    def _forward(self) -> Executable:
        return compile_model(as_inputs(self._model, list(self.parameters)), threads=self._threads)

    def _check_classes(self, labels: np.ndarray) -> None:
        classes = self._model.values()[self._output].shape[1]
        if not labels.size or labels.dtype.kind not in "iu" or not isinstance(classes, int):
            return
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            wrong = low if low < 0 else high
            raise ExecutionError(
                f"input {self._label!r}: the label {wrong} is no class; classes are 0 to {classes - 1}"
            )


def _momentum(value: float) -> float:
    if not 0 <= value < 1:
        raise ShapeError(f"momentum {value} is outside [0, 1)")
    return float(value)


def _loss_named(loss: str | Loss) -> Loss:
    if not isinstance(loss, str):
        return loss
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
