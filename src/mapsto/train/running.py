"""A recipe carried out: its model and data, the training, and the files that it gives."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapsto.arguments import brief
from mapsto.boundary import public
from mapsto.errors import ArgumentError, ShapeError, UnsupportedError
from mapsto.files import check_writable, write_text, written
from mapsto.session.entry import compile_model
from mapsto.train.checkpoint import write_safetensors
from mapsto.train.curve import draw_curve, figure_class
from mapsto.train.data import batches_of, split
from mapsto.train.fitting import scored
from mapsto.train.history import EpochReport, History
from mapsto.train.metrics import metrics_of
from mapsto.train.recipe import ModelSource, TrainingRecipe
from mapsto.train.sources import as_inputs_of, called, loaded
from mapsto.train.trainer import Trainer

_TRAINED = ("parameter/", "statistic/")
_LABEL, _BATCH, _SEED = "label", 32, 0


@dataclass(frozen=True)
class Scores:
    """Loss and metrics on the data of `[data.test]`, which training has not seen."""

    loss: float
    metrics: Mapping[str, float]
    examples: int


@dataclass(frozen=True)
class RecipeRun:
    """What came of a recipe: the trainer, what the training was like, scores on test data, the files written."""

    trainer: Trainer
    history: History
    test: Scores | None
    files: Mapping[str, str]


@dataclass(frozen=True)
class Prepared:
    """A recipe with its model and data read. model: what `Trainer` takes; is_module: of torch."""

    recipe: TrainingRecipe
    model: Any
    is_module: bool
    data: Any
    validation: Any
    test: Any
    examples: Mapping[str, Any]

    def trainer(self, recipe: TrainingRecipe | None = None) -> Trainer:
        """A new trainer by this recipe, or by another one of the same model and data."""
        wanted = recipe or self.recipe
        more = {"example_kwargs": self.examples, "shapes": _open(self.examples)} if self.is_module else {}
        if wanted.model.shapes is not None:
            more["shapes"] = dict(wanted.model.shapes)
        return Trainer(self.model, wanted.loss, wanted.optimizer, **{**more, **wanted.trainer})

    def fitted(
        self, trainer: Trainer, recipe: TrainingRecipe, resume: bool, told: Callable[[EpochReport], Any], progress: Any
    ) -> History:
        """The training."""
        inputs = trainer.trained().inputs
        data, held = (as_inputs_of(d, inputs) if isinstance(d, dict) else d for d in (self.data, self.validation))
        options = dict(recipe.fit)
        if held is None:  # metrics are then of test data alone
            options.pop("metrics", None)
        return trainer.fit(
            data, validation=held, callbacks=told, checkpoint=recipe.output.checkpoint, resume=resume,
            progress=progress, **options,
        )  # fmt: skip


@public
def run_recipe(
    recipe: TrainingRecipe,
    *,
    resume: bool = True,
    told: Callable[[EpochReport], Any] = lambda report: None,
    progress: Any = True,
) -> RecipeRun:
    """Trains by a recipe, and writes its files. told: of each epoch. A Python file that the recipe names is run.

    Raises what `Trainer` and `Trainer.fit` do, ModelError for data that cannot be read, FileError before any work for
    files that cannot be written, UnsupportedError for an extra that is missing.
    """
    see_outputs(recipe)
    ready = prepared_recipe(recipe)
    see_model(recipe, ready)
    trainer = ready.trainer()
    history = ready.fitted(trainer, recipe, resume, told, progress)
    test = None if ready.test is None else _tested(trainer, recipe, ready.test)
    return RecipeRun(trainer, history, test, _write(recipe, ready, trainer, history))


def see_outputs(recipe: TrainingRecipe) -> None:
    """Raises FileError, UnsupportedError for files that could not be written in the end."""
    output = recipe.output
    for path in output.paths().values():
        check_writable(path)
    if output.curve is not None:
        figure_class()
    if output.weights is not None or output.checkpoint is not None:
        try:
            import safetensors.numpy  # noqa: F401
        except ImportError:
            raise UnsupportedError(
                "output: checkpoint and weights are files of the package safetensors, which is not installed: "
                "pip install 'mapsto[train]'"
            ) from None


def see_model(recipe: TrainingRecipe, ready: Prepared) -> None:
    """Raises ArgumentError for files that this kind of model cannot give."""
    if recipe.output.onnx is not None and not _is_onnx(ready):
        raise ArgumentError(
            f"{recipe.path}: output.onnx: the model is no ONNX file, so there is none to write its weights into; say "
            "output.weights (safetensors) or output.artifact (compiled)"
        )


def _is_onnx(ready: Prepared) -> bool:
    if isinstance(ready.model, str):
        return not ready.model.endswith(".keras")
    return isinstance(ready.model, bytes) or type(ready.model).__name__ == "ModelProto"


# ---- model and data --------------------------------------------------------------------------------------------------


def prepared_recipe(recipe: TrainingRecipe) -> Prepared:
    """Reads a recipe's data and model."""
    seed = recipe.trainer.get("seed", _SEED)
    data = loaded(recipe.data)
    validation: Any = None
    if isinstance(recipe.validation, float):
        if not isinstance(data, dict):
            raise ArgumentError(f"{recipe.path}: data.validation: a share is of arrays; there is {brief(data)}")
        data, validation = split(data, recipe.validation, seed)
    elif recipe.validation is not None:
        validation = loaded(recipe.validation)
    test = None if recipe.test is None else loaded(recipe.test)
    model, is_module = _model(recipe.model, seed)
    examples = _examples(model, data, recipe) if is_module else {}
    return Prepared(recipe, model, is_module, data, validation, test, examples)


def _model(source: ModelSource, seed: int) -> tuple[Any, bool]:
    """What `Trainer` takes for a model, and whether it is a module of torch."""
    if not source.name:
        return source.path, False
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)
    found = called(source.path, source.name, source.arguments, seed=seed)
    torch = sys.modules.get("torch")
    return found, torch is not None and isinstance(found, torch.nn.Module)


def _examples(module: Any, data: Any, recipe: TrainingRecipe) -> dict[str, Any]:
    """Two examples of each argument that a module takes, out of the data."""
    torch = sys.modules["torch"]
    if not isinstance(data, dict):
        raise ArgumentError(f"{recipe.path}: a module of torch is traced with examples; data must be a dict of arrays")
    takes = [name for name in inspect.signature(module.forward).parameters if name in data]
    if not takes:
        known = ", ".join(inspect.signature(module.forward).parameters)
        raise ShapeError(f"{recipe.path}: the module takes {known}; the data has {', '.join(data)}")
    return {name: torch.from_numpy(np.ascontiguousarray(data[name][:2])) for name in takes}


def _open(examples: Mapping[str, Any]) -> dict[str, tuple[str | None, ...]]:
    """Shapes with any number of examples."""
    return {name: ("batch", *([None] * (tensor.dim() - 1))) for name, tensor in examples.items()}


# ---- what comes of it ------------------------------------------------------------------------------------------------


def _tested(trainer: Trainer, recipe: TrainingRecipe, test: Any) -> Scores:
    inputs = trainer.trained().inputs
    label = recipe.trainer.get("label", _LABEL)
    data = as_inputs_of(test, inputs) if isinstance(test, dict) else test
    names = (*(value.name for value in inputs), label)
    size = recipe.fit.get("batch", _BATCH)
    held = batches_of(data, names, size, shuffle=False, drop_last=False, seed=0, what="data.test")
    said = recipe.fit.get("metrics")
    metrics = None if said is None else metrics_of(said)
    return Scores(*scored(trainer.evaluate, recipe.trainer.get("output"), label, held, metrics))


def _write(recipe: TrainingRecipe, ready: Prepared, trainer: Trainer, history: History) -> dict[str, str]:
    """Writes the files of a recipe; gives them by their kinds."""
    output = recipe.output
    if output.onnx is not None:
        from mapsto.exporters.weights import with_weights

        data = with_weights(ready.model, trained_arrays(trainer), resized="classes" in recipe.trainer)
        with written(output.onnx) as file:
            file.write(data)
    if output.weights is not None:
        whole = {**_state_of_module(ready), **trained_arrays(trainer)}
        write_safetensors(output.weights, whole, {"format": "pt"} if ready.is_module else {})
    if output.artifact is not None:
        compile_model(trainer.trained()).save(output.artifact)
    if output.history is not None:
        write_text(output.history, json.dumps(history.to_json(), indent=2) + "\n")
    if output.curve is not None:
        draw_curve(history, output.curve, os.path.basename(recipe.path))
    return output.paths()


def trained_arrays(trainer: Trainer) -> dict[str, np.ndarray]:
    """What training has changed of the model, by the model's own names: weights, and running statistics."""
    state = trainer.state()
    return {name.partition("/")[2]: a for name, a in state.items() if name.startswith(_TRAINED)}


def _state_of_module(ready: Prepared) -> dict[str, np.ndarray]:
    if not ready.is_module:
        return {}
    return {name: tensor.detach().cpu().numpy() for name, tensor in ready.model.state_dict().items()}

