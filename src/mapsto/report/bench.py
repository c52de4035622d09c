"""Speed beside other engines: each in a process of its own, kept alive, run alternately; medians and quartiles.

Alternating is the point: a machine's clock and its neighbours change from minute to minute, and a ratio of two numbers
taken a minute apart says as much about that as about the engines. In each round every engine has one turn, in an order
that rotates; a turn is a run that is not counted (the caches held another engine's data) and then some that are. The
ratio of two engines is the median, over the rounds, of the ratio of their turns' medians.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from mapsto import budget
from mapsto.arguments import Progress, Shapes
from mapsto.errors import ExecutionError, InternalError
from mapsto.report import machine
from mapsto.report.arrays import load_arrays, save_arrays
from mapsto.report.engines import Feed

OURS = "mapsto"
TURN_SECONDS = 0.1  # what the counted runs of one turn take, about
MIN_ROUNDS = 5
MAX_ROUNDS = 200
MAX_RUNS = 2000  # of one turn


def silent(done: int, total: int, label: str) -> None:
    """Progress that nobody sees."""


@dataclass(frozen=True)
class Quartiles:
    """Lower quartile, median, upper quartile of a sample, in the sample's unit."""

    low: float
    median: float
    high: float
    count: int

    @staticmethod
    def of(sample: Sequence[float]) -> Quartiles:
        if len(sample) == 1:
            return Quartiles(sample[0], sample[0], sample[0], 1)
        low, middle, high = statistics.quantiles(sample, n=4, method="inclusive")
        return Quartiles(low, middle, high, len(sample))

    def to_json(self) -> dict[str, float]:
        return {"q1": self.low, "median": self.median, "q3": self.high, "count": self.count}


@dataclass(frozen=True)
class Timing:
    """One engine: seconds of a run, and what opening it (for mapsto: compiling, nothing cached) took."""

    engine: str
    seconds: Quartiles
    open_seconds: float
    first_run_seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "seconds": self.seconds.to_json(),
            "open_seconds": self.open_seconds,
            "first_run_seconds": self.first_run_seconds,
        }


@dataclass(frozen=True)
class BenchReport:
    """The engines side by side. `ratios`: our time over that engine's (below 1: we are faster)."""

    model: str
    threads: int
    timings: tuple[Timing, ...]
    ratios: Mapping[str, Quartiles]
    absent: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, list[dict[str, np.ndarray]]] = field(default_factory=dict, repr=False)

    def timing(self, engine: str) -> Timing | None:
        return next((timing for timing in self.timings if timing.engine == engine), None)

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "threads": self.threads,
            "timings": [timing.to_json() for timing in self.timings],
            "ratios": {engine: ratio.to_json() for engine, ratio in self.ratios.items()},
            "absent": dict(self.absent),
            "machine": machine.describe(),
        }


class EngineProcess:
    """The parent's end of a `report.worker`. `engine` may carry a label, as in `mapsto@before`; `python`: the
    interpreter that runs it (another one has its own packages: an older mapsto, another peer).
    """

    def __init__(self, engine: str, python: str = sys.executable) -> None:
        self.engine = engine
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        foreign = python != sys.executable
        environment = {k: v for k, v in os.environ.items() if not (foreign and k.startswith("PYTHON"))}
        try:
            self._process = subprocess.Popen(
                [python, "-m", "mapsto.report.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env=environment,
            )
        except OSError as error:
            self._errors.close()
            raise ExecutionError(f"{engine}: {python} cannot be started: {error.strerror}") from None

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends a request, waits for its answer. Raises ExecutionError where the engine failed or its process ended."""
        answer = self.answer_to(**request)
        if "error" in answer:
            raise ExecutionError(f"{self.engine}: {answer['error']}")
        return answer

    def answer_to(self, **request: Any) -> dict[str, Any]:
        requests, answers = self._pipes()
        try:
            requests.write(json.dumps(request) + "\n")
            requests.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ExecutionError(f"the process of {self.engine} ended: {self._last_words()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None and self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def _last_words(self) -> str:
        code = self._process.wait(timeout=10)
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return f"exit code {code}" + (f"\n{chr(10).join(lines[-12:])}" if lines else "")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        requests, answers = self._pipes()
        try:
            requests.close()
            self._process.wait(timeout=10)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.wait()
        answers.close()
        self._errors.close()


@dataclass(frozen=True)
class BenchSetup:
    """What to measure. `seconds`: about how long each engine runs in all. `pythons`: interpreters of the engines
    that do not run in this one. `device`: ours, or several with commas
    between, with `pins` of works to them. `isa`, `plan`, `exact_integers`, `formats`: see `engines.Setup`.
    """

    model: Path
    feeds: Sequence[Feed]
    shapes: Shapes | None = None
    threads: int = 1
    seconds: float = 3.0
    keep_outputs: bool = False
    pythons: Mapping[str, str] = field(default_factory=dict)
    data_root: Path | None = None
    device: str = "cpu"
    pins: tuple[tuple[str, str], ...] = ()
    isa: str | None = None
    plan: str | None = None
    exact_integers: bool = False
    formats: Mapping[str, str] | None = None


def measure(setup: BenchSetup, engines: Sequence[str], progress: Progress = silent) -> BenchReport:
    """Opens the engines, runs them alternately. An engine that is not installed or cannot run the model is in `absent`
    with the reason; where that is ours, its error is raised.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mapsto-bench-")))
        feeds = _save_feeds(folder, setup.feeds)
        opened: dict[str, tuple[EngineProcess, dict[str, Any]]] = {}
        absent: dict[str, str] = {}
        for i, engine in enumerate(engines):
            progress(i, len(engines), f"opening {engine}")
            process = stack.enter_context(EngineProcess(engine, setup.pythons.get(engine, sys.executable)))
            answer = _open(process, setup, feeds)
            if isinstance(answer, str):
                absent[engine] = answer
            else:
                opened[engine] = (process, answer)
        processes = {name: process for name, (process, _) in opened.items()}
        kept = {}
        if setup.keep_outputs:
            kept = {name: _outputs(process, folder, len(feeds)) for name, process in processes.items()}
        turns = _alternate(processes, setup.seconds, progress)
    timings = tuple(_timing(name, turns[name], info) for name, (_, info) in opened.items())
    return BenchReport(str(setup.model), setup.threads, timings, _ratios(turns), absent, kept)


def _timing(engine: str, turns: Sequence[Sequence[float]], info: Mapping[str, float]) -> Timing:
    every = Quartiles.of([seconds for turn in turns for seconds in turn])
    return Timing(engine, every, info["open_seconds"], info["first_run_seconds"])


def _save_feeds(folder: Path, feeds: Sequence[Feed]) -> list[str]:
    paths = [folder / f"feed{i}.npz" for i in range(len(feeds))]
    for path, feed in zip(paths, feeds, strict=True):
        save_arrays(path, feed)
    return [str(path) for path in paths]


def _raised(limits: budget.Budget) -> dict[str, float]:
    """The limits that differ from the defaults: an older version (`--before`) does not know all that there are."""
    usual = asdict(budget.Budget())
    return {name: limit for name, limit in asdict(limits).items() if limit != usual[name]}


def _open(process: EngineProcess, setup: BenchSetup, feeds: list[str]) -> dict[str, Any] | str:
    """The worker's answer, or why a peer is absent. Raises ExecutionError where it is ours that cannot be opened."""
    shapes = None if setup.shapes is None else {name: list(dims) for name, dims in setup.shapes.items()}
    request = {
        "model": str(setup.model),
        "shapes": shapes,
        "threads": setup.threads,
        "native_only": False,  # the worker of an older version (`--before`) looks for it
        "data_root": None if setup.data_root is None else str(setup.data_root),
        "budget": _raised(budget.default()),
        "device": setup.device,
        "pins": setup.pins,
        "isa": setup.isa,
        "plan": setup.plan,
        "exact_integers": setup.exact_integers,
        "formats": None if setup.formats is None else dict(setup.formats),
    }
    try:
        answer = process.answer_to(do="open", engine=process.engine.partition("@")[0], feeds=feeds, **request)
    except ExecutionError as error:
        answer = {"error": str(error)}
    reason = answer.get("missing") or answer.get("error")
    if reason is None:
        return answer
    if process.engine == OURS:
        raise InternalError(str(reason)) if answer.get("internal") else ExecutionError(str(reason))
    return str(reason)


def _outputs(process: EngineProcess, folder: Path, count: int) -> list[dict[str, np.ndarray]]:
    paths = [folder / f"{process.engine}{i}.npz" for i in range(count)]
    process.ask(do="outputs", paths=[str(path) for path in paths])
    return [load_arrays(path) for path in paths]


def _alternate(
    processes: Mapping[str, EngineProcess], seconds: float, progress: Progress
) -> dict[str, list[list[float]]]:
    """Seconds of every counted run, by engine and round."""
    runs = {name: _runs_a_turn(process) for name, process in processes.items()}
    turns: dict[str, list[list[float]]] = {name: [] for name in processes}
    began = time.perf_counter()
    rounds = 0
    while rounds < MIN_ROUNDS or (rounds < MAX_ROUNDS and time.perf_counter() - began < seconds * len(processes)):
        for name in _rotated(list(processes), rounds):
            answer = processes[name].ask(do="time", warm=1, runs=runs[name])
            turns[name].append([nanoseconds / 1e9 for nanoseconds in answer["nanoseconds"]])
        rounds += 1
        spent, planned = time.perf_counter() - began, seconds * len(processes)
        progress(int(min(spent, planned) * 100), int(planned * 100), f"round {rounds}")
    return turns


def _runs_a_turn(process: EngineProcess) -> int:
    """How many runs fill a turn, from a few that are thrown away."""
    sample = process.ask(do="time", warm=1, runs=3)["nanoseconds"]
    return int(min(MAX_RUNS, max(1, TURN_SECONDS / (statistics.median(sample) / 1e9))))


def _rotated(names: list[str], by: int) -> Iterator[str]:
    return (names[(i + by) % len(names)] for i in range(len(names)))


def _ratios(turns: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Quartiles]:
    """Our time over each peer's, round by round."""
    if OURS not in turns:
        return {}
    ours = [statistics.median(turn) for turn in turns[OURS]]
    return {
        name: Quartiles.of([mine / statistics.median(turn) for mine, turn in zip(ours, theirs, strict=True)])
        for name, theirs in turns.items()
        if name != OURS
    }
