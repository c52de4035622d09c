"""`mapsto.tune`: other schedules of a model's kernels, measured; what is faster is kept for what is compiled next."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mapsto import budget as budgets
from mapsto.arguments import Progress, brief, real, shapes_of, telling
from mapsto.boundary import public
from mapsto.devices.named import TUNABLE, tunable_backend
from mapsto.errors import ArgumentError
from mapsto.ir.graph import Graph
from mapsto.plan.decide import decide
from mapsto.plan.guesses import guesses
from mapsto.plan.initial import constants_of
from mapsto.plan.patterns import Sizes, extent
from mapsto.runtime.cpus import thread_count
from mapsto.session.compile import asked_graph
from mapsto.session.pairs import share_of
from mapsto.session.request import Request
from mapsto.session.tuner import AlternatingTimer, TunedForm, Tuner, TunerResult

LEAST_SECONDS, MOST_SECONDS = 1.0, 86400.0
_PACE = 30  # parts of the budget: what timing takes of a round
_LONGEST_PACE = 2.0  # seconds


@dataclass(frozen=True)
class TuneReport:
    """What tuning a model came to. forms: the kernels that are faster otherwise. before, after: median
    seconds of a run, timed alternately at the end (None: it did not come to that); share: the median of their ratios.
    file: where it is kept ("": nothing is, `because` says why).
    """

    forms: tuple[TunedForm, ...]
    looked_at: int
    tried: int
    before: float | None
    after: float | None
    share: float
    seconds: float
    threads: int
    file: str
    because: str

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@public
def tune(
    model: Any,
    budget: float = 60.0,
    threads: int | None = None,
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    inputs: Mapping[str, Any] | None = None,
    progress: Any = None,
    cache: bool = True,
    data_root: str | os.PathLike[str] | None = None,
) -> TuneReport:
    """Measure other schedules of a model's kernels on this machine, and keep those that are faster.

    Only schedules that are predicted within 25 % of the best are tried, each in the model, on its operands, beside
    what is compiled now, by turns. What saves 3 % of its kernel's time, again when it is timed anew, is put together,
    and the whole model is timed before and after: only where that is faster is anything kept. Equal kernels of any
    model are compiled so from then on; their plans say "tuned".

    budget: seconds that it may take, about. inputs: arrays by name; others are random, in the sizes that costs guess
    where sizes are open. model, threads, shapes, progress, cache, data_root: as for `mapsto.compile`.

    Raises what `mapsto.compile` raises; ArgumentError where nothing could be kept, FileError where it cannot be
    written. An interrupt (KeyboardInterrupt) leaves everything as it was.
    """
    began = time.monotonic()
    seconds = _seconds(budget)
    count, tell = thread_count(threads), telling(progress)
    asked = Request(model, shapes_of(shapes), count, None, cache, None, None, None, True, data_root, (), TUNABLE)
    with tunable_backend(cache) as backend:
        if refusal := backend.tuning_refusal():
            raise ArgumentError(f"tune: {refusal}")
        with budgets.metering(budgets.default()) as meter, np.errstate(all="ignore"):
            graph = asked_graph(asked, backend).graph
            constants = constants_of(graph)
            mapped = decide(graph, backend.maker(constants))
        timer = AlternatingTimer(_operands(graph, inputs or {}))

        @contextmanager
        def metered() -> Iterator[None]:
            """Of each program that is made, what a compile may ask for."""
            with budgets.metering(budgets.default()) as own, np.errstate(all="ignore"):
                for name, amount in meter.earned.items():
                    own.earn(name, amount)
                yield

        tuner = Tuner(
            mapped, constants, backend, count, timer, began + seconds, _told(tell, began, seconds), metered,
            pace=min(seconds / _PACE, _LONGEST_PACE),
        )  # fmt: skip
        found = tuner.tuned()
        file = "" if found.tuning is None else backend.keep_tuning(found.tuning)
    return _report(found, file, time.monotonic() - began, count)


def _report(found: TunerResult, file: str, seconds: float, threads: int) -> TuneReport:
    before = statistics.median(old for old, _ in found.whole) if found.whole else None
    after = statistics.median(new for _, new in found.whole) if found.whole else None
    share = share_of(found.whole)
    counts = found.looked_at, found.tried
    return TuneReport(found.forms, *counts, before, after, share, seconds, threads, file, found.because)


def _seconds(budget: Any) -> float:
    seconds = real(budget)
    if seconds is None or not math.isfinite(seconds) or not LEAST_SECONDS <= seconds <= MOST_SECONDS:
        raise ArgumentError(
            f"budget: {brief(budget)} is no time to tune for; give seconds from {LEAST_SECONDS:g} to {MOST_SECONDS:g}"
        )
    return seconds


def _told(tell: Progress | None, began: float, seconds: float) -> Any:
    def say(what: str) -> None:
        if tell is not None:
            spent = min(time.monotonic() - began, seconds)
            tell(int(1000 * spent / seconds), 1000, what)

    return say


def _operands(graph: Graph, given: Mapping[str, Any]) -> list[np.ndarray]:
    """An array for each input: the one that is given, else random numbers (integers: zeros, which are good indices)."""
    unknown = [name for name in given if name not in {value.name for value in graph.inputs}]
    if unknown:
        names = ", ".join(value.name for value in graph.inputs)
        raise ArgumentError(f"inputs: the model has no input {brief(unknown[0])}; it has: {names}")
    rng, sizes = np.random.default_rng(0), Sizes.of(guesses(graph))
    found = []
    for value in graph.inputs:
        if value.name in given:
            found.append(np.asarray(given[value.name]))
            continue
        shape = [extent(dim, sizes) for dim in value.shape]
        numbers = rng.standard_normal(shape) if value.dtype.is_float else np.zeros(shape)
        found.append(numbers.astype(value.dtype.numpy))
    return found
