"""Recipes: a whole training in a file of TOML (docs/training.md). Read strictly: a key that means nothing, or a value
of another kind, is an error that names its line. Paths are relative to the recipe.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mapsto.arguments import brief, integer, real
from mapsto.boundary import public
from mapsto.errors import MapstoError, ParseError
from mapsto.files import plain_file
from mapsto.passes.recompute import MEMORY
from mapsto.toml import TomlReader, inside, lines_of, shown_value, toml_of
from mapsto.train.callbacks import EarlyStopping
from mapsto.train.losses import LOSSES, Loss
from mapsto.train.metrics import METRICS
from mapsto.train.optimizers import OPTIMIZERS, Optimizer
from mapsto.train.schedules import SCHEDULES, Schedule
from mapsto.train.settings import formats_of
from mapsto.train.sources import SOURCES, DataSource

MOST_BYTES = 1 << 20
LINEAR, LOG = "linear", "log"


@dataclass(frozen=True)
class ModelSource:
    """path: of an ONNX or Keras file, or of a Python file that has the function `name`, called with `arguments`.
    shapes: of inputs.
    """

    path: str
    name: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int | str | None, ...]] | None = None


@dataclass(frozen=True)
class OutputFiles:
    """Where what was trained goes; None: nowhere. onnx: the model's file with new weights; weights: a file of
    safetensors; artifact: compiled, for this machine; checkpoint; curve: a picture; history: JSON.
    """

    onnx: str | None = None
    weights: str | None = None
    artifact: str | None = None
    checkpoint: str | None = None
    curve: str | None = None
    history: str | None = None

    def paths(self) -> dict[str, str]:
        return {each.name: path for each in fields(self) if (path := getattr(self, each.name)) is not None}


@dataclass(frozen=True)
class SearchRange:
    """What a key of the recipe may be in a trial: a float or integer from `low` to `high`, or one of `choices`."""

    key: str
    low: float = 0.0
    high: float = 0.0
    scale: str = LINEAR
    whole: bool = False
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class SearchSettings:
    """study: the file that trials are kept in; curve: a picture of them. better: "validation" or a metric."""

    ranges: tuple[SearchRange, ...]
    study: str
    trials: int = 20
    better: str = "validation"
    curve: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class TrainingRecipe:
    """A recipe, read. trainer: further arguments of `Trainer`; fit: of `Trainer.fit`. data: as its text, with what was
    set besides, to be read again with other values.
    """

    path: str
    model: ModelSource
    data: DataSource
    validation: float | DataSource | None
    test: DataSource | None
    loss: Loss
    optimizer: Optimizer
    trainer: Mapping[str, Any]
    fit: Mapping[str, Any]
    output: OutputFiles
    search: SearchSettings | None
    raw: Mapping[str, Any]


@public
def read_recipe(path: str, sets: Mapping[str, Any] | None = None) -> TrainingRecipe:
    """The recipe of a file. sets: values in the place of its own, by keys such as `train.batch`.

    Raises ParseError naming the line, the key, and what would be right there; ModelError where it cannot be read.
    """
    with plain_file(path, "recipe") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ParseError(f"{path}: more than {MOST_BYTES:,} bytes are too many for a recipe")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ParseError(f"{path}: it is not text in UTF-8 ({error.reason} at byte {error.start})") from None
    return recipe_of(text, path, sets)


def recipe_of(text: str, path: str, sets: Mapping[str, Any] | None = None) -> TrainingRecipe:
    """The recipe of a text. path: of its file. Raises ParseError."""
    data, lines = toml_of(text, path, "describes a training"), lines_of(text)
    for key, value in (sets or {}).items():
        _set(data, lines, key, value, path)
    return _RecipeReader(path, lines).read(data)


def with_sets(recipe: TrainingRecipe, sets: Mapping[str, Any]) -> TrainingRecipe:
    """The recipe with other values. Raises ParseError."""
    data = _copied(recipe.raw)
    for key, value in sets.items():
        _set(data, {}, key, value, recipe.path)
    return _RecipeReader(recipe.path, {}).read(data)


def parse_set(text: str) -> tuple[str, Any]:
    """`train.batch=64` as key and value: what TOML reads the value as, or the text itself. Raises ParseError."""
    key, equals, said = text.partition("=")
    if not equals or not key.strip():
        raise ParseError(f"--set {text}: expected KEY=VALUE, such as train.batch=64")
    try:
        return key.strip(), tomllib.loads(f"value = {said}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        return key.strip(), said


def _set(data: dict[str, Any], lines: dict[str, int], key: str, value: Any, path: str) -> None:
    *tables, last = key.split(".")
    at = data
    for name in tables:
        found = at.setdefault(name, {})
        if name in _SHORT and not isinstance(found, dict):  # `optimizer = "adam"` for a table with that name
            found = at[name] = {_SHORT[name]: found}
        at = found
        if not isinstance(at, dict):
            raise ParseError(f"{path}: {key} cannot be set: {name} is no table")
    for known in [known for known in lines if known == key or known.startswith(f"{key}.")]:
        del lines[known]
    at[last] = value


def _copied(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _copied(value) for key, value in data.items()}
    return list(data) if isinstance(data, list) else data


# ---- reading ---------------------------------------------------------------------------------------------------------

_SHORT = {"loss": "name", "optimizer": "name", "schedule": "kind", "early_stopping": "patience"}
_TABLES = ("model", "data", "train", "output", "search")
_DATA_KEYS = (*SOURCES, "arguments", "columns", "label", "scale", "shapes")
_OF_TRAINER = (
    "label", "output", "threads", "seed", "parameters", "frozen", "rates", "clip_value", "clip_norm", "accumulate",
    "classes", "formats", "memory",
)  # fmt: skip
_OF_FIT = ("batch", "epochs", "shuffle", "drop_last", "schedule", "metrics", "early_stopping", "checkpoint_every")
_TRAIN_KEYS = ("loss", "optimizer", "learning_rate", *_OF_TRAINER, *_OF_FIT)
_SEARCH_KEYS = ("study", "trials", "better", "curve", "seed", "ranges")
_FORMATS_OF_PICTURES = (".png", ".svg", ".pdf")


class _RecipeReader(TomlReader):
    def read(self, data: dict[str, Any]) -> TrainingRecipe:
        self.only(data, _TABLES, "")
        for name in ("model", "data"):
            if name not in data:
                raise ParseError(f"{self.where}: there is no table [{name}]")
        tables = {name: self.mapping(data.get(name, {}), name) for name in _TABLES}
        source, validation, test = self.data(tables["data"])
        train = tables["train"]
        self.only(train, _TRAIN_KEYS, "train")
        return TrainingRecipe(
            self.where,
            self.model(tables["model"]),
            source,
            validation,
            test,
            self.loss(train),
            self.optimizer(train),
            {key: self.value(train, key) for key in _OF_TRAINER if key in train},
            {key: self.value(train, key) for key in _OF_FIT if key in train},
            self.output(tables["output"]),
            self.search(tables["search"]) if "search" in data else None,
            _copied(data),
        )

    # -- model and data ------------------------------------------------------------------------------------------------

    def model(self, data: Mapping[str, Any]) -> ModelSource:
        self.only(data, ("file", "function", "arguments", "shapes"), "model")
        kinds = [kind for kind in ("file", "function") if kind in data]
        if len(kinds) != 1:
            raise self.fail("model", 'expected either file = "model.onnx" or function = "model.py:network"')
        shapes = None
        if "shapes" in data:
            table = self.mapping(data["shapes"], "model.shapes")
            shapes = {name: self.dims(table, name, "model.shapes") for name in table}
        if kinds == ["file"]:
            if "arguments" in data:
                raise self.fail("model.arguments", "is for a function; leave it out")
            return ModelSource(self.path(data, "file", "model"), shapes=shapes)
        path, name = self.function(data, "model")
        return ModelSource(path, name, self.mapping(data.get("arguments", {}), "model.arguments"), shapes)

    def data(self, data: Mapping[str, Any]) -> tuple[DataSource, float | DataSource | None, DataSource | None]:
        self.only(data, (*_DATA_KEYS, "validation", "test"), "data")
        own = self.source({k: v for k, v in data.items() if k in _DATA_KEYS}, "data")
        found = data.get("validation")
        if found is None or isinstance(found, dict):
            validation: float | DataSource | None = None if found is None else self.apart(data, "validation")
        else:
            validation = self.number(data, "validation", "data", 0, 1)
        return own, validation, self.apart(data, "test") if "test" in data else None

    def apart(self, data: Mapping[str, Any], key: str) -> DataSource:
        """Data of another file; how it is read is as above where nothing else is said."""
        at = f"data.{key}"
        table = self.mapping(data[key], at)
        self.only(table, _DATA_KEYS, at)
        alike = ("scale", "shapes", *(("columns", "label") if "csv" in table else ()))
        return self.source({**{k: v for k, v in data.items() if k in alike}, **table}, at)

    def source(self, data: Mapping[str, Any], at: str) -> DataSource:
        kinds = [kind for kind in SOURCES if kind in data]
        if len(kinds) != 1:
            said = " and ".join(kinds) or "none"
            raise self.fail(at, f"expected exactly one of {', '.join(SOURCES)}; there is {said}")
        kind, files, name = kinds[0], {}, ""
        if kind == "idx":
            table = self.mapping(data["idx"], f"{at}.idx")
            files = {array: self.path(table, array, f"{at}.idx") for array in table}
            if not files:
                raise self.fail(f"{at}.idx", 'expected files by arrays\' names, as {image = "train-images-idx3-ubyte"}')
        elif kind == "function":
            files[""], name = self.function(data, at)
        else:
            files[""] = self.path(data, kind, at)
        for key, of in (("arguments", "function"), ("columns", "csv"), ("label", "csv")):
            if key in data and kind != of:
                raise self.fail(inside(at, key), f"is for {of}; leave it out")
        scale = self.mapping(data.get("scale", {}), f"{at}.scale")
        shapes = self.mapping(data.get("shapes", {}), f"{at}.shapes")
        columns = self.mapping(data.get("columns", {}), f"{at}.columns")
        return DataSource(
            kind,
            files,
            name,
            self.mapping(data.get("arguments", {}), f"{at}.arguments"),
            {array: tuple(self.names(columns, array, f"{at}.columns")) for array in columns},
            self.word(data, "label", at) if "label" in data else "label",
            {array: self.number(scale, array, f"{at}.scale", above=0) for array in scale},
            {array: self.extents(shapes, array, f"{at}.shapes") for array in shapes},
        )

    # -- training ------------------------------------------------------------------------------------------------------

    def loss(self, train: Mapping[str, Any]) -> Loss:
        kinds: dict[str, Callable[..., Any]] = {name: type(loss) for name, loss in LOSSES.items()}
        found: Loss = self.made(train, "loss", kinds, "name", "cross_entropy")
        return found

    def optimizer(self, train: Mapping[str, Any]) -> Optimizer:
        said = train.get("optimizer")
        own = isinstance(said, dict) and "learning_rate" in said
        if own and "learning_rate" in train:
            raise self.fail("train.optimizer.learning_rate", "is said in [train] as well; leave one of them out")
        rate: dict[str, Any] = {}
        if "learning_rate" in train:
            rate["learning_rate"] = self.number(train, "learning_rate", "train", 0)
        found: Optimizer = self.made(train, "optimizer", OPTIMIZERS, "name", "adam", **rate)
        return found

    def schedule(self, data: Mapping[str, Any], key: str, at: str) -> Schedule:
        table = data[key]
        more: dict[str, Any] = {}
        if isinstance(table, dict) and "then" in table:
            more["then"] = self.schedule(table, "then", inside(at, key))
            data = {**data, key: {name: value for name, value in table.items() if name != "then"}}
        found: Schedule = self.made(data, key, SCHEDULES, "kind", "cosine", at, **more)
        return found

    def made(
        self, data: Mapping[str, Any], key: str, kinds: Mapping[str, Callable[..., Any]], by: str, default: str,
        at: str = "train", **more: Any,
    ) -> Any:  # fmt: skip
        """One of several frozen dataclasses: by its name alone, or a table with that and its fields."""
        said, at = data.get(key, default), inside(at, key)
        table = {by: said} if isinstance(said, str) else dict(self.mapping(said, at))
        make = self.known(self.word(table, by, at), kinds, at, by)
        own = {each.name for each in fields(make)}
        self.only(table, (by, *own), at)
        given = {name: tuple(v) if isinstance(v, list) else v for name, v in table.items() if name != by}
        for name, value in given.items():
            if isinstance(value, dict):
                raise self.fail(inside(at, name), f"expected a value, found {shown_value(value)}")
        try:
            return make(**{**given, **more})
        except MapstoError as error:
            raise self.fail(at, str(error)) from None
        except TypeError as error:  # a field that has no default
            raise self.fail(at, str(error).rpartition(") ")[2]) from None

    def value(self, train: Mapping[str, Any], key: str) -> Any:
        """An argument of the trainer, or of its `fit`, looked at as far as that does not need the model."""
        if key in ("batch", "epochs", "threads", "accumulate", "checkpoint_every", "classes"):
            return self.whole(train, key, "train", 1)
        if key == "seed":
            return self.whole(train, key, "train", 0)
        if key in ("clip_value", "clip_norm"):
            return self.number(train, key, "train", above=0)
        if key in ("shuffle", "drop_last"):
            return self.flag(train, key, "train")
        if key in ("label", "output"):
            return self.word(train, key, "train")
        if key in ("parameters", "frozen"):
            return self.names(train, key, "train")
        if key == "formats":
            return self.formats(train[key])
        if key == "memory":
            return self.known(self.word(train, key, "train"), dict(zip(MEMORY, MEMORY, strict=True)), "train", key)
        if key == "rates":
            table = self.mapping(train[key], "train.rates")
            return {name: self.number(table, name, "train.rates", 0) for name in table}
        if key == "metrics":
            for name in self.names(train, key, "train"):
                self.known(name, METRICS, "train", key)
            return list(train[key])
        if key == "schedule":
            return self.schedule(train, key, "train")
        return self.early_stopping(train)

    def formats(self, said: Any) -> str | dict[str, str]:
        """A format's name, or a table of them by patterns of nodes."""
        given = said if isinstance(said, str) else dict(self.mapping(said, "train.formats"))
        try:
            formats_of(given)
        except MapstoError as error:
            raise self.fail("train.formats", str(error)) from None
        return given

    def early_stopping(self, train: Mapping[str, Any]) -> EarlyStopping:
        said = train["early_stopping"]
        if not isinstance(said, dict):
            return EarlyStopping(self.whole(train, "early_stopping", "train", 1))
        self.only(said, [each.name for each in fields(EarlyStopping)], "train.early_stopping")
        try:
            return EarlyStopping(**said)
        except MapstoError as error:
            raise self.fail("train.early_stopping", str(error)) from None

    # -- output and search ---------------------------------------------------------------------------------------------

    def output(self, data: Mapping[str, Any]) -> OutputFiles:
        self.only(data, [each.name for each in fields(OutputFiles)], "output")
        found = OutputFiles(**{key: self.path(data, key, "output") for key in data})
        if found.curve is not None:
            self.picture(data, "output")
        paths = list(found.paths().values())
        for key, path in found.paths().items():
            if paths.count(path) > 1:
                raise self.fail(inside("output", key), f"{brief(data[key])} is written for another key as well")
        return found

    def picture(self, data: Mapping[str, Any], at: str) -> None:
        if not data["curve"].endswith(_FORMATS_OF_PICTURES):
            ends = ", ".join(_FORMATS_OF_PICTURES)
            raise self.fail(inside(at, "curve"), f"expected a name that ends in one of {ends}, found {data['curve']!r}")

    def search(self, data: Mapping[str, Any]) -> SearchSettings:
        self.only(data, _SEARCH_KEYS, "search")
        table = self.mapping(data.get("ranges", {}), "search.ranges")
        if not table:
            raise self.fail("search.ranges", "expected one range at least, as learning_rate = {low = 1e-4, high = 0.1}")
        if "curve" in data:
            self.path(data, "curve", "search")
            self.picture(data, "search")
        return SearchSettings(
            tuple(self.range(table, key) for key in table),
            self.path(data, "study", "search") if "study" in data else f"{os.path.splitext(self.where)[0]}.study",
            self.whole(data, "trials", "search", 1) if "trials" in data else 20,
            self.word(data, "better", "search") if "better" in data else "validation",
            self.path(data, "curve", "search") if "curve" in data else None,
            self.whole(data, "seed", "search", 0) if "seed" in data else 0,
        )

    def range(self, table: Mapping[str, Any], key: str) -> SearchRange:
        at = inside("search.ranges", key)
        head = key.partition(".")[0]
        self.known(head, dict.fromkeys(_TRAIN_KEYS), "search.ranges", key)
        said = table[key]
        if isinstance(said, list):
            if not said:
                raise self.fail(at, "expected one choice at least")
            return SearchRange(f"train.{key}", choices=tuple(said))
        own = self.mapping(said, at)
        self.only(own, ("low", "high", "scale"), at)
        low, high = (self.number(own, end, at) for end in ("low", "high"))
        scale = self.word(own, "scale", at) if "scale" in own else LINEAR
        self.known(scale, dict.fromkeys((LINEAR, LOG)), at, "scale")
        if not low < high:
            raise self.fail(at, f"low {low:g} is not below high {high:g}")
        if scale == LOG and low <= 0:
            raise self.fail(inside(at, "low"), "expected a number above 0, as the scale is log")
        whole = all(isinstance(own[end], int) for end in ("low", "high"))
        return SearchRange(f"train.{key}", low, high, scale, whole)

    # -- pieces --------------------------------------------------------------------------------------------------------

    def path(self, data: Mapping[str, Any], key: str, at: str) -> str:
        return self.beside(self.word(data, key, at))

    def beside(self, path: str) -> str:
        """A path as it is from the working folder."""
        return os.path.join(os.path.dirname(self.where), path)

    def function(self, data: Mapping[str, Any], at: str) -> tuple[str, str]:
        said = self.word(data, "function", at)
        path, colon, name = said.rpartition(":")
        if not colon or not path or not name.isidentifier():
            raise self.fail(inside(at, "function"), f'expected "FILE.py:NAME", found {said!r}')
        return self.beside(path), name

    def number(
        self, data: Mapping[str, Any], key: str, at: str, least: float | None = None, most: float | None = None,
        above: float | None = None,
    ) -> float:  # fmt: skip
        found = data.get(key)
        number = real(found) if isinstance(found, (int, float)) else None
        if number is None or not math.isfinite(number):
            raise self.fail(inside(at, key), f"expected a number, found {shown_value(found)}")
        if (least is not None and number < least) or (most is not None and number > most):
            within = f"from {least:g} on" if most is None else f"from {least:g} to {most:g}"
            raise self.fail(inside(at, key), f"expected a number {within}, found {shown_value(found)}")
        if above is not None and number <= above:
            raise self.fail(inside(at, key), f"expected a number above {above:g}, found {shown_value(found)}")
        return number

    def whole(self, data: Mapping[str, Any], key: str, at: str, least: int) -> int:
        found = integer(data.get(key))
        if found is None or not least <= found < 1 << 62:
            said = shown_value(data.get(key))
            raise self.fail(inside(at, key), f"expected a whole number from {least} on, found {said}")
        return found

    def flag(self, data: Mapping[str, Any], key: str, at: str) -> bool:
        found = data.get(key)
        if not isinstance(found, bool):
            raise self.fail(inside(at, key), f"expected true or false, found {shown_value(found)}")
        return found

    def extents(self, data: Mapping[str, Any], key: str, at: str) -> tuple[int, ...]:
        found = data.get(key)
        if not isinstance(found, list) or any(integer(each) is None or each < 1 for each in found):
            raise self.fail(inside(at, key), f"expected a list of whole numbers from 1 on, found {shown_value(found)}")
        return tuple(found)

    def dims(self, data: Mapping[str, Any], key: str, at: str) -> tuple[int | str | None, ...]:
        found = data.get(key)
        if not isinstance(found, list) or any(not isinstance(each, str) and integer(each) is None for each in found):
            said = f'expected a list of sizes and names of open ones, as ["batch", 3], found {shown_value(found)}'
            raise self.fail(inside(at, key), said)
        return tuple(None if each == "?" else each for each in found)
