"""Checkpoints: everything that a training goes on from, in one file of the safetensors format.

Arrays: `state/NAME` (what `Trainer.state` gives), `best/NAME` (parameters of the best epoch), `order/NAME` (state of
torch's generators when the epoch began). The header's metadata, texts: `mapsto_checkpoint`, the version of this layout,
and `training`, a JSON object of the model (`ModelFacts`) and of where the training is (`Position`).

A file is written whole or not at all (`mapsto.files.written`): a training that is killed leaves the one before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from mapsto.arguments import brief
from mapsto.errors import ArgumentError, ModelError, ShapeError, UnsupportedError
from mapsto.files import Path, name_of, plain_file, written
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.ir.text import graph_digest
from mapsto.train.data import MOST_EPOCHS
from mapsto.train.history import EpochReport

CHECKPOINT_VERSION = 1
_VERSION_KEY, _TRAINING_KEY = "mapsto_checkpoint", "training"
_MARK = "::"  # before the name of a type that numpy lacks, whose bits are kept
_MOST_SHOWN = 6


@dataclass(frozen=True)
class ModelFacts:
    """What a checkpoint belongs to. graph: of the model, without the data of constants; constants: of those that are
    not trained; loss, optimizer, settings: as texts.
    """

    graph: str
    constants: str
    loss: str
    optimizer: str
    settings: str = ""

    def differences(self, other: ModelFacts) -> list[str]:
        """What another one has otherwise, in words."""
        said = []
        if self.graph != other.graph:
            said.append("the model's operations or shapes are others")
        elif self.constants != other.constants:
            said.append("constants that are not trained (frozen weights?) hold other numbers")
        for name in ("loss", "optimizer", "settings"):
            mine, its = getattr(self, name), getattr(other, name)
            if mine != its:
                said.append(f"{name}: {its} in the checkpoint, {mine} here")
        return said


def facts_of(graph: Graph, trained: Mapping[str, Any], loss: str, optimizer: str, settings: str = "") -> ModelFacts:
    """The facts of a model whose parameters are `trained`."""
    digest = hashlib.sha256()
    for name in sorted(set(graph.constants) - set(trained)):
        array = np.ascontiguousarray(graph.constants[name])
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    # parameters change: of a small one the digest of the graph would see the elements
    zeros = {n: np.broadcast_to(np.zeros((), a.dtype), a.shape) for n, a in graph.constants.items() if n in trained}
    plain = Graph(graph.name, graph.inputs, graph.outputs, graph.nodes, {**graph.constants, **zeros}, graph.updates)
    return ModelFacts(graph_digest(plain), digest.hexdigest()[:16], loss, optimizer, settings)


def settings_text(part: Any, *beside: str) -> str:
    """A frozen dataclass as text, but for some of its fields."""
    said = ", ".join(f"{f.name}={getattr(part, f.name)!r}" for f in fields(part) if f.name not in beside)
    return f"{type(part).__name__}({said})"


@dataclass(frozen=True)
class Position:
    """Where a training is. epoch: that it is in, from 0; position: batches of it that are done; steps: of all epochs.
    first: steps that the trainer had done before, so that another call of `fit` has another order of data.
    losses, examples: sums over these batches. seconds, waited: that they took, and what of it was waiting for data.
    last: digest of the batch before. best, best_epoch, waited_epochs: of early stopping. ended: why it is over, or "".
    """

    epoch: int = 0
    position: int = 0
    steps: int = 0
    first: int = 0
    losses: float = 0.0
    examples: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    rate: float = 0.0
    last: int = 0
    best: float | None = None
    best_epoch: int | None = None
    waited_epochs: int = 0
    ended: str = ""

    @property
    def number(self) -> int:
        """Of the epoch, among all of the trainer's."""
        return self.first * MOST_EPOCHS + self.epoch


@dataclass(frozen=True)
class Checkpoint:
    """state: what the trainer's is; best, mark: see above. order: what the data's order follows from. schedule: its
    text; rate: what it starts from; epochs: how many were asked for.
    """

    facts: ModelFacts
    place: Position
    order: Mapping[str, Any]
    schedule: str
    rate: float
    epochs: int
    history: tuple[EpochReport, ...]
    state: Mapping[str, np.ndarray]
    best: Mapping[str, np.ndarray] = field(default_factory=dict)
    mark: Mapping[str, np.ndarray] = field(default_factory=dict)


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Raises FileError where it cannot be written, UnsupportedError where the package safetensors is missing."""
    training = {
        "facts": asdict(checkpoint.facts),
        "place": asdict(checkpoint.place),
        "order": checkpoint.order,
        "schedule": checkpoint.schedule,
        "rate": checkpoint.rate,
        "epochs": checkpoint.epochs,
        "history": [epoch.to_json() for epoch in checkpoint.history],
    }
    parts = {"state": checkpoint.state, "best": checkpoint.best, "order": checkpoint.mark}
    arrays = {f"{part}/{name}": array for part, found in parts.items() for name, array in found.items()}
    write_safetensors(path, arrays, {_VERSION_KEY: str(CHECKPOINT_VERSION), _TRAINING_KEY: json.dumps(training)})


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Arrays by name in one file. Types that numpy lacks as their bits, under the name `NAME::bf16`. Raises FileError,
    UnsupportedError where the package safetensors is missing.
    """
    save = _package("safetensors.numpy").save
    marked = {}
    for name, array in arrays.items():
        if array.dtype.kind == "V":
            dtype = next(each for each in DType if each.numpy == array.dtype)
            name, array = f"{name}{_MARK}{dtype.value}", array.view(f"u{array.dtype.itemsize}")
        marked[name] = np.ascontiguousarray(array).reshape(array.shape)
    data = save(marked, dict(metadata))
    with written(path) as file:
        file.write(data)


def _package(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise UnsupportedError(
            "checkpoints are files of the package safetensors, which is not installed: pip install 'mapsto[train]'"
        ) from None


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_checkpoint(path: Path) -> Checkpoint:
    """Raises ModelError for what is no checkpoint, or a damaged one, UnsupportedError for one of a later version, or
    where the package safetensors is missing.
    """
    name = name_of(path, "checkpoint")
    arrays, metadata = read_safetensors(path, "checkpoint")
    if _VERSION_KEY not in metadata:
        raise ModelError(f"{name}: these are arrays in safetensors format, but no checkpoint of a training by mapsto")
    if metadata[_VERSION_KEY] != str(CHECKPOINT_VERSION):
        raise UnsupportedError(
            f"{name}: a checkpoint of version {brief(metadata[_VERSION_KEY])}; this mapsto reads {CHECKPOINT_VERSION}"
        )
    parts: dict[str, dict[str, np.ndarray]] = {"state": {}, "best": {}, "order": {}}
    for key, array in arrays.items():
        part, _, rest = key.partition("/")
        if part not in parts:
            raise ModelError(f"{name}: damaged: no checkpoint has an array {key!r}")
        parts[part][rest] = array
    try:
        training = json.loads(metadata[_TRAINING_KEY])
        return Checkpoint(
            ModelFacts(**_strings(training["facts"])),
            _place(training["place"]),
            dict(training["order"]),
            str(training["schedule"]),
            float(training["rate"]),
            int(training["epochs"]),
            tuple(EpochReport.from_json(epoch) for epoch in training["history"]),
            parts["state"],
            parts["best"],
            parts["order"],
        )
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ModelError(f"{name}: damaged: what it says of its training is none ({brief(error)})") from None


def read_safetensors(path: Path, what: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file, and its metadata. Raises ModelError, UnsupportedError."""
    name = name_of(path, what)
    opened = _package("safetensors").safe_open
    with plain_file(path, what):  # that it is one, and can be read
        try:
            with opened(name, framework="np") as file:
                metadata = dict(file.metadata() or {})
                found = dict(_restored(key, np.array(file.get_tensor(key))) for key in file.keys())
        except MemoryError:
            raise ModelError(f"{name}: no memory for the arrays that it says it holds") from None
        except Exception as error:  # of the package, which has a class of its own
            raise ModelError(f"{name} cannot be read as safetensors: {error}") from None
    return found, metadata


def _restored(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    plain, _, mark = name.rpartition(_MARK)
    dtype = next((each for each in DType if each.value == mark and each.numpy.kind == "V"), None)
    return (name, array) if dtype is None else (plain, array.view(dtype.numpy))


def _strings(data: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in data.items()}


def _place(data: Mapping[str, Any]) -> Position:
    """Raises TypeError, ValueError for what is none."""
    place = Position(**{str(name): value for name, value in data.items()})
    for name in ("epoch", "position", "steps", "first", "examples", "last", "waited_epochs"):
        if not isinstance(getattr(place, name), int) or getattr(place, name) < 0:
            raise ValueError(f"{name} is no count")
    if not isinstance(place.ended, str):
        raise ValueError("ended is no text")
    numbers = {name: float(getattr(place, name)) for name in ("losses", "seconds", "waited", "rate")}
    return replace(place, **numbers, best=None if place.best is None else float(place.best))  # type: ignore[arg-type]


# ---- whose it is -----------------------------------------------------------------------------------------------------


def see_belongs(name: str, checkpoint: Checkpoint, facts: ModelFacts, state: Mapping[str, np.ndarray]) -> None:
    """Raises ShapeError that says what differs where a checkpoint is of another model, loss or optimizer."""
    said = _array_differences(checkpoint.state, state)
    said += facts.differences(checkpoint.facts)
    if said:
        listed = "\n  ".join(said)
        raise ShapeError(
            f"{name}: the checkpoint is of another training:\n  {listed}\n"
            "give what it was made with, name another file, or start anew by resume=False (--no-resume), which "
            "overwrites it"
        )


def _array_differences(found: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray]) -> list[str]:
    said = []
    for kind, names in (
        ("the checkpoint has no", [name for name in own if name not in found]),
        ("the model has no", [name for name in found if name not in own]),
    ):
        if names:
            more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
            said.append(f"{kind} {', '.join(names[:_MOST_SHOWN])}{more}")
    for name in own:
        if name in found and _form(found[name]) != _form(own[name]):
            said.append(f"{name}: {_form(found[name])} in the checkpoint, {_form(own[name])} here")
    return said


def _form(array: np.ndarray) -> str:
    return f"{array.dtype.name}{list(array.shape)}"


def see_order(name: str, checkpoint: Checkpoint, order: Mapping[str, Any]) -> list[str]:
    """In words, what is otherwise with the data and the order that it comes in. Raises ArgumentError where a training
    in the middle of an epoch would have to go on with that.
    """
    known = json.loads(json.dumps(order))  # as it is read back
    said = [
        f"{key}: {brief(checkpoint.order.get(key))} in the checkpoint, {brief(known.get(key))} here"
        for key in sorted({*checkpoint.order, *known})
        if checkpoint.order.get(key) != known.get(key)
    ]
    if said and checkpoint.place.position:
        where = f"after {checkpoint.place.position} batches of epoch {checkpoint.place.epoch + 1}"
        raise ArgumentError(
            f"{name}: the checkpoint was written {where}, and the order of the data has changed since: "
            f"{'; '.join(said)}; give what it was, or start anew by resume=False (--no-resume)"
        )
    return said
