"""A search for better settings of a recipe: trials within its ranges, by Optuna (extra `search`).

What needs no other code (rates, batches, epochs, schedules) compiles nothing: a trial takes a trainer that is there,
with its state set back. Trials that are worse than the median of the others after as many epochs are ended early. All
are kept in the study's file, each as soon as it is done; what was interrupted goes on from there.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mapsto.boundary import public
from mapsto.errors import ArgumentError, ExecutionError, ModelError, UnsupportedError
from mapsto.files import check_writable, plain_file
from mapsto.train.curve import draw_trials, figure_class
from mapsto.train.history import EpochReport
from mapsto.train.metrics import is_larger_better
from mapsto.train.recipe import LOG, SearchRange, SearchSettings, TrainingRecipe, with_sets
from mapsto.train.running import Prepared, prepared_recipe
from mapsto.train.trainer import Trainer

DONE, PRUNED, FAILED = "done", "pruned", "failed"
_STARTUP = 3  # trials that are never pruned: the median is of these at least
_TRAINERS = 4  # kept, the last ones
_NAME = "mapsto"


@dataclass(frozen=True)
class SearchTrial:
    """One trial. values: by keys of the recipe; figure: the best of its epochs (None where it failed); state: `done`,
    `pruned` or `failed`; epochs: how many it had.
    """

    number: int
    values: Mapping[str, Any]
    figure: float | None
    state: str
    epochs: int


@dataclass(frozen=True)
class SearchResult:
    """All trials of a study, those of earlier calls among them. compiled: how often this call compiled a step."""

    study: str
    better: str
    trials: tuple[SearchTrial, ...]
    compiled: int

    @property
    def larger(self) -> bool:
        return bool(is_larger_better(self.better))

    @property
    def best(self) -> SearchTrial | None:
        done = [each for each in self.trials if each.state == DONE and each.figure is not None]
        return min(done, key=lambda each: -each.figure if self.larger else each.figure, default=None)  # type: ignore


@public
def search_settings(
    recipe: TrainingRecipe,
    trials: int | None = None,
    told: Callable[[SearchTrial], None] = lambda trial: None,
    progress: Callable[[int, int, str], None] | None = None,
) -> SearchResult:
    """Tries settings of a recipe, until the study has `trials` (None: as the recipe says). told: of each that is done.

    Raises UnsupportedError without Optuna, ArgumentError for a recipe without ranges or validation data, and for a
    study of other ranges, ModelError for a study's file that is none, and what training raises.
    """
    settings = _settings(recipe)
    optuna = _optuna()
    check_writable(settings.study)
    if settings.curve is not None:
        check_writable(settings.curve)
        figure_class()
    study = _study(optuna, settings)
    trying = _Trying(recipe, prepared_recipe(recipe), progress)
    wanted = settings.trials if trials is None else trials
    while len(study.get_trials(deepcopy=False)) < wanted:
        asked = study.ask()
        told(_tried(optuna, study, asked, trying, settings))
    result = SearchResult(settings.study, settings.better, tuple(_trials(study)), trying.compiled)
    if settings.curve is not None:
        figures = [each.figure if each.state == DONE else None for each in result.trials]
        draw_trials(figures, settings.better, result.larger, settings.curve, os.path.basename(recipe.path))
    return result


def _settings(recipe: TrainingRecipe) -> SearchSettings:
    """What there is to search. Raises ArgumentError where that is nothing, ParseError for values that the recipe does
    not take.
    """
    if recipe.search is None:
        raise ArgumentError(f"{recipe.path}: there is no table [search.ranges], which says what to search")
    better = recipe.search.better
    if better not in ("validation", "loss") and is_larger_better(better) is None:
        raise ArgumentError(f"{recipe.path}: search.better: there is no {better!r}: say validation, loss or a metric")
    if recipe.validation is None and better != "loss":
        raise ArgumentError(
            f"{recipe.path}: search.better: {better} is of validation data, and the recipe has none: data.validation"
        )
    for each in recipe.search.ranges:  # that the recipe takes them
        for value in each.choices or ((int(each.low), int(each.high)) if each.whole else (each.low, each.high)):
            with_sets(recipe, {each.key: value})
    return recipe.search


# ---- trials ----------------------------------------------------------------------------------------------------------


@dataclass
class _Trying:
    """What trials share: model and data, trainers by what their code depends on, the weights that all begin with."""

    recipe: TrainingRecipe
    ready: Prepared
    progress: Callable[[int, int, str], None] | None
    compiled: int = 0
    made: dict[str, tuple[Trainer, dict[str, np.ndarray]]] = field(default_factory=dict)
    weights: dict[str, np.ndarray] | None = None

    def trainer(self, recipe: TrainingRecipe) -> Trainer:
        """A trainer as if it were new, with the rate of a recipe."""
        plain = type(recipe.optimizer)(**{**vars(recipe.optimizer), "learning_rate": 0.0})
        key = repr((recipe.loss, plain, sorted(recipe.trainer.items(), key=lambda item: item[0])))
        if key not in self.made:
            new = self.ready.trainer(recipe)
            self.compiled += 1
            start = {name: array.copy() for name, array in new.state().items()}
            if self.weights is None:
                self.weights = {n: a for n, a in start.items() if n.startswith(("parameter/", "statistic/"))}
            # a module's weights are its own memory, in which the trials before have trained
            start.update({n: a for n, a in self.weights.items() if n in start and start[n].shape == a.shape})
            while len(self.made) >= _TRAINERS:
                self.made.pop(next(iter(self.made)))
            self.made[key] = new, start
        trainer, start = self.made[key]
        trainer.load_state(start)
        trainer.learning_rate = recipe.optimizer.learning_rate
        return trainer


def _tried(optuna: Any, study: Any, asked: Any, trying: _Trying, settings: SearchSettings) -> SearchTrial:
    """One trial, told to the study, whatever becomes of it."""
    states = optuna.trial.TrialState
    values = {each.key: _suggested(asked, each) for each in settings.ranges}
    asked.set_user_attr("values", values)  # choices as themselves
    figures: list[float] = []
    pruned = [False]

    def epoch(report: EpochReport) -> bool:
        figure = _figure(report, settings.better)
        figures.append(figure)
        asked.report(figure, report.number)
        pruned[0] = bool(asked.should_prune())
        return pruned[0]

    try:
        recipe = with_sets(trying.recipe, values)
        trainer = trying.trainer(recipe)
        recipe = with_sets(recipe, {"output": {}})  # a trial writes nothing
        trying.ready.fitted(trainer, recipe, False, epoch, trying.progress)
    except ExecutionError:  # it diverged
        study.tell(asked, state=states.FAIL)
        return _trial(study.trials[asked.number])
    except BaseException:
        study.tell(asked, state=states.FAIL)
        raise
    if pruned[0]:
        study.tell(asked, state=states.PRUNED)
    else:
        study.tell(asked, max(figures) if is_larger_better(settings.better) else min(figures))
    return _trial(study.trials[asked.number])


def _figure(report: EpochReport, better: str) -> float:
    figures = {"loss": report.loss, "validation": report.validation, **report.metrics}
    figure = figures.get(better)
    if figure is None:
        known = ", ".join(name for name, value in figures.items() if value is not None)
        raise ArgumentError(f"search.better: there is no {better!r}; there is {known}")
    return figure


def _suggested(trial: Any, each: SearchRange) -> Any:
    if each.choices:
        return each.choices[trial.suggest_categorical(each.key, list(range(len(each.choices))))]
    if each.whole:
        return trial.suggest_int(each.key, int(each.low), int(each.high), log=each.scale == LOG)
    return trial.suggest_float(each.key, each.low, each.high, log=each.scale == LOG)


# ---- studies ---------------------------------------------------------------------------------------------------------


def _optuna() -> Any:
    try:
        import optuna
        from optuna.storages import JournalStorage  # noqa: F401
        from optuna.storages.journal import JournalFileBackend  # noqa: F401
    except ImportError:
        raise UnsupportedError(
            "a search is done by Optuna, which is not installed: pip install 'mapsto[search]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _study(optuna: Any, settings: SearchSettings) -> Any:
    """The study of a file, or a new one there. What was killed in the middle of a trial has failed there."""
    there = os.path.exists(settings.study)
    if there:
        with plain_file(settings.study, "study") as file:
            _see_journal(settings.study, file.read(1 << 16))
    with _as_ours(settings.study):
        backend = optuna.storages.journal.JournalFileBackend(settings.study)
        storage = optuna.storages.JournalStorage(backend)
        study = optuna.create_study(
            storage=storage,
            study_name=_NAME,
            direction="maximize" if is_larger_better(settings.better) else "minimize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=1),
        )
        known = len(study.get_trials(deepcopy=False))
        # the sampler's own state is in no file: what goes on draws by another seed than what it began with
        study.sampler = optuna.samplers.TPESampler(seed=settings.seed + known)
        said = {"better": settings.better, "ranges": [repr(each) for each in settings.ranges]}
        before = study.user_attrs.get("search")
        if before is None:
            study.set_user_attr("search", said)
        elif before != said:
            raise ArgumentError(
                f"{settings.study}: this study is of other ranges: {_told_apart(before, said)}; name another file by "
                "search.study, or delete this one"
            )
        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _told_apart(before: Any, said: Mapping[str, Any]) -> str:
    known = before if isinstance(before, Mapping) else {}
    if known.get("better") != said["better"]:
        return f"better was {known.get('better')}, and is {said['better']}"
    old = known.get("ranges") or []
    return f"it has {[each for each in old if each not in said['ranges']] or 'fewer'}"


def _see_journal(path: str, begin: bytes) -> None:
    """Raises ModelError for a file that no study has been written to."""
    first = begin.partition(b"\n")[0]
    try:
        is_journal = not begin or "op_code" in json.loads(first)
    except (ValueError, TypeError, RecursionError):
        is_journal = False
    if not is_journal:
        raise ModelError(f"{path} is no study's file; it would be written over: name another file by search.study")


@contextmanager
def _as_ours(path: str) -> Iterator[None]:
    """What Optuna raises for a damaged file becomes a ModelError, with that as its cause."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ArgumentError, OSError):
        raise
    except Exception as error:
        raise ModelError(f"{path} cannot be read as a study ({type(error).__name__}: {error})") from error


def _trials(study: Any) -> Iterator[SearchTrial]:
    for trial in study.get_trials(deepcopy=False):
        yield _trial(trial)


def _trial(trial: Any) -> SearchTrial:
    figures = dict(trial.intermediate_values)
    state = {"COMPLETE": DONE, "PRUNED": PRUNED}.get(trial.state.name, FAILED)
    figure = trial.value if state == DONE else figures[max(figures)] if figures else None
    return SearchTrial(trial.number, dict(trial.user_attrs.get("values", trial.params)), figure, state, len(figures))
